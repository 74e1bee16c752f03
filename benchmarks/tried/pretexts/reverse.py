"""Augmentation reversal: give a scan of changed appearance its own back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.pretraining.pretexts import Shown
from diffaug.pretraining.pretexts.appearance import vary


@dataclass(frozen=True)
class Reverse:
    """Give a scan of changed appearance its own back (AMAES, arXiv 2408.00640; Models Genesis, arXiv 2004.07882)."""

    taught: ClassVar[int] = 0

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`."""
        return channels

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`; the loss is the mean squared error."""
        seen = vary(clean)
        predicted = network(seen).float()
        return Shown(F.mse_loss(predicted, clean), seen, predicted, clean)
