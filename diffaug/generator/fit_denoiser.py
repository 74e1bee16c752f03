"""What the denoiser is trained towards: cached latents, log-normal noise levels, held-out loss per level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffaug.copies.detector import CopyDetector
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.condition import Condition
from diffaug.generator.conditions import DROPPED
from diffaug.generator.denoiser import Denoiser
from diffaug.generator.diffusion import denoising_error, draw_sigma
from diffaug.generator.model import Generator
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.refiner import Refiner
from diffaug.generator.views import Views
from diffaug.scans.pictures import mosaic
from diffaug.scans.windows import Window, coordinates
from diffaug.training.overfitting import Watch
from diffaug.training.step import averaged_network
from diffaug.training.together import normal

HELD_OUT_SIGMAS = (0.1, 0.3, 1.0, 3.0, 10.0)
MEASURED_VOLUMES = 8  # per noise level, each of another scan where there are as many
WATCHED = 8  # volumes sampled at every validation, and looked at for copies
WATCHED_STEPS = 8
COPY_SHARE = (
    0.25  # share of them: one real scan in twenty is taken for a copy, so three of eight by chance once in 170 looks
)


class DenoiserObjective:
    """Trains the denoiser on cached latents."""

    averaged: str | None = "denoiser"
    watch: Watch | None = Watch(loss="held_out", limits={"copies": COPY_SHARE})

    def __init__(
        self,
        plan: GeneratorPlan,
        autoencoder: Autoencoder,
        views: Views,
        held_out: Views,
        conditions: Mapping[str, Condition],
        detector: CopyDetector,
        refiner: Refiner | None,
    ) -> None:
        self.plan = plan
        self.detector = detector
        self.refiner = refiner
        self.conditions = [conditions[case] for case in plan.cases]
        self.condition_values = self._condition_values(self.conditions)
        self.autoencoder = autoencoder
        self.views = views
        # one deviation for all channels: those of the coarse structure stand out of more noise, and are decided first
        self.mean, self.std = views.statistics()
        chosen = np.arange(len(held_out)).reshape(-1, plan.views).T.flatten()[:MEASURED_VOLUMES]
        self.held_out_latents = self._standardised(held_out, chosen)
        self.held_out_windows = [held_out.windows[number] for number in chosen]
        self.held_out_condition_values = self._condition_values([conditions[case] for case in plan.held_out])[chosen]
        self.networks: dict[str, nn.Module] = {"denoiser": plan.make_denoiser()}

    def _standardised(self, views: Views, numbers: Sequence[int]) -> Tensor:
        return (torch.stack([views[number] for number in numbers]) - self.mean) / self.std

    def _condition_values(self, conditions: Sequence[Condition]) -> Tensor:
        """Write the conditions of scans for each of their views."""
        return self.plan.conditions.values(conditions, self.plan.grid).repeat_interleave(self.plan.views, 0)

    def example(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a latent. Some are shown without their conditions (arXiv 2207.12598, algorithm 1).

        Args:
            rng: Source of randomness.

        Returns:
            The standardised latent `(C, z, y, x)`, its coordinates `(3, z, y, x)` and its conditions `(channels,)`.
        """
        number = int(rng.integers(len(self.views)))
        condition = self.condition_values[number] * float(rng.random() >= DROPPED)
        return (
            self._standardised(self.views, [number])[0],
            self._coordinates([self.views.windows[number]])[0],
            condition,
        )

    def _coordinates(self, windows: Sequence[Window]) -> Tensor:
        return coordinates(windows, self.plan.grid.shape, self.plan.latent_shape)

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimiser.

        Args:
            learning_rate: At its peak.

        Returns:
            The optimiser of the denoiser.
        """
        # fused: a fifth of the time on a CPU
        return {"denoiser": AdamW(self.networks["denoiser"].parameters(), learning_rate, weight_decay=1e-2, fused=True)}

    def losses(self, batch: Any, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the denoising loss.

        Args:
            batch: Latents, coordinates and conditions.
            progress: Share of the training that is done.

        Yields:
            Optimiser, loss, figures.
        """
        latent, positions, condition_values = batch
        sigma = draw_sigma(len(latent), latent.device)
        denoiser = self.networks["denoiser"]
        assert isinstance(denoiser, Denoiser)
        noise = normal(latent.shape, latent.device)
        error = denoising_error(denoiser, latent, sigma, noise, positions, condition_values)
        yield "denoiser", error.mean(), {}

    @torch.no_grad()
    def validate(self, average: nn.Module | None) -> dict[str, float]:
        """Measure the loss on latents of held-out scans at fixed noise levels, with fixed noise, and look for copies.

        Args:
            average: The averaged denoiser.

        Returns:
            The loss at each level, their mean, and the share of a few samples that are copies of training scans.
        """
        denoiser = averaged_network(average, Denoiser)
        device = next(denoiser.parameters()).device
        latent = self.held_out_latents.to(device)
        positions = self._coordinates(self.held_out_windows).to(device)
        condition_values = self.held_out_condition_values.to(device)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)).to(device)
        figures = {}
        for level in HELD_OUT_SIGMAS:
            sigma = torch.full((len(latent),), level, device=device)
            error = denoising_error(denoiser, latent, sigma, noise, positions, condition_values)
            figures[f"held_out_at_{level:g}"] = float(error.mean())
        generator = self.generator(average, [w.extent for w in self.views.windows[:: self.plan.views]]).to(device)
        self.samples, *_ = generator.synthesise(0, range(WATCHED), sampler="dpmpp", steps=WATCHED_STEPS)
        copies = sum(nearest.copy for nearest in self.detector.judge(self.samples)) / WATCHED
        return {"held_out": sum(figures.values()) / len(figures), **figures, "copies": copies}

    def generator(self, average: nn.Module | None, extents: list[tuple[int, ...]]) -> Generator:
        """Put the parts together.

        Args:
            average: The averaged denoiser.
            extents: Voxels of the training scans, in the plan's order.

        Returns:
            The generator.
        """
        averaged = averaged_network(average, Denoiser)
        parts = (self.plan, self.autoencoder, averaged, self.mean, self.std)
        return Generator(*parts, extents, self.conditions, self.refiner)

    def preview(self, file: Path, average: nn.Module | None) -> None:
        """Draw the samples of the last validation.

        Args:
            file: The PNG.
            average: The averaged denoiser.
        """
        rows = {"synthetic": [v[0] for v in self.samples.numpy()]}
        mosaic(rows, file, spacing=self.plan.grid.spacing, orientation=self.plan.grid.orientation)
