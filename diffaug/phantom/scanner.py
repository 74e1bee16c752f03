"""The phantom's scanner: from tissues to an image with contrast, coils, blur, ghosts and Rician noise."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from diffaug.phantom.anatomy import Anatomy, Array
from diffaug.phantom.drawing import smooth_field
from diffaug.phantom.parameters import PhantomParameters
from diffaug.phantom.sites import PLAIN_SIGNALS

# Signal that contrast agent adds at full enhancement, per tissue.
UPTAKE = {
    "blood": 0.65,
    "vessel": 0.6,
    "lesion": 0.75,
    "heart": 0.4,
    "liver": 0.3,
    "gland": 0.45,
    "strand": 0.15,
    "skin": 0.25,
    "muscle": 0.06,
}


def measure(parameters: PhantomParameters, anatomy: Anatomy, *, spacing: tuple[float, ...]) -> Array:
    """Make the image that the scanner would have shown.

    Args:
        parameters: The scan's settings.
        anatomy: What lay in the scanner.
        spacing: Voxel size along Z, Y, X in mm.

    Returns:
        Image (Z, Y, X) float32 in scanner units.
    """
    scan = parameters.scan
    rng = np.random.default_rng(parameters.noise_seed)
    signals = tissue_signals(parameters)
    image = _fat(parameters, anatomy, signals["fat"])
    fat = image.copy()
    for tissue, weight in anatomy.tissues.items():
        value = fat if tissue in ("fat", "mediastinum") else signals[tissue]
        if tissue in ("gland", "lesion", "muscle", "heart", "liver"):
            value = value * (1 + 0.16 * anatomy.grain)
        image += weight * (value - image)
    image *= anatomy.inside
    image *= _coils(parameters, anatomy, rng, spacing)

    height, shift = scan.ghost
    beating = image * anatomy.tissues["blood"] * height
    step = round(shift * image.shape[2])
    image += np.roll(beating, step, axis=2) + np.roll(beating, -step, axis=2)
    image = gaussian_filter(image, [blur / step for blur, step in zip(scan.blur, spacing, strict=True)], truncate=3.0)
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(scan.noise)
    return (np.hypot(image + real, imaginary) * scan.brightness).astype(np.float32)


def tissue_signals(parameters: PhantomParameters) -> dict[str, float]:
    """Say how bright each tissue is in this scan, before coils and noise.

    Args:
        parameters: The scan's settings.

    Returns:
        Signal per tissue; 1 is about that of unsuppressed fat.
    """
    scan = parameters.scan
    signals = dict(scan.signals)
    signals["vessel"] = signals["blood"]
    for tissue, uptake in UPTAKE.items():
        share = scan.background_enhancement if tissue == "gland" else 1.0
        signals[tissue] += uptake * scan.enhancement * share
    return signals


def _fat(parameters: PhantomParameters, anatomy: Anatomy, signal: float) -> Array:
    """Signal of fat everywhere: even, but for a region where its suppression failed."""
    height, side, x, y, z = parameters.scan.suppression_failure
    fat = np.full(anatomy.inside.shape, signal, np.float32)
    if height:
        breast = parameters.right if side < 0 else parameters.left
        away = [(c - p) / 28 for c, p in zip(anatomy.coordinates, (z, y, side * breast.centre + x), strict=True)]
        fat += height * (PLAIN_SIGNALS["fat"] - signal) * np.exp(-sum(a**2 for a in away))
    return fat * (1 + 0.07 * anatomy.grain)


def _coils(
    parameters: PhantomParameters, anatomy: Anatomy, rng: np.random.Generator, spacing: tuple[float, ...]
) -> Array:
    """Sensitivity of one coil per breast, and a further smooth bias; about 1 in the breasts."""
    scan = parameters.scan
    z, y, x = anatomy.coordinates
    sensitivity = np.full(z.shape, 0.12, np.float32)
    for side, breast, gain in zip((-1, 1), (parameters.right, parameters.left), scan.coil_gain, strict=True):
        square = (x - side * (breast.centre + 25)) ** 2 + (y + 0.55 * breast.depth) ** 2 + 0.6 * (z - breast.level) ** 2
        sensitivity += gain / (1 + square / scan.coil_reach**2)
    axes = tuple(np.arange(n, dtype=np.float32) * step - 100 for n, step in zip(z.shape, spacing, strict=True))
    shading = scan.shading * smooth_field(rng, (axes[0], axes[1], axes[2]), (90, 90, 90))
    return np.exp(scan.coil_strength * np.log(sensitivity) + shading)
