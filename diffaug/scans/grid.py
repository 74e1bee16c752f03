"""The canonical grid: planned once per task from its scans and a voxel budget, editable as JSON, and invertible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diffaug.errors import DiffaugError
from diffaug.scans.readings import EMPTY, Reading

COVERED = 75  # percentile of the scans' extents that a whole-scan grid holds; larger scans lose their outermost voxels


@dataclass(frozen=True)
class Grid:
    """The canonical grid of a task.

    Attributes:
        field_of_view: `whole`: one window holds the scan; `patch`: windows of this shape lie anywhere in it.
        orientation: Where x, y and z run to; the one most scans have, so that samples look as nnU-Net sees scans.
        spacing: In mm, (Z, Y, X).
        shape: Voxels (Z, Y, X) of a window.
        ranges: Per channel the intensities, in the files' units, that a synthetic volume's -1 and 1 stand for.
        mean: Per channel, of a typical whole scan, in the files' units.
        std: Per channel, of a typical whole scan, in the files' units.
        empty: Share of a typical scan that is nothing, all round what it shows.
        inside_mean: Per channel, of what is inside, in the files' units.
        inside_std: Per channel, of what is inside, in the files' units.
    """

    field_of_view: str
    orientation: str
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    ranges: tuple[tuple[float, float], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    empty: float = 0.0
    inside_mean: tuple[float, ...] = ()
    inside_std: tuple[float, ...] = ()

    @property
    def learnt(self) -> dict[str, Any]:
        """What a generator's networks depend on: all but what samples are finished by."""
        return {key: value for key, value in asdict(self).items() if key not in ("empty", "inside_mean", "inside_std")}

    @property
    def masked(self) -> bool:
        """Whether scans are zero all round what they show, and nothing in them is darker."""
        return self.empty >= EMPTY and all(low <= 0 <= low + 0.05 * (high - low) for low, high in self.ranges)

    @property
    def mirror(self) -> int:
        """The array axis (0 to 2) that runs left-right."""
        return 2 - next(i for i, letter in enumerate(self.orientation) if letter in "LR")


def axis_order(own: str, orientation: str) -> list[int]:
    """Find which of a scan's array axes (Z, Y, X) becomes which of the canonical ones.

    Args:
        own: Where the scan's x, y and z run to.
        orientation: The canonical orientation.

    Returns:
        For each canonical axis (Z, Y, X) the index of the scan's own axis.
    """
    pairs = {"L": 0, "R": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    axes = [pairs[letter] for letter in own[::-1]]
    return [axes.index(pairs[letter]) for letter in orientation[::-1]]


def main_orientation(readings: Sequence[Reading]) -> str:
    """Find the orientation that most scans have.

    Args:
        readings: All scans.

    Returns:
        Where x, y and z run to.
    """
    codes = [reading.orientation for reading in readings]
    return max(sorted(set(codes)), key=codes.count)


def _in_order(readings: Sequence[Reading], values: Sequence[tuple[float, ...]]) -> np.ndarray:
    """Bring what was measured along each scan's own axes into the order of the canonical ones."""
    main = main_orientation(readings)
    return np.array([np.array(v)[axis_order(r.orientation, main)] for r, v in zip(readings, values, strict=True)])


def median_spacing(readings: Sequence[Reading]) -> tuple[float, ...]:
    """Find the spacing to use where no nnU-Net plan says one.

    Args:
        readings: All scans.

    Returns:
        In mm, along the canonical axes (Z, Y, X).
    """
    return tuple(map(float, np.median(_in_order(readings, [r.spacing for r in readings]), axis=0)))


def plan_grid(
    readings: Sequence[Reading],
    *,
    voxels: int,
    multiple: Sequence[int],
    spacing: Sequence[float],
    field_of_view: str = "auto",
    patch_size: Sequence[int] | None = None,
) -> Grid:
    """Choose the canonical grid from the scans, the voxel budget and, where there is one, the nnU-Net plan.

    Args:
        readings: All scans, as `read_off` measured them.
        voxels: The most voxels that one window may have.
        multiple: (Z, Y, X) that the window's shape must be divisible by.
        spacing: In mm (Z, Y, X): the nnU-Net plan's, or the scans' median.
        field_of_view: `whole`, `patch`, or `auto`: `whole` where that fits the budget at full resolution.
        patch_size: (Z, Y, X) from the nnU-Net plan; if None, a box of the scans' proportions that fills the budget.

    Returns:
        The grid.

    Raises:
        DiffaugError: If `field_of_view` is unknown.
    """
    if field_of_view not in ("auto", "whole", "patch"):
        raise DiffaugError(f"field of view: found '{field_of_view}', expected auto, whole or patch; fix the option")
    extents = _in_order(readings, [tuple(np.multiply(r.size, r.spacing)) for r in readings])
    fine = np.array(spacing, dtype=float)
    extent = np.percentile(extents, COVERED, axis=0)  # mm
    steps = np.array(multiple)

    def rounded(shape: np.ndarray) -> np.ndarray:
        return (np.round(shape / steps).clip(1) * steps).astype(int)

    whole = rounded(extent / fine)
    if field_of_view == "auto":
        field_of_view = "whole" if whole.prod() <= voxels else "patch"
    if field_of_view == "whole":
        while whole.prod() > voxels and (whole > steps).any():
            fine = fine * 1.02
            whole = rounded(extent / fine)
        shape = whole
    else:
        size = np.array(patch_size) if patch_size is not None else whole * min(1.0, (voxels / whole.prod()) ** (1 / 3))
        shape = (np.floor(np.minimum(size, whole) / steps).clip(1) * steps).astype(int)
        while shape.prod() > voxels and (shape > steps).any():
            shape[np.argmax(shape / steps)] -= steps[np.argmax(shape / steps)]
    return Grid(
        field_of_view,
        main_orientation(readings),
        tuple(map(float, fine)),
        tuple(map(int, shape)),
        tuple((float(a), float(b)) for a, b in np.median([r.ranges for r in readings], axis=0)),
        tuple(map(float, np.median([r.mean for r in readings], axis=0))),
        tuple(map(float, np.median([r.std for r in readings], axis=0))),
        float(np.median([r.empty for r in readings])),
        tuple(map(float, np.median([r.inside_mean or r.mean for r in readings], axis=0))),
        tuple(map(float, np.median([r.inside_std or r.std for r in readings], axis=0))),
    )
