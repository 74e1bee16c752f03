"""What the embedding is trained towards: two changes of one scan are alike, those of different scans are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffaug.copies.changes import apply, draw_mixture
from diffaug.copies.embedding import Embedding
from diffaug.engine.turning import Watch
from diffaug.volumes.windows import Window

GROUP = 8  # scans per example; each is told from the others
TEMPERATURE = 0.1  # of the contrastive loss
APART = 0.05  # standard deviation of where windows of one example lie, as a share of the room they have


class EmbeddingObjective:
    """Trains the embedding by contrast (SimCLR, arXiv 2002.05709).

    All windows of one example lie at the same relative place of their scans, for it is too easy to tell places apart.

    Args:
        embedding: What to train.
        frames: Averaged scans, each `(C, Z, Y, X)` of its own size.
        work: Cells (Z, Y, X) of a window.
        mirror: Array axis (0 to 2) that runs left-right.
    """

    averaged: str | None = None
    watch: Watch | None = None

    def __init__(self, embedding: Embedding, frames: Sequence[Tensor], work: Sequence[int], mirror: int) -> None:
        self.embedding = embedding
        self.networks: dict[str, nn.Module] = {"embedding": embedding}
        self.frames = [frame.numpy() for frame in frames]
        self.work = tuple(work)
        self.mirror = mirror

    def example(self, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw windows of several scans and change each twice.

        Args:
            generator: Source of randomness.

        Returns:
            Views `(scans, 2, C, z, y, x)` and the scans' numbers.
        """
        numbers = generator.permutation(len(self.frames))[:GROUP]
        place = generator.uniform(0, 1, 3)
        views = []
        for number in numbers:
            frame = self.frames[number]
            near = np.clip(place + APART * generator.standard_normal(3), 0, 1)
            room = [e - n for e, n in zip(frame.shape[1:], self.work, strict=True)]
            window = Window(tuple(round(p * r) for p, r in zip(near, room, strict=True)), frame.shape[1:])
            for _ in range(2):
                views.append(apply(draw_mixture(generator), frame, window, self.work, self.mirror))
        return torch.from_numpy(np.stack(views)).unflatten(0, (-1, 2)), torch.from_numpy(numbers)

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimiser.

        Args:
            learning_rate: At its peak.

        Returns:
            The optimiser of the embedding.
        """
        return {"embedding": AdamW(self.embedding.parameters(), learning_rate, weight_decay=1e-2)}

    def losses(self, batch: Any, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the contrastive loss.

        Args:
            batch: Views `(B, scans, 2, C, z, y, x)` and the scans' numbers.
            progress: Not used.

        Yields:
            Optimiser, loss, figures.
        """
        views, numbers = batch
        first, second = views.flatten(0, 1).unbind(1)
        vectors = self.embedding.embed(torch.cat([first, second]))
        loss, recognised = contrast(vectors, numbers.flatten())
        yield "embedding", loss, {"recognised": recognised}

    @torch.no_grad()
    def validate(self, average: nn.Module | None) -> dict[str, float]:
        """Measure nothing: how well copies are found is measured once, on real scans, when the detector is calibrated.

        Args:
            average: Not used.

        Returns:
            No figures.
        """
        return {}

    def preview(self, file: Path, average: nn.Module | None) -> None:
        """Draw nothing: a vector has no look.

        Args:
            file: Not used.
            average: Not used.
        """


def contrast(vectors: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Ask of each view which other one shows the same scan: NT-Xent (arXiv 2002.05709, equation 1).

    Args:
        vectors: `(2 B, D)` unit vectors: first views, then second views in the same order.
        numbers: `(B,)`, the scan of each. Further views of one scan in a batch are neither partner nor stranger.

    Returns:
        The mean cross-entropy, and the share of views whose partner is the most similar.
    """
    count = len(numbers)
    places = torch.arange(2 * count, device=vectors.device)
    partner = (places + count) % (2 * count)
    of = numbers.repeat(2)
    passed_over = of[:, None] == of[None]
    passed_over[places, partner] = False
    logits = (vectors @ vectors.T / TEMPERATURE).masked_fill(passed_over, -torch.inf)
    return F.cross_entropy(logits, partner), (logits.detach().argmax(1) == partner).float().mean()
