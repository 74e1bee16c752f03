"""Looking for a volume in a scan: first coarsely everywhere, then finely around the best place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffaug.copies.alignment import align, band
from diffaug.copies.changes import SHIFT
from diffaug.volumes.windows import centred, cut

COARSER = 2  # cells of the fine search per cell of the coarse one
REACH = 2  # cells of the fine search around the coarse one's best place
CHUNK = 8  # volumes searched for at a time: more do not fit a CPU's cache


@dataclass(frozen=True)
class Search:
    """The sizes of the search.

    Attributes:
        factor: Voxels (Z, Y, X) averaged to one cell.
        work: Cells (Z, Y, X) of a volume.
        patch: Whether a copy may lie anywhere in a scan, not in its middle alone.
        mirror: Array axis (0 to 2) that runs left-right.
    """

    factor: tuple[int, ...]
    work: tuple[int, ...]
    patch: bool
    mirror: int

    @property
    def margin(self) -> tuple[int, ...]:
        """Cells (Z, Y, X) that a copy may be shifted by beyond where volumes lie."""
        return tuple(int(np.ceil(SHIFT * n)) for n in self.work)

    def frame(self, scan: np.ndarray) -> Tensor:
        """Average the part of a scan that copies may come from.

        Args:
            scan: `(C, Z, Y, X)`, possibly memory-mapped.

        Returns:
            `(C, z, y, x)` in half precision: what lies outside the scan is the scan mirrored.
        """
        extent = scan.shape[1:]
        size = [
            (max(n, -(-e // f)) if self.patch else n) * f + 2 * m * f
            for n, e, f, m in zip(self.work, extent, self.factor, self.margin, strict=True)
        ]
        voxels = torch.from_numpy(cut(scan, centred(extent, size), size))
        return F.avg_pool3d(voxels[None], self.factor)[0].half()

    def coarse(self, cells: Tensor, frames: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Look for volumes in every scan, as they are and mirrored.

        Args:
            cells: `(B, C, z, y, x)`, averaged volumes.
            frames: Of the scans.

        Returns:
            Correlations `(2, scans, B)` and the cells `(2, scans, B, 3)` where each fits best.
        """
        wide = F.avg_pool3d(cells, COARSER)
        queries = band(torch.cat([wide, wide.flip(2 + self.mirror)]))
        correlations, places = [], []
        for frame in frames:
            around = band(F.avg_pool3d(frame[None].to(cells), COARSER, ceil_mode=True))
            found = [align(some, around) for some in queries.split(CHUNK)]
            correlations.append(torch.cat([c for c, _ in found]).view(2, -1))
            places.append(torch.cat([p for _, p in found]).view(2, -1, 3) * COARSER)
        return torch.stack(correlations, 1), torch.stack(places, 1)

    def fine(self, cells: Tensor, frame: Tensor, place: Tensor) -> tuple[float, Tensor]:
        """Look for one volume around a place.

        Args:
            cells: `(C, z, y, x)`, an averaged volume.
            frame: Of the scan.
            place: The cell (3,) of the frame around which to look.

        Returns:
            The correlation, and the window `(C, z, y, x)` of the frame that fits best.
        """
        box = []
        for p, n, size in zip(place.tolist(), cells.shape[1:], frame.shape[1:], strict=True):
            last = size - n
            box.append(slice(min(max(p - REACH, 0), last), min(p + REACH, last) + n))
        z, y, x = box
        around = frame[:, z, y, x].to(cells)
        correlation, (start,) = align(band(cells[None]), band(around[None]))
        z, y, x = (slice(int(s), int(s) + n) for s, n in zip(start, cells.shape[1:], strict=True))
        return float(correlation), around[:, z, y, x]
