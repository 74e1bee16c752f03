"""Windows onto a scan: cutting them out, and telling every voxel where in the scan it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A box of the grid's shape laid onto a scan.

    Attributes:
        offset: Index (Z, Y, X) of the window's first voxel in the scan; negative where the window sticks out.
        extent: Voxels (Z, Y, X) of the whole scan on the canonical grid.
        mirrored: Array axis (0 to 2) along which the scan is mirrored before the box is laid onto it; None as it is.
    """

    offset: tuple[int, ...]
    extent: tuple[int, ...]
    mirrored: int | None = None


def centred(extent: Sequence[int], shape: Sequence[int]) -> Window:
    """Lay a window onto the middle of a scan.

    Args:
        extent: Voxels (Z, Y, X) of the scan.
        shape: Voxels (Z, Y, X) of the window.

    Returns:
        The window.
    """
    offset = tuple((e - s) // 2 for e, s in zip(extent, shape, strict=True))
    return Window(offset, tuple(extent))


def scattered(extent: Sequence[int], shape: Sequence[int], reach: int, rng: np.random.Generator) -> Window:
    """Lay a window onto a random place: anywhere in a larger scan, a few voxels off the middle of a smaller one.

    Args:
        extent: Voxels (Z, Y, X) of the scan.
        shape: Voxels (Z, Y, X) of the window.
        reach: How many voxels it may stick out of the scan, or lie off its middle; less where either is thin.
        rng: Source of randomness.

    Returns:
        The window.
    """
    middle = centred(extent, shape).offset
    offset = []
    for size, length, centre in zip(extent, shape, middle, strict=True):
        near = min(reach, (min(size, length) + length) // 4)  # some of every window lies in its scan
        low, high = (-near, size - length + near) if size > length else (centre - near, centre + near)
        offset.append(int(rng.integers(low, high + 1)))
    return Window(tuple(offset), tuple(extent))


def cut(
    voxels: np.ndarray,
    window: Window,
    shape: Sequence[int],
    mode: Literal["symmetric", "constant"] = "symmetric",
) -> np.ndarray:
    """Cut a window out of a scan.

    Args:
        voxels: The scan `(C, Z, Y, X)`, possibly memory-mapped: only the window is read.
        window: Where.
        shape: Voxels (Z, Y, X) of the window.
        mode: What fills the part outside the scan: `symmetric`, the scan mirrored at its edge, so that a generator can
            learn no seam; or `constant`, zero as nnU-Net fills it.

    Returns:
        `(C, *shape)` float32, a copy.
    """
    if window.mirrored is not None:
        voxels = np.flip(voxels, window.mirrored + 1)  # a view: still only the window is read
    inside, padding = [slice(None)], [(0, 0)]
    for offset, length, size in zip(window.offset, shape, voxels.shape[1:], strict=True):
        start, stop = max(offset, 0), min(offset + length, size)
        inside.append(slice(start, stop))
        padding.append((start - offset, offset + length - stop))
    return np.pad(np.asarray(voxels[tuple(inside)], dtype=np.float32), padding, mode=mode)


def paste_extent(voxels: np.ndarray, window: Window) -> np.ndarray:
    """Undo the padding of `cut`: keep the part of a window that lies inside its scan.

    Args:
        voxels: `(C, Z, Y, X)`, a window.
        window: Where it lies.

    Returns:
        `(C, z, y, x)`, a view.
    """
    z, y, x = inside(window, voxels.shape[1:])
    return voxels[:, z, y, x]


def inside(window: Window, shape: Sequence[int]) -> tuple[slice, ...]:
    """Tell which part of a window lies inside its scan.

    Args:
        window: Where it lies.
        shape: Voxels (Z, Y, X) of the window.

    Returns:
        Of each axis the window's voxels that do.
    """
    return tuple(
        slice(max(-offset, 0), min(length, size - offset))
        for offset, size, length in zip(window.offset, window.extent, shape, strict=True)
    )


def refill(inside: np.ndarray, window: Window, shape: Sequence[int]) -> np.ndarray:
    """Undo `paste_extent`: mirror what lies beyond the scan's edge.

    Args:
        inside: `(C, z, y, x)`, the part of a window that lies inside its scan.
        window: Where the window lies.
        shape: Voxels (Z, Y, X) of the window.

    Returns:
        `(C, *shape)` float32.
    """
    start = tuple(min(offset, 0) for offset in window.offset)
    return cut(inside, Window(start, inside.shape[1:]), shape)


def coordinates(windows: Sequence[Window], shape: Sequence[int], cells: Sequence[int]) -> Tensor:
    """Tell every cell of a latent where in its scan it lies.

    Args:
        windows: One window per volume of the batch.
        shape: Voxels (Z, Y, X) of the window.
        cells: Cells (Z, Y, X) of the latent.

    Returns:
        `(B, 3, *cells)` float32: position along Z, Y and X, -1 at the scan's first edge and 1 at its last, beyond that
        outside the scan. In a mirrored scan they run from 1 to -1.
    """
    batch = []
    for window in windows:
        axes = []
        frame = zip(window.offset, window.extent, shape, cells, strict=True)
        for axis, (offset, extent, length, count) in enumerate(frame):
            centres = offset + (torch.arange(count) + 0.5) * (length / count)
            along = centres * 2 / extent - 1
            axes.append(-along if axis == window.mirrored else along)
        batch.append(torch.stack(torch.meshgrid(*axes, indexing="ij")))
    return torch.stack(batch).float()
