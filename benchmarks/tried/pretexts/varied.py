"""Any pretext on volumes of varied appearance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from diffaug.pretraining.pretexts import Pretext, Shown
from diffaug.pretraining.pretexts.appearance import vary


@dataclass(frozen=True)
class Varied:
    """Another pretext on volumes of varied appearance.

    Attributes:
        pretext: The other one.
        taught: See `Pretext.taught`.
    """

    pretext: Pretext
    taught: ClassVar[int] = 0

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`."""
        return self.pretext.outputs(channels)

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`."""
        return self.pretext.solve(network, vary(clean))
