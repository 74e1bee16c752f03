"""The phantom's anatomy: where each tissue lies, and where the breasts end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from diffaug.phantom.drawing import smooth_field
from diffaug.phantom.parameters import Body, Breast, PhantomParameters

Array = np.ndarray


@dataclass(frozen=True)
class Anatomy:
    """Tissues on one grid; every array is (Z, Y, X) float32 unless said otherwise.

    Attributes:
        inside: 1 in the body, 0 in air, in between on its surface.
        tissues: Weight of each tissue, 0 to 1, in the order in which they are painted over fat.
        mask: Whole breasts, uint8.
        grain: Fine texture with zero mean, in about -2 to 2.
        coordinates: Y and X in the body's frame and Z, in mm: where the coils are.
    """

    inside: Array
    tissues: dict[str, Array]
    mask: Array
    grain: Array
    coordinates: tuple[Array, Array, Array]


def build(parameters: PhantomParameters, *, shape: tuple[int, int, int], spacing: tuple[float, ...]) -> Anatomy:
    """Place the tissues on a grid.

    Args:
        parameters: The woman and her position.
        shape: Voxels along Z, Y, X.
        spacing: Voxel size along Z, Y, X in mm.

    Returns:
        The anatomy.
    """
    rng = np.random.default_rng(parameters.texture_seed)
    body = parameters.body
    breasts = ((-1, parameters.right), (1, parameters.left))
    edge = float(np.mean(spacing))
    z, y, x = ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True))
    axes = (z, y, x)
    z, y, x = _body_frame(rng, parameters, axes, spacing)
    fine = smooth_field(rng, axes, (7, 13, 6))
    coarse = smooth_field(rng, axes, (26, 34, 24))
    ripple = smooth_field(rng, axes, (30, 40, 30))
    # Septa run through the breast alone: where they end is the visible hint of where the label ends.
    strands = smooth_field(rng, axes, (11, 34, 9))
    # Where two independent smooth fields both cross zero lies a winding line.
    vessels = np.exp(-sum(smooth_field(rng, axes, (22, 34, 18)) ** 2 for _ in range(2)) / 0.02)

    torso = _distance(_torso(body, z, y, x), spacing)
    hull = np.full(shape, np.inf, np.float32)
    base = np.full(shape, np.inf, np.float32)
    gland, lesions, nipples = (np.zeros(shape, np.float32) for _ in range(3))
    for side, breast in breasts:
        u, v, along = _breast_frame(breast, z, y, x * side)
        hull = np.minimum(hull, _distance(_hull(breast, u, v, y), spacing))
        base = np.minimum(base, _footprint(breast, u, v))
        gland = np.maximum(gland, _gland(breast, u, v, along, fine, coarse))
        tip = np.sqrt(u**2 + v**2 + (y + breast.depth) ** 2)
        nipples = np.maximum(nipples, _soft(tip - breast.nipple, edge))
        for across, up, forward, radius in breast.lesions:
            beside = (u - across * breast.half_width) ** 2 + (v - up * breast.half_height[0]) ** 2
            r = np.sqrt(beside + ((along - forward) * breast.depth) ** 2)
            lesions = np.maximum(lesions, _soft(r - radius * (1 + 0.3 * fine), edge))
    surface = _fillet(torso, hull, body.fold)
    if body.arms:
        surface = np.minimum(surface, _arms(body, z, y, x))

    muscle = _muscle_front(body, torso, x, ripple)
    before = 1 - _soft(muscle, edge)
    rim = np.clip(1 - np.abs(surface + body.skin / 2) / (body.skin / 2 + edge / 2), 0, 1)
    tissues = {
        "gland": gland * before,
        "strand": 0.75 * np.exp(-((strands / 0.25) ** 2)) * before * np.clip(4 - 3.5 * base, 0, 1),
        "vessel": 0.8 * vessels * before,
        **_chest(body, muscle, z, y, x, edge, coarse, vessels),
        "lesion": lesions * before,
        "skin": np.maximum(rim * min(1.0, 1.6 * body.skin / edge), nipples),
    }
    mask = (surface < 0) & (muscle > 0) & (base < 1) & (y < body.lateral)
    return Anatomy(_soft(surface, edge), tissues, mask.astype(np.uint8), 0.7 * fine + 0.3 * coarse, (z, y, x))


def _body_frame(
    rng: np.random.Generator,
    parameters: PhantomParameters,
    axes: tuple[Array, Array, Array],
    spacing: tuple[float, ...],
) -> tuple[Array, Array, Array]:
    """Undo position, rotation and deformation: body coordinates of every voxel, each (Z, Y, X) in mm."""
    scan = parameters.scan
    half_y = len(axes[1]) * spacing[1] / 2
    z, y, x = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None]
    about_z, about_y, about_x = scan.rotation
    points = np.stack(np.broadcast_arrays(z - scan.shift[0], y, x - scan.shift[1]))
    turn = np.eye(3)
    for angle, (i, j) in zip((about_z, about_y, about_x), ((1, 2), (0, 2), (0, 1)), strict=True):
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    points = np.tensordot(turn.astype(np.float32), points, 1)
    for axis in range(3):
        points[axis] += scan.deformation * smooth_field(rng, axes, (55, 55, 55))
    z = points[0]
    # The chest wall leans back and bends; the breasts go with it.
    back = parameters.body.tilt * z + parameters.body.curvature * z**2
    return z, points[1] + half_y - scan.front - back, points[2]


def _distance(level: Array, spacing: tuple[float, ...]) -> Array:
    """Turn an implicit function into mm from its zero surface, to first order: value over gradient."""
    steep = np.zeros_like(level)
    for axis, step in enumerate(spacing):
        steep += np.gradient(level, step, axis=axis) ** 2
    return level / np.sqrt(np.maximum(steep, 1e-6))


def _soft(distance: Array, edge: float) -> Array:
    return np.clip(0.5 - distance / edge, 0, 1).astype(np.float32)


def _fillet(first: Array, second: Array, radius: float) -> Array:
    """Unite two distances with a rounded inner corner."""
    blend = np.clip(0.5 + 0.5 * (second - first) / radius, 0, 1)
    return second + (first - second) * blend - radius * blend * (1 - blend)


def _power(base: Array, exponent: float) -> Array:
    return np.exp(exponent * np.log(np.abs(base) + 1e-4))


def _torso(body: Body, z: Array, y: Array, x: Array) -> Array:
    width, depth = body.half_axes
    across = x / (width * (1 + body.flare * z))
    n = body.squareness
    return (_power(across, n) + _power(y / depth - 1, n)) ** (1 / n) - 1


def _arms(body: Body, z: Array, y: Array, x: Array) -> Array:
    return np.sqrt((np.abs(x) - body.half_axes[0] - 22) ** 2 + (y - 55 - 0.25 * z) ** 2) - 34


def _breast_frame(breast: Breast, z: Array, y: Array, x: Array) -> tuple[Array, Array, Array]:
    """Coordinates about the breast's bent axis: mm to the side, mm upwards, and 0 to 1 from base to tip."""
    along = np.clip(-y / breast.depth, 0, 1.2)
    return x - breast.centre - breast.drift * along, z - breast.level + breast.ptosis * along, along


