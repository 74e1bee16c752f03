"""A small network that learns to tell two sets of volumes apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffaug.training.step import Unwatched

SEEN_EDGE = 32  # voxels along each axis of what the classifier sees at once
JITTER = 2  # voxels that a volume is moved by, at most: a place in the array must not give anybody away
# The first level at full resolution, and thin: with a stride there the classifier overlooks noise of the wrong kind (an
# area of 0.55 where this one has 0.99, see docs/notebook/telling_apart.md)
CLASSIFIER_LEVELS = ((12, 1), (32, 2), (48, 2), (64, 1))  # channels and stride
DROPOUT = 0.2


class Classifier(nn.Module):
    """Four convolutions, mean and maximum over space, one logit.

    Batch normalisation, for it leaves alone by how much volumes differ from each other: what instance or group norms take
    away is just what gives samples away.

    Args:
        channels: C of the volumes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, stride in CLASSIFIER_LEVELS:
            layers += [nn.Conv3d(channels, wide, 3, stride, 1), nn.BatchNorm3d(wide), nn.SiLU()]
            channels = wide
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(2 * channels, 1)

    def forward(self, volumes: Tensor) -> Tensor:
        """Judge volumes.

        Args:
            volumes: `(B, C, Z, Y, X)` in [-1, 1].

        Returns:
            `(B,)`: above zero where it takes a volume for one of the second set.
        """
        maps = self.layers(volumes).flatten(2)
        return self.head(F.dropout(torch.cat([maps.mean(2), maps.amax(2)], 1), DROPOUT, self.training))[:, 0]


class ClassifierObjective(Unwatched):
    """Trains a classifier on two sets of volumes `(C, Z, Y, X)` of one shape, as many of either in every batch.

    `mirror` is the array axis (0 to 2) that runs left-right.
    """

    def __init__(self, sets: Sequence[Sequence[np.ndarray]], mirror: int) -> None:
        self.sets = sets
        self.mirror = mirror
        self.classifier = Classifier(sets[0][0].shape[0])
        self.networks: dict[str, nn.Module] = {"classifier": self.classifier}

    def example(self, rng: np.random.Generator) -> Tensor:
        """Draw a volume of either set, moved and mirrored at random, and cut to what the classifier sees.

        Args:
            rng: Source of randomness.

        Returns:
            `(2, C, z, y, x)`.
        """
        return torch.from_numpy(np.stack([self._drawn(volumes, rng) for volumes in self.sets]))

    def _drawn(self, volumes: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        volume = volumes[int(rng.integers(len(volumes)))]
        if rng.random() < 0.5:
            volume = np.flip(volume, self.mirror + 1)
        room = [max(n - SEEN_EDGE, 0) for n in volume.shape[1:]]
        moved = rng.integers(-JITTER, JITTER + 1, 3)
        start = [rng.integers(r + 1) for r in room]
        return _piece(np.roll(volume, [0 if r else int(m) for r, m in zip(room, moved, strict=True)], (1, 2, 3)), start)

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimiser.

        Args:
            learning_rate: At its peak.

        Returns:
            The optimiser of the classifier.
        """
        return {"classifier": AdamW(self.classifier.parameters(), learning_rate, weight_decay=1e-2)}

    def losses(self, batch: Tensor, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the cross entropy.

        Args:
            batch: `(B, 2, C, z, y, x)`.
            progress: Share of the training that is done.

        Yields:
            Optimiser, loss, figures.
        """
        logits = self.classifier(batch.transpose(0, 1).flatten(0, 1))
        second = torch.arange(len(logits), device=logits.device) >= len(batch)
        yield "classifier", F.binary_cross_entropy_with_logits(logits, second.to(logits)), {}

    @torch.no_grad()
    def judge(self, volume: np.ndarray, device: torch.device) -> float:
        """Give the classifier's logit for a volume, averaged over its mirror image and, where it is large, over places."""
        self.classifier.eval()
        pieces = [_piece(v, at) for v in (volume, np.flip(volume, self.mirror + 1)) for at in _places(volume.shape[1:])]
        return float(self.classifier(torch.from_numpy(np.stack(pieces)).to(device)).mean())


def _places(shape: Sequence[int]) -> list[list[int]]:
    """Choose the places at which a volume is looked at: as many as it takes to see every voxel."""
    along = [np.linspace(0, max(n - SEEN_EDGE, 0), -(-n // SEEN_EDGE)).round().astype(int).tolist() for n in shape]
    return [list(place) for place in product(*along)]


def _piece(volume: np.ndarray, start: Sequence[int]) -> np.ndarray:
    z, y, x = (slice(s, s + SEEN_EDGE) for s in start)
    return np.ascontiguousarray(volume[:, z, y, x], dtype=np.float32)
