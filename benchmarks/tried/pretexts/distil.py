"""Distillation: say of every voxel what the generator's own networks say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.pretraining.pretexts import Shown
from diffaug.pretraining.pretexts.appearance import vary
from diffaug.pretraining.teacher import CLUSTERS, FEATURES


@dataclass(frozen=True)
class Distil:
    """Predict the generator's features voxel by voxel (DreamTeacher, arXiv 2307.07487), whatever the appearance."""

    taught: ClassVar[int] = FEATURES + CLUSTERS

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`."""
        return FEATURES

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`; the loss is the mean squared error, about one for a useless network."""
        volume, features = clean[:, : -self.taught], clean[:, -self.taught :][:, :FEATURES]
        seen = vary(volume)
        predicted = network(seen).float()
        return Shown(F.mse_loss(predicted, features), seen, predicted, features)
