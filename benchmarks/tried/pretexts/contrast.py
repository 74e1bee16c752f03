"""Dense contrast: the same place looks alike in two appearances, and unlike every other place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.pretraining.pretexts import Shown
from diffaug.pretraining.pretexts.appearance import vary


@dataclass(frozen=True)
class Contrast:
    """Tell places apart whatever the appearance (anatomix, arXiv 2411.02372; InfoNCE, arXiv 1807.03748).

    Attributes:
        embedded: Length of a voxel's embedding.
        places: Voxels drawn per volume; all of a batch are contrasted with each other.
        temperature: Of the softmax.
        taught: See `Pretext.taught`.
    """

    embedded: int = 16
    places: int = 256
    temperature: float = 0.1

    taught: ClassVar[int] = 0

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`."""
        return self.embedded

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`; the loss is the share of its largest value, which a useless network has; pictures are the
        first component of both views' embeddings.
        """
        views = vary(clean), vary(clean)
        embeddings = [F.normalize(network(view).float(), dim=1) for view in views]
        flat = [embedding.flatten(2) for embedding in embeddings]
        drawn = torch.randint(flat[0].shape[2], (self.places,), device=clean.device)
        first, second = (each[:, :, drawn].movedim(1, 2).flatten(0, 1) for each in flat)
        likeness = first @ second.T / self.temperature
        own = torch.arange(len(first), device=clean.device)
        loss = (F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own)) / 2
        useless = torch.log(torch.tensor(float(len(first))))
        return Shown(loss / useless, views[0], embeddings[0][:, :1], embeddings[1][:, :1])