def _hull(breast: Breast, u: Array, v: Array, y: Array) -> Array:
    """Outline of one breast, negative inside: the sagittal profile sets how deep its axial column is."""
    relative = np.abs(v / np.where(v > 0, *breast.half_height))
    taper, bluntness = breast.taper
    profile = np.clip(1 - _power(relative, taper), 0.003, 1) ** bluntness
    sides = breast.half_width * np.sqrt(np.sqrt(np.clip(1 - relative**4, 0.0005, 1)))
    squareness, column = breast.squareness
    # Beyond twice the depth all air is alike: without the limit the steep rim of a shallow profile leaves spikes.
    forward = np.clip((12 - y) / (12 + breast.depth * profile), 0, 2)
    return (_power(u / sides, squareness) + _power(forward, column)) ** (1 / squareness) - 1


def _footprint(breast: Breast, u: Array, v: Array) -> Array:
    """Base that the label covers, below 1: to beside the breastbone, beyond the column, and up the axillary tail."""
    side, top = breast.footprint
    inner = max(breast.half_width + 4, breast.centre - 16)
    reach = np.where(u > 0, breast.half_width + side, inner)
    height = np.where(v > 0, *breast.half_height) + top
    base = _power(u / reach, 2.6) + _power(v / height, 2.6)
    across, up = u - 0.75 * breast.half_width, v - 0.7 * breast.half_height[0]
    tail = ((across - 0.6 * up) ** 2 + (up + 0.6 * across) ** 2 / 3) / breast.tail**2
    return np.minimum(base, tail)


