"""What makes one phantom: every random choice, drawn once, so that rendering is deterministic."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diffaug.errors import DiffaugError


@dataclass(frozen=True)
class Site:
    """How the scanner of one institution differs from another's. Pairs are the ends of a uniform range.

    Attributes:
        code: Number of the site in the seed of its cases.
        fat_suppressed: Probability that a scan is fat-suppressed.
        contrast: Probability that a scan was made after contrast agent.
        field_of_view: Ranges along Z, Y and X in mm.
        brightness: Scanner units of a signal of 1; drawn uniformly in its logarithm.
        coil_reach: Distance in mm at which a coil's sensitivity has fallen to a half.
        coil_strength: Exponent of the sensitivity; 0 would be a perfectly even coil.
        noise: Standard deviation of the noise in each of the two channels, as a fraction of the signal 1.
        blur: Standard deviation of the in-plane blur in mm.
        slice_blur: Standard deviation of the blur along Z in mm.
        residual_fat: Signal of fat that suppression leaves.
        suppression_failure: Probability of a region where the suppression fails.
        ghost: Amplitude of the heart's ghosts along X.
    """

    code: int
    fat_suppressed: float
    contrast: float
    field_of_view: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    brightness: tuple[float, float]
    coil_reach: tuple[float, float]
    coil_strength: tuple[float, float]
    noise: tuple[float, float]
    blur: tuple[float, float]
    slice_blur: tuple[float, float]
    residual_fat: tuple[float, float]
    suppression_failure: float
    ghost: tuple[float, float]


SITES = {
    "A": Site(
        code=0,
        fat_suppressed=0.75,
        contrast=0.7,
        field_of_view=((150, 170), (200, 240), (320, 360)),
        brightness=(90, 260),
        coil_reach=(80, 140),
        coil_strength=(0.5, 1.1),
        noise=(0.008, 0.035),
        blur=(0.8, 2.2),
        slice_blur=(0.8, 2.4),
        residual_fat=(0.14, 0.36),
        suppression_failure=0.3,
        ghost=(0.0, 0.04),
    ),
    "B": Site(
        code=1,
        fat_suppressed=0.45,
        contrast=0.5,
        field_of_view=((140, 165), (190, 225), (300, 345)),
        brightness=(500, 1600),
        coil_reach=(60, 100),
        coil_strength=(0.8, 1.5),
        noise=(0.012, 0.045),
        blur=(1.2, 3.0),
        slice_blur=(2.0, 4.0),
        residual_fat=(0.06, 0.22),
        suppression_failure=0.5,
        ghost=(0.0, 0.08),
    ),
}


@dataclass(frozen=True)
class Breast:
    """One breast, in mm and in the body's frame: X to the left, Y to the back from the breastbone's skin, Z upwards.

    Attributes:
        centre: Distance of the axis from the midline.
        level: Height of the axis at the base.
        depth: How far it hangs from the chest.
        half_width: Half its width in an axial slice.
        half_height: Half its height above and below the axis.
        squareness: Exponent of the axial outline; 2 is an ellipse, more is a column as in a breast coil.
        taper: Exponent of the sagittal outline; small is conical, large is round.
        drift: Sideways shift of the tip.
        ptosis: Downward shift of the tip.
        nipple: Radius of the nipple.
        glandular: Amount of fibroglandular tissue, 0 to 1.
        footprint: How far the labelled base reaches beyond `half_width` to the side and beyond `half_height` up.
        tail: Radius of the axillary tail's extension of the base.
        lesions: Centre relative to the breast (-1 to 1 across and up, 0 to 1 towards the tip) and radius in mm.
    """

    centre: float
    level: float
    depth: float
    half_width: float
    half_height: tuple[float, float]
    squareness: tuple[float, float]
    taper: tuple[float, float]
    drift: float
    ptosis: float
    nipple: float
    glandular: float
    footprint: tuple[float, float]
    tail: float
    lesions: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Body:
    """The trunk behind the breasts, in mm.

    Attributes:
        half_axes: Half the trunk's width and depth.
        squareness: Exponent of the trunk's outline.
        tilt: Millimetres that the chest wall goes back per millimetre upwards.
        curvature: The same per square millimetre.
        flare: Relative widening of the trunk per millimetre upwards.
        fold: Radius of the fillet between breast and trunk.
        skin: Thickness of the skin.
        fat: Thickness of the fat over the breastbone, and of the fat behind the breasts.
        pectoral: Thickness of the pectoral muscle.
        wall: Thickness of ribs and the muscle between them.
        rib_spacing: Distance between ribs.
        heart: Centre X, Y, Z and radius.
        liver: Top and radius of the liver's dome.
        lateral: Depth behind the breastbone at which the label ends at the sides.
        arms: Whether the arms lie at the sides of the field of view.
    """

    half_axes: tuple[float, float]
    squareness: float
    tilt: float
    curvature: float
    flare: float
    fold: float
    skin: float
    fat: tuple[float, float]
    pectoral: float
    wall: float
    rib_spacing: float
    heart: tuple[float, float, float, float]
    liver: tuple[float, float]
    lateral: float
    arms: bool


@dataclass(frozen=True)
class Scan:
    """One measurement: where the body lies, what the sequence shows, what the hardware adds.

    Attributes:
        field_of_view: Extent along Z, Y, X in mm.
        front: Air in front of the breastbone, breasts included, in mm.
        shift: Position of the body along Z and X in mm.
        rotation: Angles about Z, Y, X in radians.
        deformation: Standard deviation of the smooth random displacement in mm.
        fat_suppressed: Whether fat is dark.
        enhancement: Contrast agent, 0 (before it) to 1.
        background_enhancement: How much of it the normal gland takes up, 0 to 1.
        signals: Signal of each tissue before the coil.
        suppression_failure: Height, side, and centre (X, Y, Z from the breast's axis, mm) of failed suppression.
        coil_gain: Gain of the right and the left coil.
        coil_reach: Half-sensitivity distance in mm.
        coil_strength: Exponent of the sensitivity.
        shading: Standard deviation of a further smooth bias, in the logarithm.
        ghost: Amplitude and shift (as a fraction of the width) of the heart's ghosts.
        blur: Standard deviation along Z, Y, X in mm.
        noise: Standard deviation per channel relative to the signal 1.
        brightness: Scanner units per signal 1.
    """

    field_of_view: tuple[float, float, float]
    front: float
    shift: tuple[float, float]
    rotation: tuple[float, float, float]
    deformation: float
    fat_suppressed: bool
    enhancement: float
    background_enhancement: float
    signals: dict[str, float]
    suppression_failure: tuple[float, int, float, float, float]
    coil_gain: tuple[float, float]
    coil_reach: float
    coil_strength: float
    shading: float
    ghost: tuple[float, float]
    blur: tuple[float, float, float]
    noise: float
    brightness: float


@dataclass(frozen=True)
class PhantomParameters:
    """Everything random about one phantom; `render` adds no randomness of its own.

    Attributes:
        site: `A` or `B`.
        body: The trunk.
        right: The breast at negative X.
        left: The breast at positive X.
        scan: The measurement.
        texture_seed: Seed of tissue textures and of the deformation.
        noise_seed: Seed of the noise.
    """

    site: str
    body: Body
    right: Breast
    left: Breast
    scan: Scan
    texture_seed: int
    noise_seed: int

    def to_json(self) -> dict[str, Any]:
        """Turn the parameters into what `json` can write.

        Returns:
            Nested dictionaries, lists and numbers.
        """
        return asdict(self)


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
    if site not in SITES:
        raise DiffaugError(f"site {site}: no such phantom site, expected {' or '.join(SITES)}; give one of them")
    body = _draw_body(rng)
    right, left = _draw_breasts(rng, body)
    return PhantomParameters(
        site=site,
        body=body,
        right=right,
        left=left,
        scan=_draw_scan(rng, SITES[site], max(right.depth, left.depth)),
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
    side, top, tail = _uniform(rng, (10, 22), (4, 14), (12, 34))
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


# Set by eye against fat-suppressed dynamic T1 scans; the second table is a T1 scan without suppression.
SUPPRESSED_SIGNALS = {
    "fat": 0.24,
    "gland": 0.46,
    "muscle": 0.37,
    "strand": 0.42,
    "heart": 0.4,
    "skin": 0.75,
    "lung": 0.05,
    "blood": 0.42,
    "liver": 0.44,
    "bone": 0.2,
    "lesion": 0.42,
}
PLAIN_SIGNALS = {
    "fat": 0.95,
    "gland": 0.42,
    "muscle": 0.36,
    "strand": 0.7,
    "heart": 0.36,
    "skin": 0.5,
    "lung": 0.06,
    "blood": 0.3,
    "liver": 0.42,
    "bone": 0.6,
    "lesion": 0.4,
}
