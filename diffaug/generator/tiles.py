"""A convolutional network on a large volume, tile by tile: memory stays flat, and there are no seams."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor

TILE = 128  # voxels per axis at full resolution; with its margins a tile takes one or two gigabytes


def in_tiles(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    reach: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
    tile: int = TILE,
) -> Tensor:
    """Run a network on overlapping tiles. Each is as much larger as the network looks far, so nothing is blended.

    Args:
        run: The network; every output cell depends on the input no farther than `reach` cells away.
        x: `(B, C, ...)`, `before` voxels to a cell.
        reach: In cells (Z, Y, X).
        before: Voxels of the input per cell (Z, Y, X).
        after: Voxels of the output per cell (Z, Y, X).
        tile: Edge of a tile in voxels, of whichever side has more of them.

    Returns:
        What `run(x)` gives, up to rounding.
    """
    cells = [size // step for size, step in zip(x.shape[2:], before, strict=True)]
    edges = [max(1, tile // max(a, b)) for a, b in zip(before, after, strict=True)]
    if all(count <= edge for count, edge in zip(cells, edges, strict=True)):
        return run(x)
    whole: Tensor | None = None
    starts = (range(0, count, edge) for count, edge in zip(cells, edges, strict=True))
    for corner in itertools.product(*starts):
        source, inside, target = [], [], []
        for start, edge, count, margin, wide, made in zip(corner, edges, cells, reach, before, after, strict=True):
            stop = min(start + edge, count)
            low, high = max(start - margin, 0), min(stop + margin, count)
            source.append(slice(low * wide, high * wide))
            inside.append(slice((start - low) * made, (stop - low) * made))
            target.append(slice(start * made, stop * made))
        part = _cut(run(_cut(x, source)), inside)
        if whole is None:
            size = [count * made for count, made in zip(cells, after, strict=True)]
            whole = part.new_empty(*part.shape[:2], *size)
        _cut(whole, target).copy_(part)
    assert whole is not None
    return whole


def _cut(volumes: Tensor, box: Sequence[slice]) -> Tensor:
    z, y, x = box
    return volumes[:, :, z, y, x]
