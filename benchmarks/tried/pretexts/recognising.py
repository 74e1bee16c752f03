"""Pretexts that tell voxels apart: by contrast, by a generator's features, by the share of another scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from torch import Tensor, nn

from diffaug.pretraining.pretexts import Pretext, Shown
from diffaug.pretraining.pretexts.appearance import vary
from diffaug.pretraining.teacher import CLUSTERS, FEATURES


@dataclass(frozen=True)
class Contrast(Pretext):
    """Tell places apart whatever the appearance (anatomix, arXiv 2411.02372; InfoNCE, arXiv 1807.03748).

    Attributes:
        embedded: Length of a voxel's embedding.
        places: Voxels drawn per volume; all of a batch are contrasted with each other.
        temperature: Of the softmax.
    """

    embedded: int = 16
    places: int = 256
    temperature: float = 0.1

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


@dataclass(frozen=True)
class Distil(Pretext):
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


@dataclass(frozen=True)
class Fusion(Pretext):
    """Segment how much of another scan was mixed in (VolumeFusion, arXiv 2306.16925); trains encoder and decoder.

    Attributes:
        levels: Shares of the other scan beside none: 1/levels to 1.
        boxes: Boxes per volume, of random size, place and share.
        smallest: Edge of a box, as a share of the patch.
        largest: The same.
    """

    levels: int = 4
    boxes: int = 20
    smallest: float = 0.15
    largest: float = 0.5

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
