"""The canonical grid: planned once per task from its scans and a voxel budget, editable as JSON, and invertible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffaug.errors import DiffaugError
from diffaug.nnunet.readers import nonzero_mask, nonzero_part
from diffaug.scans.scan import Scan

CT_WINDOW = (-1000.0, 1000.0)  # HU: air to dense bone; metal is cut off
MR_PERCENTILES = (0.1, 99.9)  # a scan's robust range: MR units mean nothing across scans
EMPTY = 0.1  # of a scan: from there on its zeros are a background, and not here and there
COVERED = 75  # percentile of the scans' extents that a whole-scan grid holds; larger scans lose their outermost voxels


@dataclass(frozen=True)
class Reading:
    """What planning needs to know of one scan, read off once.

    Attributes:
        case: The case's id.
        size: Voxels (Z, Y, X) in the file's own order.
        spacing: In mm, (Z, Y, X).
        orientation: Where x, y and z run to, for example `LPS`.
        ranges: Per channel the intensities, in the file's units, that -1 and 1 stand for.
        mean: Per channel, in the file's units.
        std: Per channel, in the file's units.
        robust: Per channel the robust lowest and highest intensity, in the file's units.
        above: Per channel the share of voxels above `CT_WINDOW`, which tells whether they are in HU.
        empty: Share of voxels outside of all that is not zero, as in scans without skull.
        inside_mean: Per channel, of the other voxels, in the file's units.
        inside_std: Per channel, of the other voxels, in the file's units.
    """

    case: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    ranges: tuple[tuple[float, float], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    robust: tuple[tuple[float, float], ...] = ()
    above: tuple[float, ...] = ()
    empty: float = 0.0
    inside_mean: tuple[float, ...] = ()
    inside_std: tuple[float, ...] = ()


def is_ct(channel: str) -> bool:
    """Tell whether a channel is read as Hounsfield units, as nnU-Net's own normalisation lookup does."""
    return channel.casefold() == "ct"


def read_off(
    case: str, scan: Scan, channels: Sequence[str], windows: Mapping[int, tuple[float, float]] | None = None
) -> Reading:
    """Measure one scan.

    Args:
        case: The case's id.
        scan: The scan.
        channels: nnU-Net's channel names; `CT` has a fixed window in HU, all others a robust range per scan.
        windows: By number of the channel another fixed window, for `CT` that is not in HU.

    Returns:
        The reading.
    """
    robust = [_robust(voxels) for voxels in scan.voxels]
    windows = {number: CT_WINDOW for number, name in enumerate(channels) if is_ct(name)} | dict(windows or {})
    inside = nonzero_part(scan.voxels)  # nnU-Net normalises what this leaves
    moments = inside.reshape(len(channels), -1).astype(np.float64)
    mask = nonzero_mask(scan.voxels)
    masked = scan.voxels[:, mask].astype(np.float64) if mask.any() else moments
    return Reading(
        case,
        scan.size,
        scan.geometry.spacing,
        scan.geometry.orientation,
        tuple(windows.get(number, own) for number, own in enumerate(robust)),
        tuple(map(float, moments.mean(1))),
        tuple(map(float, moments.std(1))),
        tuple(robust),
        tuple(float((voxels > CT_WINDOW[1]).mean()) for voxels in scan.voxels),
        float(1 - mask.mean()),
        tuple(map(float, masked.mean(1))),
        tuple(map(float, masked.std(1))),
    )


def _robust(voxels: np.ndarray) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(voxels, MR_PERCENTILES))
    if high > low:
        return low, high
    # an almost empty image (a thin bright structure) has no robust range: take all of it
    low, high = float(voxels.min()), float(voxels.max())
    return low, high if high > low else low + 1  # a sequence that this patient did not get: all of it is -1


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
        empty: Share of a typical scan that is outside of all that is not zero.
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
