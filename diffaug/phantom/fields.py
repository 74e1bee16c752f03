"""Smooth random fields, the same in mm on every grid."""

from __future__ import annotations

import numpy as np

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
