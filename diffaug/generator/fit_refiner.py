"""What the refiner is trained towards: residuals of pieces of scans, log-normal noise levels, held-out loss per level."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.diffusion import denoising_error, draw_sigma
from diffaug.generator.fit_autoencoder import HELD_OUT_SHOWN, centre_window, random_piece
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.refiner import Refiner, loudness_of
from diffaug.scans.cache import VolumeCache
from diffaug.scans.pictures import mosaic
from diffaug.training.overfitting import Watch
from diffaug.training.step import averaged_network
from diffaug.training.together import normal

HELD_OUT_LEVELS = (0.1, 0.3, 1.0, 3.0)  # above that there is nothing but the mean to be found
MEASURED_SCANS = 64  # whose residuals tell how loud they are
SCANS_SHOWN = 4


class RefinerObjective:
    """Trains the refiner on what a fitted autoencoder takes from the scans."""

    averaged: str | None = "refiner"
    watch: Watch | None = Watch(loss="held_out")

    def __init__(self, plan: GeneratorPlan, cache: VolumeCache, autoencoder: Autoencoder) -> None:
        refiner = plan.make_refiner()
        assert refiner is not None
        self.plan, self.cache, self.autoencoder = plan, cache, autoencoder.eval()
        self.networks: dict[str, nn.Module] = {"refiner": refiner}
        squares = []
        for case in plan.cases[:MEASURED_SCANS]:
            residual = refiner.standardised(*self._seen(self._window(case)))
            squares.append(residual.square().mean((0, 2, 3, 4), keepdim=True))
        refiner.scale.copy_(torch.stack(squares).mean(0).sqrt())

    def _window(self, case: str) -> Tensor:
        return torch.from_numpy(centre_window(self.cache, case, self.plan.grid.shape))[None]

    @torch.no_grad()
    def _seen(self, scans: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give scans, their reconstructions and the estimate of what these lack, all where the autoencoder is."""
        scans = scans.to(self.autoencoder.head.weight.device)
        return (scans, *self.autoencoder.decode_and_estimate(self.autoencoder.encode(scans)))

    def example(self, rng: np.random.Generator) -> Tensor:
        """Draw a piece of a random scan, every other one mirrored left-right: thin lines have no side.

        Args:
            rng: Source of randomness.

        Returns:
            `(C, Z, Y, X)`.
        """
        piece = random_piece(self.plan, self.cache, rng)
        return piece.flip(self.plan.grid.mirror + 1) if rng.random() < 0.5 else piece

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimiser.

        Args:
            learning_rate: At its peak.

        Returns:
            The optimiser of the refiner.
        """
        return {"refiner": AdamW(self.networks["refiner"].parameters(), learning_rate, weight_decay=1e-2, fused=True)}

    def losses(self, batch: Tensor, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the denoising loss.

        Args:
            batch: `(B, C, Z, Y, X)`.
            progress: Share of the training that is done.

        Yields:
            Optimiser, loss, figures.
        """
        refiner = self.networks["refiner"]
        assert isinstance(refiner, Refiner)
        scans, volumes, lost = self._seen(batch)
        residual = refiner.standardised(scans, volumes, lost)
        sigma = draw_sigma(len(batch), batch.device)
        noise = normal(batch.shape, batch.device)
        yield "refiner", denoising_error(refiner, residual, sigma, noise, volumes, lost).mean(), {}

    @torch.no_grad()
    def calibrated(self, average: nn.Module | None) -> Refiner:
        """Give the averaged refiner, which knows how loud the residuals of scans are.

        Args:
            average: The averaged refiner.

        Returns:
            It, calibrated.
        """
        refiner = averaged_network(average, Refiner)
        noise, true, drawn = torch.Generator().manual_seed(0), [], []
        for case in self.plan.cases[:MEASURED_SCANS]:
            scan, volume, lost = self._seen(self._window(case))
            white = torch.randn(scan.shape, generator=noise).to(scan)
            true.append(loudness_of(refiner.standardised(scan, volume, lost)))
            drawn.append(loudness_of(refiner.draw(volume, lost, white)))
        refiner.calibrate(torch.cat(true), torch.cat(drawn))
        return refiner

    @torch.no_grad()
    def validate(self, average: nn.Module | None) -> dict[str, float]:
        """Measure the loss on held-out scans at fixed noise levels, with fixed noise, and refine some of them.

        Args:
            average: The averaged refiner.

        Returns:
            The loss at each level, and their mean.
        """
        refiner = averaged_network(average, Refiner)
        noise = torch.Generator().manual_seed(0)
        errors: dict[float, list[float]] = {level: [] for level in HELD_OUT_LEVELS}
        self.shown: list[tuple[Tensor, Tensor, Tensor]] = []
        for case in self.plan.held_out[:HELD_OUT_SHOWN]:
            scan, volume, lost = self._seen(self._window(case))
            white = torch.randn(scan.shape, generator=noise).to(scan)
            residual = refiner.standardised(scan, volume, lost)
            for level in HELD_OUT_LEVELS:
                sigma = torch.full((1,), level, device=scan.device)
                errors[level].append(float(denoising_error(refiner, residual, sigma, white, volume, lost)))
            if len(self.shown) < SCANS_SHOWN:
                self.shown.append((scan, volume, refiner.refine(volume, lost, white, torch.zeros(1).to(scan))))
        figures = {f"held_out_at_{level:g}": float(np.mean(found)) for level, found in errors.items()}
        return {"held_out": float(np.mean([*figures.values()])), **figures}

    def preview(self, file: Path, average: nn.Module | None) -> None:
        """Draw held-out scans, their reconstructions, and these refined.

        Args:
            file: The PNG.
            average: Not used.
        """
        names = ("held-out scan", "reconstruction", "refined")
        rows = {
            name: [volumes[0, 0].cpu().numpy() for volumes in column]
            for name, column in zip(names, zip(*self.shown, strict=True), strict=True)
        }
        mosaic(rows, file, spacing=self.plan.grid.spacing, orientation=self.plan.grid.orientation)
