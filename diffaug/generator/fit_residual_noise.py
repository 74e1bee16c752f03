"""What residual noise is trained towards: the distribution of what scans lack, by energy scores of small patches.

The energy score (Gneiting and Raftery 2007, JASA 102:359, equation 21) of two draws x, x' and the truth y,
|x - y| - |x - x'| / 2, is least on the mean where the draws are distributed as the truth is: strength, heavy tails and what
goes with what. It is taken over single voxels, small patches and whole volumes, of the values and of their differences along
each axis, at two resolutions, for in large patches colour hardly shows; and once more of how loud each block is, so that
some volumes are louder than others, and some places.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.fit_autoencoder import PIECE_REACH, PIECES, centre_window
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.residual_noise import ResidualNoise
from diffaug.scans.cache import VolumeCache
from diffaug.scans.pictures import mosaic
from diffaug.scans.windows import cut, scattered
from diffaug.training.overfitting import Watch

PATCHES = (1, 2, 3)  # edges in voxels of what is compared as a whole, beside the volume itself
FLOOR, MANY = -0.999, 0.01  # a volume of which more voxels lie at the end of the range has been cut off there
BLOCK = 4  # edge in voxels of what is as loud as its mean square
QUIETEST = 0.005  # what is quieter nobody sees, in units of the range of -1 to 1
JUDGED = 8  # held-out scans that measure it
TINIEST = 1e-8  # keeps the root's gradient finite


def energy_score(first: Tensor, second: Tensor, truth: Tensor) -> Tensor:
    """Score two draws against the truth: the lower, the more alike they are distributed.

    Args:
        first: `(B, C, Z, Y, X)`.
        second: Another draw, of the same shape.
        truth: Of the same shape.

    Returns:
        A number: each kind of patch counts alike.
    """
    sizes = _lengths(truth).clamp_min(1e-6)
    apart = (_lengths(first - truth) + _lengths(second - truth)) / 2 - _lengths(first - second) / 2
    loud = [_loudness(volumes) for volumes in (first, second, truth)]
    louder = (_apart(loud[0], loud[2]) + _apart(loud[1], loud[2])) / 2 - _apart(loud[0], loud[1]) / 2
    return (apart / sizes.detach()).mean() + louder


def _loudness(volumes: Tensor) -> Tensor:
    """Measure how loud each block of each volume is, in each band, as logarithms `(B, N)`."""
    found = []
    for band in _bands(volumes):
        square = band.square().sum(1, keepdim=True)
        block = [min(BLOCK, n) for n in square.shape[2:]]
        found.append((F.avg_pool3d(square, block) + QUIETEST**2).log().flatten(1) / 2)
    return torch.cat(found, 1)


def _apart(first: Tensor, second: Tensor) -> Tensor:
    return ((first - second).square().mean(1) + TINIEST).sqrt().mean()


def _lengths(difference: Tensor) -> Tensor:
    """Measure a difference: its mean length over patches of each kind."""
    found = []
    for band in _bands(difference):
        square = band.square().sum(1, keepdim=True)
        for edge in PATCHES:
            patch = [min(edge, n) for n in square.shape[2:]]
            pooled = F.avg_pool3d(square, patch, stride=[max(1, n - 1) for n in patch])
            found.append((pooled + TINIEST).sqrt().mean())
        found.append((square.mean((1, 2, 3, 4)) + TINIEST).sqrt().mean())
    return torch.stack(found)


def _bands(volumes: Tensor) -> Iterator[Tensor]:
    """Give values and differences along each axis, of the volumes and of the same at half the resolution."""
    for scaled in (volumes, F.avg_pool3d(volumes, [min(2, n) for n in volumes.shape[2:]])):
        yield scaled
        yield from (scaled.diff(dim=axis) for axis in (2, 3, 4) if scaled.shape[axis] > 1)


class ResidualNoiseObjective:
    """Trains what is drawn onto the autoencoder's volumes; the autoencoder itself stays as it is."""

    averaged: str | None = None
    watch: Watch | None = None

    def __init__(self, plan: GeneratorPlan, autoencoder: Autoencoder, cache: VolumeCache) -> None:
        self.plan = plan
        self.cache = cache
        self.autoencoder = autoencoder.eval()
        self.residual_noise = ResidualNoise(len(plan.channels))
        self.networks: dict[str, nn.Module] = {"residual_noise": self.residual_noise}
        shape = plan.grid.shape
        self.held_out = torch.stack(
            [torch.from_numpy(centre_window(cache, case, shape)) for case in plan.held_out[:JUDGED]]
        )
        pieces = torch.stack([self.example(np.random.default_rng(number)) for number in range(PIECES)])
        at_the_floor = (pieces <= FLOOR).double().mean((0, 2, 3, 4), keepdim=True)
        self.residual_noise.cut_off.copy_(at_the_floor > MANY)
        noises = torch.Generator().manual_seed(plan.residual_noise_training.seed)
        self.noises = [torch.stack([self.residual_noise.draw(shape, noises) for _ in self.held_out]) for _ in range(2)]

    def example(self, rng: np.random.Generator) -> Tensor:
        """Draw a piece of a random scan.

        Args:
            rng: Source of randomness.

        Returns:
            `(C, Z, Y, X)`.
        """
        case = self.plan.cases[rng.integers(len(self.plan.cases))]
        volume, crop = self.cache[case], self.plan.autoencoder_crop
        return torch.from_numpy(cut(volume, scattered(volume.shape[1:], crop, PIECE_REACH, rng), crop))

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimiser.

        Args:
            learning_rate: At its peak.

        Returns:
            The one of the network.
        """
        return {"residual_noise": AdamW(self.residual_noise.parameters(), learning_rate)}

    @torch.no_grad()
    def _made(self, scans: Tensor) -> tuple[Tensor, Tensor]:
        return self.autoencoder.decode_and_estimate(self.autoencoder.encode(scans))

    def losses(self, batch: Tensor, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the energy score of two draws.

        Args:
            batch: `(B, C, Z, Y, X)`.
            progress: Share of the training that is done.

        Yields:
            Optimiser, loss, figures.
        """
        made, lost = self._made(batch)
        network, size = self.networks["residual_noise"], batch.shape[2:]
        assert isinstance(network, ResidualNoise)
        first, second = (
            network.add(made, lost, torch.stack([network.draw(size) for _ in batch]).to(batch)) - made for _ in range(2)
        )
        yield "residual_noise", energy_score(first, second, batch - made), {}

    @torch.no_grad()
    def validate(self, average: nn.Module | None) -> dict[str, float]:
        """Score draws for held-out scans, always from the same noise.

        Args:
            average: Not used.

        Returns:
            The score, and how loud the noise is beside what is truly lost, one where it is right.
        """
        device = next(self.residual_noise.parameters()).device
        scores, loud = [], []
        for number, scan in enumerate(self.held_out):
            scan = scan[None].to(device)
            made, lost = self._made(scan)
            noises = [noise[number][None].to(device) for noise in self.noises]
            draws = [self.residual_noise.add(made, lost, noise) - made for noise in noises]
            scores.append(float(energy_score(draws[0], draws[1], scan - made)))
            loud.append(float(draws[0].square().mean() / (scan - made).square().mean().clamp_min(1e-12)))
        return {"held_out": float(np.mean(scores)), "loudness": float(np.sqrt(np.mean(loud)))}

    @torch.no_grad()
    def preview(self, file: Path, average: nn.Module | None) -> None:
        """Draw held-out scans, what the autoencoder leaves of them, and that with residual noise.

        Args:
            file: The PNG.
            average: Not used.
        """
        scans = self.held_out.to(next(self.residual_noise.parameters()).device)
        made, lost = self._made(scans)
        noisy = self.residual_noise.add(made, lost, self.noises[0].to(scans))
        named = {"scans": scans, "reconstructions": made, "with noise": noisy}
        rows = {name: [volume[0] for volume in volumes.cpu().numpy()] for name, volumes in named.items()}
        mosaic(rows, file, spacing=self.plan.grid.spacing, orientation=self.plan.grid.orientation)
