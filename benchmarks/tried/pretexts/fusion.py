"""Volume fusion: two scans are mixed in boxes, and the share of each is segmented voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from diffaug.pretraining.pretexts import Shown


@dataclass(frozen=True)
class Fusion:
    """Segment how much of another scan was mixed in (VolumeFusion, arXiv 2306.16925); trains encoder and decoder.

    Attributes:
        levels: Shares of the other scan beside none: 1/levels to 1.
        boxes: Boxes per volume, of random size, place and share.
        smallest: Edge of a box, as a share of the patch.
        largest: The same.
        taught: See `Pretext.taught`.
    """

    levels: int = 4
    boxes: int = 20
    smallest: float = 0.15
    largest: float = 0.5
    taught: ClassVar[int] = 0

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`: one per share."""
        return self.levels + 1

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`; the loss is Dice plus cross entropy, pictures are shares of the other scan."""
        level = torch.stack([self._levels(clean.shape[2:]) for _ in clean])[:, None].to(clean.device)
        share = level / self.levels
        seen = clean * (1 - share) + clean.roll(1, 0) * share
        predicted = network(seen).float()
        loss = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)(predicted, level)
        return Shown(loss, seen, predicted.argmax(1, keepdim=True) / self.levels, share)

    def _levels(self, size: torch.Size) -> Tensor:
        levels = torch.zeros(size)
        for level in torch.randint(1, self.levels + 1, (self.boxes,)).tolist():
            edges = self.smallest + (self.largest - self.smallest) * torch.rand(3)
            box = []
            for n, edge in zip(size, edges.tolist(), strict=True):
                length = max(1, round(n * edge))
                start = int(torch.randint(0, n - length + 1, ()))
                box.append(slice(start, start + length))
            levels[tuple(box)] = level
        return levels
