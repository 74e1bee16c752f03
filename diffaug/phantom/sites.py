"""The phantom's two institutions: how their scanners differ, and how bright tissues are on any scanner."""

from __future__ import annotations

from dataclasses import dataclass

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
        coil_reach=(70, 125),
        coil_strength=(0.5, 1.1),
        noise=(0.006, 0.03),
        blur=(0.8, 2.2),
        slice_blur=(0.8, 2.4),
        residual_fat=(0.12, 0.31),
        suppression_failure=0.3,
        ghost=(0.0, 0.04),
    ),
    "B": Site(
        code=1,
        fat_suppressed=0.45,
        contrast=0.5,
        field_of_view=((140, 165), (190, 225), (300, 345)),
        brightness=(500, 1600),
        coil_reach=(55, 95),
        coil_strength=(0.8, 1.5),
        noise=(0.012, 0.045),
        blur=(1.2, 3.0),
        slice_blur=(2.0, 4.0),
        residual_fat=(0.06, 0.22),
        suppression_failure=0.5,
        ghost=(0.0, 0.08),
    ),
}


def find_site(name: str) -> Site:
    """Look a site up by its name.

    Args:
        name: `A` or `B`.

    Returns:
        The site.

    Raises:
        DiffaugError: If there is no such site.
    """
    if name not in SITES:
        raise DiffaugError(f"site {name}: no such phantom site, expected {' or '.join(SITES)}; give one of them")
    return SITES[name]


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
