"""Scans on the canonical grid, and back: orientation, spacing, intensity range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.transform import resize

from diffaug.scans.background import background
from diffaug.scans.grid import Grid
from diffaug.scans.readings import Reading, to_unit
from diffaug.scans.scan import Geometry, Scan, centred_geometry, reorient

SPACING_TOLERANCE = 0.02  # relative; below it a scan is not resampled
# as nnU-Net does: linear interpolation would blur every scan that a generator learns from. Part of the names of caches
SPLINE_ORDER = 3


@dataclass(frozen=True)
class Placement:
    """What `to_canonical` took away from a scan and `from_canonical` needs to give it back."""

    size: tuple[int, ...]
    geometry: Geometry
    orientation: str
    ranges: tuple[tuple[float, float], ...]


def to_canonical(scan: Scan, reading: Reading, grid: Grid) -> tuple[np.ndarray, Placement]:
    """Bring a whole scan to the grid's orientation, spacing and intensity range; it keeps its own extent.

    Args:
        scan: The scan.
        reading: Its reading, which holds its intensity range.
        grid: The canonical grid.

    Returns:
        Voxels `(C, Z, Y, X)` float32 in [-1, 1], and what the inverse needs. Intensities outside the scan's range are
        cut off; the others, and all of the geometry, come back exactly.
    """
    turned = reorient(scan, grid.orientation)
    placement = Placement(turned.size, turned.geometry, scan.geometry.orientation, reading.ranges)
    voxels = np.stack([to_unit(v, r) for v, r in zip(turned.voxels, reading.ranges, strict=True)])
    return np.clip(at_spacing(voxels, turned.geometry.spacing, grid.spacing), -1, 1), placement


def size_at(size: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, ...]:
    """Tell how many voxels a scan has once it is resampled.

    Args:
        size: Voxels (Z, Y, X).
        spacing: In mm, its own.
        wanted: In mm.

    Returns:
        Voxels (Z, Y, X).
    """
    ratio = np.array(spacing) / np.array(wanted)
    # resampling by a hair would blur every voxel and move none
    ratio[np.abs(ratio - 1) < SPACING_TOLERANCE] = 1
    return tuple(map(int, np.maximum(np.round(np.array(size) * ratio), 1)))


def at_spacing(voxels: np.ndarray, spacing: Sequence[float], wanted: Sequence[float]) -> np.ndarray:
    """Resample a scan to another spacing.

    Args:
        voxels: `(C, Z, Y, X)`.
        spacing: In mm, its own.
        wanted: In mm.

    Returns:
        `(C, *size_at(...))` float32; where voxels get larger they are smoothed first, so that nothing aliases.
    """
    return _resampled(voxels, size_at(voxels.shape[1:], spacing, wanted))


def from_canonical(voxels: np.ndarray, placement: Placement) -> Scan:
    """Undo `to_canonical`.

    Args:
        voxels: `(C, Z, Y, X)` in [-1, 1], as large as `to_canonical` made the scan.
        placement: What it returned beside them.

    Returns:
        A scan with the original's size, spacing, origin, direction and units.
    """
    native = np.clip(_resampled(voxels.astype(np.float32), placement.size), -1, 1)
    units = np.stack([_from_unit(v, r) for v, r in zip(native, placement.ranges, strict=True)])
    return reorient(Scan(units, placement.geometry), placement.orientation)


def synthetic_scan(voxels: np.ndarray, grid: Grid) -> Scan:
    """Give a generated volume the units, spacing and orientation of its task.

    Args:
        voxels: `(C, Z, Y, X)` in [-1, 1].
        grid: The canonical grid.

    Returns:
        A scan centred on the patient coordinate system's origin.
    """
    units = np.stack([_from_unit(v.astype(np.float32), r) for v, r in zip(voxels, grid.ranges, strict=True)])
    if grid.masked:
        units[:, background(voxels)] = 0
    return Scan(units, centred_geometry(voxels.shape[1:], grid.spacing, grid.orientation))


def _from_unit(voxels: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    return ((voxels + 1) / 2 * (high - low) + low).astype(np.float32)


def _resampled(voxels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample `(C, Z, Y, X)` over the same box, smoothing first where voxels get larger so that nothing aliases."""
    if tuple(voxels.shape[1:]) == tuple(shape):
        return voxels.astype(np.float32)
    smooth = any(new < old for new, old in zip(shape, voxels.shape[1:], strict=True))
    channels = [resize(v, shape, SPLINE_ORDER, "edge", anti_aliasing=smooth, preserve_range=True) for v in voxels]
    return np.stack(channels).astype(np.float32)
