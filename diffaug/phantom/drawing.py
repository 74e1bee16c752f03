"""What is random in a phantom: one woman, one scan of her at one site, and smooth fields for her tissues."""

from __future__ import annotations

import numpy as np

from diffaug.phantom.parameters import Body, Breast, PhantomParameters, Scan
from diffaug.phantom.sites import PLAIN_SIGNALS, SUPPRESSED_SIGNALS, Site, find_site


def draw_parameters(rng: np.random.Generator, site: str = "A") -> PhantomParameters:
    """Draw one woman and one scan of her.

    Args:
        rng: Source of all randomness.
        site: `A` or `B`; see `SITES`.

    Returns:
        The parameters.

    Raises:
        DiffaugError: If there is no such site.
    """
    scanner = find_site(site)
    body = _draw_body(rng)
    right, left = _draw_breasts(rng, body)
    return PhantomParameters(
        site=site,
        body=body,
        right=right,
        left=left,
        scan=_draw_scan(rng, scanner, max(right.depth, left.depth)),
        texture_seed=int(rng.integers(2**31)),
        noise_seed=int(rng.integers(2**31)),
    )


def _uniform(rng: np.random.Generator, *ranges: tuple[float, float]) -> tuple[float, ...]:
    return tuple(float(rng.uniform(low, high)) for low, high in ranges)


def _draw_body(rng: np.random.Generator) -> Body:
    width, depth = _uniform(rng, (132, 176), (88, 122))
    squareness, tilt, curvature, flare = _uniform(rng, (2.0, 2.9), (0.02, 0.28), (0.0, 0.0012), (-0.0004, 0.0012))
    fold, skin, pectoral, wall = _uniform(rng, (6, 18), (1.6, 3.2), (4, 17), (11, 19))
    heart = _uniform(rng, (12, 38), (58, 82), (-45, 5), (36, 54))
    midline_fat, fat = _uniform(rng, (3, 9), (5, 24))
    top, radius = _uniform(rng, (-90, -20), (60, 90))
    spacing = float(rng.uniform(24, 34))
    return Body(
        half_axes=(width, depth),
        squareness=squareness,
        tilt=tilt,
        curvature=curvature,
        flare=flare,
        fold=fold,
        skin=skin,
        fat=(midline_fat, fat),
        pectoral=pectoral,
        wall=wall,
        rib_spacing=spacing,
        heart=(heart[0], heart[1], heart[2], heart[3]),
        liver=(top, radius),
        lateral=0.42 * depth,
        arms=bool(rng.random() < 0.35),
    )


def _draw_breasts(rng: np.random.Generator, body: Body) -> tuple[Breast, Breast]:
    # Both breasts share the woman's size and shape; each differs a little, and now and then a lot.
    size = float(rng.beta(1.6, 1.6))
    glandular = float(rng.beta(1.2, 1.6))
    centre, level, taper, bluntness = _uniform(rng, (0.44, 0.53), (-12, 12), (1.5, 2.8), (0.7, 1.0))
    width, height, ptosis = _uniform(rng, (0.85, 1.15), (0.88, 1.15), (-0.05, 0.3))
    squareness, column = _uniform(rng, (2.2, 3.6), (2.5, 6.0))
    side, top, tail = _uniform(rng, (13, 18), (6, 10), (17, 26))
    asymmetry = 0.16 if rng.random() < 0.25 else 0.06
    breasts = []
    for _ in range(2):
        own = np.exp(rng.normal(0, asymmetry, size=3))
        lesions = []
        for _ in range(int(rng.choice(4, p=(0.6, 0.25, 0.1, 0.05)))):
            lesions.append(_uniform(rng, (-0.6, 0.6), (-0.6, 0.6), (0.15, 0.75), (3, 15)))
        above, below = _uniform(rng, (62, 78), (50, 66))
        breasts.append(
            Breast(
                centre=body.half_axes[0] * centre + float(rng.normal(0, 3)),
                level=level + float(rng.normal(0, 4)),
                depth=float((28 + 88 * size) * own[0]),
                half_width=float((30 + 17 * size) * width * own[1]),
                half_height=(float(above * height * own[2]), float(below * height * own[2])),
                squareness=(squareness, column),
                taper=(taper, bluntness),
                drift=float(rng.normal(0, 6)),
                ptosis=float((ptosis + rng.normal(0, 0.04)) * (28 + 88 * size)),
                nipple=float(rng.uniform(3, 7)),
                glandular=float(np.clip(glandular + rng.normal(0, 0.06), 0.02, 0.98)),
                footprint=(side + float(rng.normal(0, 1.5)), top + float(rng.normal(0, 1.5))),
                tail=tail + float(rng.normal(0, 2)),
                lesions=tuple((a, b, c, d) for a, b, c, d in lesions),
            )
        )
    return breasts[0], breasts[1]


