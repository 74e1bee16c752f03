"""The noise process and its loss."""

from __future__ import annotations

import torch
from torch import Tensor

from diffaug.generator.denoiser import Denoiser
from diffaug.training.together import normal

LOG_MEAN = -0.4  # of log(sigma) in training; EDM's -1.2 at a standard deviation of 0.5 would be -0.5 here
LOG_STD = 1.2


def draw_sigma(count: int, device: torch.device) -> Tensor:
    """Draw log-normal noise levels (EDM, arXiv 2206.00364, table 1).

    Args:
        count: How many.
        device: Where.

    Returns:
        `(count,)`.
    """
    return (normal((count,), device) * LOG_STD + LOG_MEAN).exp()


def denoising_error(
    denoiser: Denoiser,
    latent: Tensor,
    coordinates: Tensor,
    sigma: Tensor,
    noise: Tensor,
    condition: Tensor | None = None,
) -> Tensor:
    """Weighted squared error of the denoiser, about one for a useless network at every noise level.

    Args:
        denoiser: The denoiser.
        latent: Clean, standardised, `(B, C, z, y, x)`.
        coordinates: `(B, 3, z, y, x)`.
        sigma: `(B,)`.
        noise: Unit normal, `(B, C, z, y, x)`.
        condition: `(B, condition_channels)`; None is unknown.

    Returns:
        `(B,)`.
    """
    estimate = denoiser(latent + sigma.view(-1, 1, 1, 1, 1) * noise, sigma, coordinates, condition)
    weight = (sigma.square() + 1) / sigma.square()  # EDM, equation 8 with sigma_data = 1
    return weight * (estimate - latent).square().flatten(1).mean(1)
