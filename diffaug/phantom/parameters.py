"""What makes one phantom: every random choice, as plain numbers that JSON can hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


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
