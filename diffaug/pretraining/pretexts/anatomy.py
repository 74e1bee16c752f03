"""Anatomy: tell apart what a scan shows from how it looks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.nnunet.families import Network
from diffaug.nnunet.restyling import MAPS, Painter, StyleEncoder
from diffaug.pretraining.pretexts.appearance import vary
from diffaug.pretraining.pretexts.pretext import Pretext, Shown
from diffaug.training.together import chance


class Appearances(nn.Module):
    """What tells an appearance and what paints in it, trained together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.style, self.painter = StyleEncoder(channels), Painter(channels)

    def forward(self, maps: Tensor, like: Tensor) -> Tensor:
        """Paint tissue maps as other volumes look."""
        return self.painter(maps, self.style(like))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Anatomy(Pretext):
    """Turn a scan of changed appearance into soft tissue maps, from which its own appearance can be painted.

    The painter works voxel by voxel and is told a few numbers, read off another view of the same scan; so all that lies
    somewhere must be in the maps, and what a tissue looks like must not. The maps are what labels will be made of, while a
    restored scan is intensities.

    Attributes:
        helper: Style encoder and painter.
    """

    helper: Appearances | None = None

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`."""
        return MAPS

    def suited(self, network: Network, channels: int) -> Anatomy:
        """See `Pretext.suited`."""
        return replace(self, helper=Appearances(channels))

    @torch.no_grad()
    def styles(self, volumes: Iterable[Tensor]) -> dict[str, Any]:
        """See `Pretext.styles`."""
        assert self.helper is not None
        device = next(self.helper.parameters()).device
        codes = torch.cat([self.helper.style(volume[None].to(device)) for volume in volumes])
        painter = {name: tensor.cpu().clone() for name, tensor in self.helper.painter.state_dict().items()}
        return {"painter": painter, "codes": codes.cpu()}

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`; the loss is the mean absolute plus the mean squared error."""
        assert self.helper is not None
        seen = vary(clean, networks=True)
        maps = network(seen).float().softmax(1)
        axis = int(torch.randint(2, 5, (), generator=chance(torch.device("cpu"))))
        painted = self.helper(maps, clean.flip(axis))  # mirrored: what lies where is of no use to the painter
        return Shown(F.l1_loss(painted, clean) + F.mse_loss(painted, clean), seen, painted, clean)
