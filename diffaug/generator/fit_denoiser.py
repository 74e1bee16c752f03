"""What the denoiser is trained towards: cached latents, log-normal noise levels, held-out loss per level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.denoiser import Denoiser
from diffaug.generator.diffusion import denoising_error, draw_sigma
from diffaug.generator.model import Generator
from diffaug.generator.plan import GeneratorPlan
from diffaug.volumes.cache import VolumeCache
from diffaug.volumes.pictures import mosaic
from diffaug.volumes.windows import Window, coordinates, cut, scattered

HELD_OUT_SIGMAS = (0.1, 0.3, 1.0, 3.0, 10.0)
HELD_OUT_VOLUMES = 8  # per noise level
PREVIEW_STEPS = 12


@torch.no_grad()
def encode_views(
    autoencoder: Autoencoder,
    plan: GeneratorPlan,
    cache: VolumeCache,
    cases: Sequence[str],
    device: torch.device,
) -> tuple[np.ndarray, list[Window]]:
    """Encode several windows of every scan, once and for all.

    The windows differ by a few voxels (`whole`) or lie anywhere (`patch`); the coordinates tell the denoiser where, so
    that shifts teach it and never leak into samples.

    Args:
        autoencoder: The fitted autoencoder.
        plan: The plan.
        cache: Preprocessed scans.
        cases: Which scans.
        device: Where to compute.

    Returns:
        Latents `(cases * views, C, z, y, x)` float32, and their windows.
    """
    autoencoder.to(device).eval()
    reach = 2 if plan.grid.field_of_view == "whole" else 0
    latents, windows = [], []
    for case in cases:
        volume = cache[case]
        generator = np.random.default_rng((plan.denoiser_training.seed, *case.encode()))
        for _ in range(plan.views):
            windows.append(scattered(volume.shape[1:], plan.grid.shape, reach, generator))
            view = torch.from_numpy(cut(volume, windows[-1], plan.grid.shape))[None].to(device)
            latents.append(autoencoder.encode(view)[0].float().cpu().numpy())
    return np.stack(latents), windows


class DenoiserObjective:
    """Trains the denoiser on cached latents."""

    averaged: str | None = "denoiser"

    def __init__(
        self,
        plan: GeneratorPlan,
        autoencoder: Autoencoder,
        latents: tuple[np.ndarray, list[Window]],
        held_out: tuple[np.ndarray, list[Window]],
    ) -> None:
        self.plan = plan
        self.autoencoder = autoencoder
        values = torch.from_numpy(latents[0])
        self.mean = values.mean((0, 2, 3, 4), keepdim=True)
        self.std = values.std((0, 2, 3, 4), keepdim=True).clamp_min(1e-6)
        self.latents = (values - self.mean) / self.std
        self.windows = latents[1]
        self.held_out_latents = (torch.from_numpy(held_out[0]) - self.mean) / self.std
        self.held_out_windows = held_out[1]
        self.networks: dict[str, nn.Module] = {"denoiser": Denoiser(**plan.denoiser)}

    def example(self, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw a latent.

        Args:
            generator: Source of randomness.

        Returns:
            The standardised latent `(C, z, y, x)` and its coordinates `(3, z, y, x)`.
        """
        number = int(generator.integers(len(self.latents)))
        return self.latents[number], self._coordinates([self.windows[number]])[0]

    def _coordinates(self, windows: Sequence[Window]) -> Tensor:
        return coordinates(windows, self.plan.grid.shape, self.plan.latent_shape)

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimiser.

        Args:
            learning_rate: At its peak.

        Returns:
            The optimiser of the denoiser.
        """
        return {"denoiser": AdamW(self.networks["denoiser"].parameters(), learning_rate, weight_decay=1e-2)}

    def losses(self, batch: Any, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the denoising loss.

        Args:
            batch: Latents and coordinates.
            progress: Share of the training that is done.

        Yields:
            Optimiser, loss, figures.
        """
        latent, places = batch
        sigma = draw_sigma(len(latent), latent.device)
        denoiser = self.networks["denoiser"]
        assert isinstance(denoiser, Denoiser)
        yield "denoiser", denoising_error(denoiser, latent, places, sigma, torch.randn_like(latent)).mean(), {}

    @torch.no_grad()
    def validate(self, average: nn.Module | None) -> dict[str, float]:
        """Measure the loss on latents of held-out scans at fixed noise levels, with fixed noise.

        Args:
            average: The averaged denoiser.

        Returns:
            The loss at each level, and their mean.
        """
        denoiser = self._averaged(average)
        device = next(denoiser.parameters()).device
        latent = self.held_out_latents[:HELD_OUT_VOLUMES].to(device)
        places = self._coordinates(self.held_out_windows[:HELD_OUT_VOLUMES]).to(device)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)).to(device)
        figures = {}
        for level in HELD_OUT_SIGMAS:
            sigma = torch.full((len(latent),), level, device=device)
            figures[f"held_out_at_{level:g}"] = float(denoising_error(denoiser, latent, places, sigma, noise).mean())
        return {"held_out": sum(figures.values()) / len(figures), **figures}

    @staticmethod
    def _averaged(average: nn.Module | None) -> Denoiser:
        denoiser = getattr(average, "module", None)
        assert isinstance(denoiser, Denoiser)
        return denoiser.eval()

    def generator(self, average: nn.Module | None, extents: list[tuple[int, ...]]) -> Generator:
        """Put the parts together.

        Args:
            average: The averaged denoiser.
            extents: Voxels of the training scans.

        Returns:
            The generator.
        """
        return Generator(self.plan, self.autoencoder, self._averaged(average), self.mean, self.std, extents)

    def preview(self, file: Path, average: nn.Module | None) -> None:
        """Draw samples of the averaged denoiser.

        Args:
            file: The PNG.
            average: The averaged denoiser.
        """
        generator = self.generator(average, [w.extent for w in self.windows])
        device = next(self._averaged(average).parameters()).device
        volumes, _ = generator.to(device).sample(0, range(4), sampler="dpmpp", steps=PREVIEW_STEPS)
        self.mean, self.std = self.mean.cpu(), self.std.cpu()
        rows = {"synthetic": [v[0] for v in volumes.numpy()]}
        mosaic(rows, file, spacing=self.plan.grid.spacing, orientation=self.plan.grid.orientation)
