"""The noise process, what a network is wrapped in to undo it, and its loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffaug.training.together import normal

LOG_MEAN = -0.4  # of log(sigma) in training; EDM's -1.2 at a standard deviation of 0.5 would be -0.5 here
LOG_STD = 1.2
NOISE_SCALE = 250.0  # spreads log(sigma), about -5 to 5, over the steps a sinusoidal embedding tells apart


def draw_sigma(count: int, device: torch.device) -> Tensor:
    """Draw log-normal noise levels (EDM, arXiv 2206.00364, table 1).

    Args:
        count: How many.
        device: Where.

    Returns:
        `(count,)`.
    """
    return (normal((count,), device) * LOG_STD + LOG_MEAN).exp()


def time_of(sigma: Tensor) -> Tensor:
    """Write noise levels as the time that sinusoidal embeddings are made for.

    Args:
        sigma: `(B,)`.

    Returns:
        `(B,)`.
    """
    return sigma.log() * NOISE_SCALE


def preconditioned(network: Callable[[Tensor], Tensor], noisy: Tensor, sigma: Tensor) -> Tensor:
    """Estimate what is clean by a network whose input and target are of one size at every noise level.

    EDM's preconditioning (arXiv 2206.00364, table 1, sigma_data = 1: what is denoised is standardised).

    Args:
        network: Is given the scaled input, `(B, C, z, y, x)`, and returns as much.
        noisy: Clean plus `sigma` times unit noise, `(B, C, z, y, x)`.
        sigma: `(B,)`.

    Returns:
        The estimate, of the same shape.
    """
    sigma_map = sigma.view(-1, 1, 1, 1, 1)
    total = (sigma_map.square() + 1).sqrt()
    return noisy / total.square() + network(noisy / total).float() * sigma_map / total


def denoising_error(
    denoise: Callable[..., Tensor], clean: Tensor, sigma: Tensor, noise: Tensor, *known: Tensor | None
) -> Tensor:
    """Weighted squared error of a denoiser, about one for a useless one at every noise level.

    Args:
        denoise: The denoiser: noisy, noise level, and what is known.
        clean: Standardised, `(B, C, z, y, x)`.
        sigma: `(B,)`.
        noise: Unit normal, `(B, C, z, y, x)`.
        *known: What else the denoiser is shown.

    Returns:
        `(B,)`.
    """
    estimate = denoise(clean + sigma.view(-1, 1, 1, 1, 1) * noise, sigma, *known)
    weight = (sigma.square() + 1) / sigma.square()  # EDM, equation 8 with sigma_data = 1
    return weight * (estimate - clean).square().flatten(1).mean(1)