def _draw_scan(rng: np.random.Generator, site: Site, depth: float) -> Scan:
    suppressed = bool(rng.random() < site.fat_suppressed)
    contrast = bool(rng.random() < site.contrast)
    extent = _uniform(rng, *site.field_of_view)
    reach, strength, noise, blur, slice_blur, ghost, shift = _uniform(
        rng, site.coil_reach, site.coil_strength, site.noise, site.blur, site.slice_blur, site.ghost, (0.12, 0.4)
    )
    failed = float(rng.uniform(0.3, 1.0)) if suppressed and rng.random() < site.suppression_failure else 0.0
    place = _uniform(rng, (-40, 40), (-50, 5), (-50, 30))
    gains = np.exp(rng.normal(0, 0.18, size=2))
    angles = rng.normal(0, (0.05, 0.03, 0.03))
    signals = SUPPRESSED_SIGNALS if suppressed else PLAIN_SIGNALS
    drawn = {tissue: value * float(np.exp(rng.normal(0, 0.14))) for tissue, value in signals.items()}
    residual = float(rng.uniform(*site.residual_fat))
    if suppressed:
        drawn["fat"] = residual
    return Scan(
        field_of_view=(extent[0], extent[1], extent[2]),
        front=max(depth + float(rng.uniform(4, 22)), float(rng.uniform(62, 110))),
        shift=(float(rng.normal(0, 8)), float(rng.normal(0, 8))),
        rotation=(float(angles[0]), float(angles[1]), float(angles[2])),
        deformation=float(rng.uniform(1.5, 5.0)),
        fat_suppressed=suppressed,
        enhancement=float(rng.uniform(0.35, 1.0)) if contrast else 0.0,
        background_enhancement=float(rng.beta(1.3, 3.0)),
        signals=drawn,
        suppression_failure=(failed, int(rng.choice((-1, 1))), place[0], place[1], place[2]),
        coil_gain=(float(gains[0]), float(gains[1])),
        coil_reach=reach,
        coil_strength=strength,
        shading=float(rng.uniform(0.04, 0.18)),
        ghost=(ghost, shift),
        blur=(slice_blur, blur, blur),
        noise=noise,
        brightness=float(np.exp(rng.uniform(*np.log(site.brightness)))),
    )


Array = np.ndarray


def smooth_field(rng: np.random.Generator, axes: tuple[Array, Array, Array], scale: tuple[float, ...]) -> Array:
    """Draw a smooth random field with zero mean and about unit variance, the same in mm on every grid.

    A cubic B-spline of white noise on a lattice; the three axes separate, so it costs three matrix products.

    Args:
        rng: Source of the lattice's values.
        axes: Positions of the grid along Z, Y and X in mm, within 300 mm of 0.
        scale: Distance of the lattice's knots along Z, Y, X in mm.

    Returns:
        Field (Z, Y, X) float32.
    """
    # The lattice covers 600 mm whatever the grid, so that the values drawn do not depend on the grid.
    knots = [int(np.ceil(600 / step)) + 4 for step in scale]
    field = rng.standard_normal(knots, dtype=np.float32)
    for axis, (positions, step) in enumerate(zip(axes, scale, strict=True)):
        place = (positions + 300) / step + 1
        distance = np.abs(place[:, None] - np.arange(knots[axis])[None])
        near = 2 / 3 - distance**2 + distance**3 / 2
        far = np.clip(2 - distance, 0, None) ** 3 / 6
        weights = np.where(distance < 1, near, far)
        weights /= np.sqrt((weights**2).sum(1, keepdims=True))
        used = np.flatnonzero(weights.any(0))
        low, high = used[0], used[-1] + 1
        field = np.take(field, range(low, high), axis=axis)
        field = np.moveaxis(np.tensordot(weights[:, low:high].astype(np.float32), field, (1, axis)), 0, axis)
    return np.ascontiguousarray(field)
