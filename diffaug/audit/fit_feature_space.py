"""Fitting the audit's encoder: two changed views of one scan are alike, those of different scans are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffaug.audit.feature_space import FeatureSpace
from diffaug.budgets import Training
from diffaug.copies.alignment import working_factor
from diffaug.copies.changes import apply, draw_mixture
from diffaug.scans.windows import Window, cut
from diffaug.training.loop import train
from diffaug.training.step import Unwatched

FEATURE_STEPS = {"cpu": 500, "cuda": 4000}
GROUP = 8  # scans told apart in a step
TEMPERATURE = 0.1  # SimCLR, arXiv 2002.05709, table 5
SCATTER = 0.05  # of the room a window has in a larger scan: windows of a group lie at about the same place


class FeatureSpaceObjective(Unwatched):
    """Trains the encoder by contrast (SimCLR, arXiv 2002.05709, equation 1) on scans averaged to working resolution.

    Windows of a group lie at about the same place of their scans, so that anatomy alone tells nothing. `mirror` is the array
    axis (0 to 2) that runs left-right.
    """

    def __init__(
        self, volume: Callable[[str], np.ndarray], cases: Sequence[str], *, shape: Sequence[int], mirror: int
    ) -> None:
        factor = working_factor(shape)
        self.mirror = mirror
        self.shape = tuple(n // f for n, f in zip(shape, factor, strict=True))
        self.encoder = FeatureSpace(channels=volume(cases[0]).shape[0], factor=factor)
        self.networks: dict[str, nn.Module] = {"encoder": self.encoder}
        self.scans = [self._reduced(volume(case), shape) for case in cases]

    def _reduced(self, scan: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Average a scan to cells, at least a window of them."""
        size = [max(e, n) for e, n in zip(scan.shape[1:], shape, strict=True)]
        start = tuple(-((n - e) // 2) for n, e in zip(size, scan.shape[1:], strict=True))
        whole = torch.from_numpy(cut(scan, Window(start, scan.shape[1:]), size))
        return self.encoder.reduce(whole[None])[0].numpy()

    def example(self, rng: np.random.Generator) -> Tensor:
        """Draw a group of scans and two changed views of each.

        Args:
            rng: Source of randomness.

        Returns:
            `(scans, 2, C, z, y, x)`.
        """
        place = rng.uniform(0, 1, 3)
        views = []
        for pick in rng.permutation(len(self.scans))[:GROUP]:
            scan = self.scans[pick]
            own = np.clip(place + rng.normal(0, SCATTER, 3), 0, 1)
            room = [e - n for e, n in zip(scan.shape[1:], self.shape, strict=True)]
            window = Window(tuple(round(float(o) * r) for o, r in zip(own, room, strict=True)), scan.shape[1:])
            for _ in range(2):
                views.append(apply(draw_mixture(rng), scan, window, self.shape, self.mirror))
        return torch.from_numpy(np.stack(views)).unflatten(0, (-1, 2))

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimiser.

        Args:
            learning_rate: At its peak.

        Returns:
            The optimiser of the encoder.
        """
        return {"encoder": AdamW(self.encoder.parameters(), learning_rate, weight_decay=1e-2)}

    def losses(self, batch: Tensor, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the contrastive loss, mean over the groups of the batch.

        Args:
            batch: `(B, scans, 2, C, z, y, x)`.
            progress: Share of the training that is done.

        Yields:
            Optimiser, loss, figures.
        """
        losses, right = [], []
        for group in batch:
            vectors = self.encoder.embed(group.transpose(0, 1).flatten(0, 1))
            logits = (vectors @ vectors.T / TEMPERATURE).fill_diagonal_(-1e9)
            partner = torch.arange(len(vectors), device=logits.device).roll(len(group))
            losses.append(F.cross_entropy(logits, partner))
            right.append((logits.argmax(1) == partner).float().mean())
        yield "encoder", torch.stack(losses).mean(), {"told_apart": torch.stack(right).mean()}


def fit_feature_space(
    volume: Callable[[str], np.ndarray],
    cases: Sequence[str],
    *,
    shape: Sequence[int],
    mirror: int,
    fabric: Fabric,
    folder: Path,
) -> FeatureSpace:
    """Fit the encoder to real scans, going on where a stopped fit left off.

    Args:
        volume: Gives a scan `(C, Z, Y, X)` in [-1, 1] of its own extent.
        cases: Ids of the scans.
        shape: Voxels (Z, Y, X) of a window.
        mirror: Array axis (0 to 2) that runs left-right.
        fabric: Device and processes.
        folder: Where a stopped fit goes on from.

    Returns:
        The encoder.
    """
    training = Training(steps=FEATURE_STEPS[fabric.device.type], batch_size=1, learning_rate=2e-3)
    torch.manual_seed(training.seed)
    objective = FeatureSpaceObjective(volume, cases, shape=shape, mirror=mirror)
    identity = [list(cases), list(shape), mirror]
    train(objective, objective.example, training, fabric=fabric, folder=folder, name="encoder", identity=identity)
    return objective.encoder.eval()
