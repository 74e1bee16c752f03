"""Is the autoencoder good enough to begin with diffusion? Asked before the long part begins, and answered in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.codebook import Codebook
from diffaug.scans.similarity import RANGE, psnr, ssim

MUST_GAIN = 2.0  # dB over averaging and interpolating: less, and the network is not worth its diffusion
MAY_LOSE = 2.0  # dB between training and held-out scans: more, and it knows its scans by heart
STILL_GAINS = 0.5  # dB in the last quarter of the training: more, and it was stopped too early
FEW_CODES = 0.05  # share of the codebook in use
ROUNDED = 0.15  # share of the latent's variance that the codebook rounds away


@dataclass(frozen=True)
class AutoencoderCheck:
    """What was measured on held-out scans.

    Attributes:
        psnr: In dB, mean.
        ssim: Mean.
        interpolation_psnr: In dB, of averaging by the same factor and interpolating back: what needs no network.
        noise_psnr: In dB, what is left if all but the scans' own noise is kept: more is not possible, nor wanted.
        training_psnr: In dB, of as many training scans.
        gained: PSNR in dB gained over the last quarter of the training; None for a run too short to tell.
        codes_used: Share of the codebook that held-out scans use; None without one.
        rounded_share: Share of the latent's variance that snapping to the codebook takes away.
        noise_share: Share of the latent's variance that is scan noise: what diffusion learns although nobody wants it.
    """

    psnr: float
    ssim: float
    interpolation_psnr: float
    noise_psnr: float
    training_psnr: float
    gained: float | None
    codes_used: float | None
    rounded_share: float
    noise_share: float

    @property
    def advice(self) -> list[str]:
        """What to change in plan.json, the most useful first; empty if the autoencoder is good enough."""
        rules = {
            f"it gains only {self.psnr - self.interpolation_psnr:.1f} dB over interpolation: raise "
            "autoencoder_training.steps, then latent_channels of both networks": self.psnr
            < self.interpolation_psnr + MUST_GAIN,
            f"it still gained {self.gained or 0:.1f} dB in its last quarter: raise autoencoder_training.steps": (
                self.gained or 0
            )
            > STILL_GAINS,
            f"it keeps training scans {self.training_psnr - self.psnr:.1f} dB better than held-out ones: add scans, or "
            "lower the autoencoder's channels": self.training_psnr > self.psnr + MAY_LOSE,
            f"only {self.codes_used or 0:.0%} of the codes are in use: lower codes, or the learning rate": (
                self.codes_used is not None and self.codes_used < FEW_CODES
            ),
            f"the codebook rounds {self.rounded_share:.0%} of the latent's variance away: raise codes": self.rounded_share
            > ROUNDED,
        }
        return [text for text, holds in rules.items() if holds]

    def text(self) -> str:
        """Say it in one line.

        Returns:
            Verdict and figures.
        """
        verdict = "good enough" if not self.advice else "; ".join(self.advice)
        codes = "" if self.codes_used is None else f"{self.codes_used:.0%} of the codes used, "
        codes += f"{self.rounded_share:.1%} of the latent's variance rounded away; " if codes else ""
        return (
            f"the autoencoder: {verdict} (held-out PSNR {self.psnr:.1f} dB, SSIM {self.ssim:.2f}; interpolation alone "
            f"{self.interpolation_psnr:.1f} dB, all but noise {self.noise_psnr:.1f} dB; {codes}{self.noise_share:.1%} of the "
            "latent's variance is scan noise)"
        )

    def figures(self) -> dict[str, Any]:
        """Gather what the manifest keeps.

        Returns:
            Something JSON can write.
        """
        return {**asdict(self), "advice": self.advice}


@torch.no_grad()
def check_autoencoder(
    autoencoder: Autoencoder,
    held_out: Sequence[np.ndarray],
    training: Sequence[np.ndarray],
    log: Sequence[dict[str, Any]],
) -> AutoencoderCheck:
    """Measure a fitted autoencoder.

    Args:
        autoencoder: The network, on the device to measure on.
        held_out: Windows of scans that it never saw, `(C, Z, Y, X)` in [-1, 1].
        training: Windows of scans that it was trained on.
        log: Lines of its training's log.

    Returns:
        The figures.
    """
    autoencoder.eval()
    device = autoencoder.head.weight.device
    rows, latents = [], []
    for number, window in enumerate(held_out):
        x = torch.from_numpy(window)[None].to(device)
        latent = autoencoder.encode(x)
        latents.append(latent)
        rounded = autoencoder.codebook.quantise(latent)
        made = autoencoder.decode(latent)
        coarse = F.avg_pool3d(x, autoencoder.factors)
        sigma = noise_level(window)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(number)).to(x) * sigma
        variance = latent.var((0, 2, 3, 4)).sum()
        rows.append(
            (
                float(psnr(made, x)),
                float(ssim(made, x)),
                float(psnr(F.interpolate(coarse, x.shape[2:], mode="trilinear"), x)),
                20 * np.log10(RANGE / max(sigma, 1e-4)),
                float((latent - rounded).square().mean((0, 2, 3, 4)).sum() / variance),
                float((autoencoder.encode(x + noise) - latent).square().mean((0, 2, 3, 4)).sum() / variance),
            )
        )
    seen = [torch.from_numpy(window)[None].to(device) for window in training]
    means = np.mean(rows, axis=0)
    return AutoencoderCheck(
        psnr=float(means[0]),
        ssim=float(means[1]),
        interpolation_psnr=float(means[2]),
        noise_psnr=float(means[3]),
        training_psnr=float(np.mean([float(psnr(autoencoder.decode(autoencoder.encode(x)), x)) for x in seen])),
        gained=_gained([line["held_out_psnr"] for line in log if "held_out_psnr" in line]),
        codes_used=_codes_used(autoencoder.codebook, latents),
        rounded_share=float(means[4]),
        noise_share=float(means[5]),
    )


def _codes_used(book: nn.Module, latents: Sequence[Tensor]) -> float | None:
    if not isinstance(book, Codebook):
        return None
    used = torch.zeros_like(book.counts, dtype=torch.bool)
    for latent in latents:
        used.scatter_(1, book.indices(latent), True)
    return float(used.float().mean())


def _gained(curve: Sequence[float]) -> float | None:
    quarter = len(curve) // 4
    return None if quarter < 2 else float(np.mean(curve[-2:]) - np.mean(curve[-quarter - 2 : -quarter]))


def noise_level(window: np.ndarray) -> float:
    """Estimate the standard deviation of a scan's noise from second differences, which smooth anatomy hardly has.

    The median over all voxels that are not background; of white noise a second difference has six times the variance.

    Args:
        window: `(C, Z, Y, X)` in [-1, 1].

    Returns:
        In the same units; too high rather than too low where the anatomy is fine.
    """
    estimates = []
    for axis in (1, 2, 3):
        second = np.diff(window, n=2, axis=axis)
        middle = np.take(window, range(1, window.shape[axis] - 1), axis)
        inside = np.abs(second[middle > middle.min() + 0.1])
        if inside.size:
            estimates.append(1.4826 * float(np.median(inside)) / 6**0.5)  # 1.4826: median to standard deviation
    return min(estimates, default=0.0)
