"""Clusters: segment what the generator's own networks take for one tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from monai.losses import DiceCELoss
from torch import Tensor, nn

from diffaug.pretraining.pretexts.appearance import vary
from diffaug.pretraining.pretexts.pretext import Pretext, Shown
from diffaug.pretraining.teacher import CLUSTERS, FEATURES


@dataclass(frozen=True)
class Clusters(Pretext):
    """Segment the clusters of the generator's features as if they were organs, whatever the appearance."""

    taught: ClassVar[int] = FEATURES + CLUSTERS

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`."""
        return CLUSTERS

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`; the loss is Dice plus cross entropy, pictures are numbers of clusters."""
        volume, member = clean[:, : -self.taught], clean[:, -CLUSTERS:]
        target = member.argmax(1, keepdim=True)
        seen = vary(volume)
        predicted = network(seen).float()
        loss = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)(predicted, target)
        return Shown(loss, seen, predicted.argmax(1, keepdim=True).float(), target.float())