def _gland(breast: Breast, u: Array, v: Array, along: Array, fine: Array, coarse: Array) -> Array:
    """Fibroglandular weight: a cone towards the nipple, broken up by texture."""
    height = breast.half_height[0]
    cone = 1.6 * (u / breast.half_width) ** 2 + 1.9 * (v / height) ** 2 + 3.2 * (along - 0.5) ** 2
    level = 0.75 * fine + 0.55 * coarse + 3.4 * breast.glandular - 1.1 - 2.2 * cone
    return expit(3.0 * level)


def _muscle_front(body: Body, torso: Array, x: Array, ripple: Array) -> Array:
    """Distance before the front of the chest muscles in mm, negative behind it: the border that the label follows."""
    midline, fat = body.fat
    return torso + fat - (fat - midline) * np.exp(-((x / 38) ** 2)) + 1.6 * ripple


def _chest(
    body: Body, muscle: Array, z: Array, y: Array, x: Array, edge: float, coarse: Array, vessels: Array
) -> dict[str, Array]:
    """Everything behind the breasts, in the order in which it is painted."""
    aside = np.abs(x)
    across = np.clip((aside - 8) / 18, 0, 1) * np.clip((135 - aside) / 45, 0.15, 1)
    wall = muscle + body.pectoral * across * np.clip(0.75 + z / 110, 0.25, 1.5)
    cavity = _soft(wall + 2.5 + body.wall, edge)
    stripes = np.cos((z + 0.35 * aside + 0.2 * y) * (2 * np.pi / body.rib_spacing))
    ribs = np.clip(0.5 + 1.5 * stripes, 0, 1) * np.clip((aside - 22) / 8, 0, 1)
    bone = np.maximum(ribs, np.clip((17 - aside) / edge, 0, 1)) * _soft(np.abs(wall + 2.5 + body.wall / 2) - 4, edge)
    heart_x, heart_y, heart_z, radius = body.heart
    heart = np.sqrt(((x - heart_x) / 1.35) ** 2 + (y - heart_y) ** 2 + ((z - heart_z) / 1.1) ** 2) - radius
    trunk = np.sqrt((x - 0.25 * heart_x) ** 2 + (y - heart_y - 4) ** 2) - 0.42 * radius
    trunk = np.maximum(trunk, heart_z - z)
    heart = np.minimum(heart, trunk) + 5 * coarse
    top, dome = body.liver
    liver = np.sqrt(((x + 55) / 1.3) ** 2 + (y - 80) ** 2 + (z - top + dome) ** 2) - dome
    mammary = np.exp(-((aside - 27) ** 2 + (wall + body.wall + 4) ** 2) / 18)
    return {
        "muscle": _soft(muscle, edge),
        "fat": _soft(np.abs(wall + 1.2) - 1.2, edge) * np.clip((aside - 12) / 20, 0, 1),
        "bone": bone,
        "lung": cavity,
        "mediastinum": _soft(heart - 6, edge) * cavity,
        "liver": _soft(liver, edge) * cavity,
        "heart": _soft(heart, edge) * cavity,
        "blood": np.maximum(np.maximum(_soft(heart + 9, 14) * cavity, 0.7 * vessels * cavity), mammary),
    }
