"""How a copy of a scan may differ from it: drawn first, applied afterwards. Trains the embedding and tests the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from diffaug.scans.windows import Window, cut

COPY_KINDS = ("exact", "mirrored", "shifted", "noisy", "smoothed", "intensities scaled", "warped")

SHIFT = 0.075  # most, of the window's edge: 3.6 voxels of 48
WARP = 0.03  # standard deviation of the displacement, of the edge: 1.5 voxels of 48, hence up to about 4
FIELD_KNOTS = 4  # of the displacement field along each axis
COPY_NOISE = 0.2  # standard deviation; volumes span [-1, 1]
SMOOTHING = 1.5  # most, in voxels: what an autoencoder with a compression of four loses
SCALES, OFFSETS = (0.5, 1.3), (-0.2, 0.2)


@dataclass(frozen=True)
class Change:
    """What is done to a volume, in this order.

    Attributes:
        mirrored: Whether left and right change places.
        shift: By how much of its edge (Z, Y, X) the window moves.
        warp: Displacements `(3, KNOTS, KNOTS, KNOTS)` along (Z, Y, X), as shares of the edge; None for none.
        smoothing: Standard deviation of a Gaussian in voxels.
        scale: Factor of the intensities.
        offset: Added to the intensities.
        noise: Standard deviation of white noise.
        seed: Of the noise.
    """

    mirrored: bool = False
    shift: tuple[float, ...] = (0.0, 0.0, 0.0)
    warp: np.ndarray | None = None
    smoothing: float = 0.0
    scale: float = 1.0
    offset: float = 0.0
    noise: float = 0.0
    seed: int = 0


def draw(kind: str, rng: np.random.Generator) -> Change:
    """Draw a change of one kind.

    Args:
        kind: One of `COPY_KINDS`.
        rng: Source of randomness.

    Returns:
        The change.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind == "exact":
        return Change()
    if kind == "mirrored":
        return Change(mirrored=True)
    if kind == "shifted":
        return Change(shift=tuple(map(float, rng.uniform(-SHIFT, SHIFT, 3))))
    if kind == "noisy":
        return Change(noise=COPY_NOISE, seed=int(rng.integers(2**32)))
    if kind == "smoothed":
        return Change(smoothing=SMOOTHING)
    if kind == "intensities scaled":
        return Change(scale=float(rng.uniform(*SCALES)), offset=float(rng.uniform(*OFFSETS)))
    if kind == "warped":
        return Change(warp=rng.normal(0, WARP, (3, FIELD_KNOTS, FIELD_KNOTS, FIELD_KNOTS)))
    raise ValueError(f"no kind of change: {kind!r}")


def draw_mixture(rng: np.random.Generator) -> Change:
    """Draw a change that joins all kinds, each weaker or stronger, some left out: what the embedding learns to ignore.

    Args:
        rng: Source of randomness.

    Returns:
        The change.
    """
    drawn = {kind: draw(kind, rng) for kind in COPY_KINDS}
    strength = rng.uniform(0, 1, 3)
    warp = drawn["warped"].warp
    assert warp is not None
    return replace(
        drawn["intensities scaled"],
        mirrored=bool(rng.random() < 0.5),
        shift=drawn["shifted"].shift,
        warp=warp * strength[0] * 1.3,
        smoothing=SMOOTHING * strength[1] if rng.random() < 0.5 else 0.0,
        noise=COPY_NOISE * strength[2] if rng.random() < 0.5 else 0.0,
        seed=drawn["noisy"].seed,
    )


def apply(change: Change, scan: np.ndarray, window: Window, shape: Sequence[int], mirror: int) -> np.ndarray:
    """Cut a window out of a scan and change it; a shift shows what the scan has beyond the window.

    Args:
        change: What to do.
        scan: `(C, Z, Y, X)` in [-1, 1], possibly memory-mapped.
        window: Where, before the shift.
        shape: Voxels (Z, Y, X) of the window.
        mirror: Array axis (0 to 2) that runs left-right.

    Returns:
        `(C, *shape)` float32 in [-1, 1].
    """
    moved = tuple(o + round(s * n) for o, s, n in zip(window.offset, change.shift, shape, strict=True))
    volume = cut(scan, replace(window, offset=moved), shape)
    if change.mirrored:
        volume = np.flip(volume, 1 + mirror)
    if change.warp is not None:
        volume = _warped(volume, change.warp)
    if change.smoothing:
        volume = gaussian_filter(volume, (0, *[change.smoothing] * 3), mode="reflect", truncate=3)
    volume = volume * change.scale + change.offset
    if change.noise:
        noise = np.random.default_rng(change.seed).standard_normal(volume.shape, dtype=np.float32)
        volume = volume + change.noise * noise
    return np.clip(volume, -1, 1).astype(np.float32)


def change(kind: str, volume: np.ndarray, rng: np.random.Generator, mirror: int) -> np.ndarray:
    """Change a volume; what a shift moves in from outside is the volume mirrored at its edge.

    Args:
        kind: One of `COPY_KINDS`.
        volume: `(C, Z, Y, X)` in [-1, 1].
        rng: Source of randomness.
        mirror: Array axis (0 to 2) that runs left-right.

    Returns:
        The same shape, float32.
    """
    shape = volume.shape[1:]
    return apply(draw(kind, rng), volume, Window((0, 0, 0), shape), shape, mirror)


def _warped(volume: np.ndarray, warp: np.ndarray) -> np.ndarray:
    """Sample a volume at displaced places; the field between its knots is trilinear."""
    size = volume.shape[1:]
    field = F.interpolate(torch.from_numpy(warp).float()[None], size, mode="trilinear", align_corners=True)[0]
    # torch counts places along (X, Y, Z), from -1 to 1 over the edge
    grid = F.affine_grid(torch.eye(3, 4)[None], [1, 1, *size], align_corners=False)
    places = grid + 2 * field.flip(0).movedim(0, 3)[None]
    source = torch.from_numpy(np.ascontiguousarray(volume))[None]
    return F.grid_sample(source, places, padding_mode="reflection", align_corners=False)[0].numpy()
