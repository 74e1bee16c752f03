"""Pretexts: tasks that need no labels and whose solution needs to know what scans look like.

A pretext takes the network and clean volumes and returns its loss, with what the network saw and what it predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_SIGMA_MEAN, LOG_SIGMA_STD = -0.7, 0.8  # noise of 0.1 to 2.5 standard deviations of a normalised scan
MASKED = 0.7  # share of the blocks; 0.6 to 0.75 is what works for 3D scans (arXiv 2410.23132)
BLOCKS = 4  # along the shortest axis of a patch
LARGEST_BLOCK = 16  # voxels


class Pretext(NamedTuple):
    """What a pretext gives: the loss, and volumes `(B, C, Z, Y, X)` to look at."""

    loss: Tensor
    seen: Tensor
    predicted: Tensor


def denoise(network: nn.Module, clean: Tensor) -> Pretext:
    """Remove noise of an unknown, log-normal level; trains encoder and decoder.

    The network predicts what is missing between a linear estimate and the truth, scaled to unit variance at every
    level (EDM's preconditioning, arXiv 2206.00364, table 1), but is not told the level: nnU-Net's networks have no
    input for it, and finding it out is part of the task.

    Args:
        network: From `(B, C, Z, Y, X)` to the same shape.
        clean: Normalised volumes, about unit variance, `(B, C, Z, Y, X)`.

    Returns:
        The mean squared error, about one for a useless network.
    """
    level = torch.randn(len(clean), 1, 1, 1, 1, device=clean.device) * LOG_SIGMA_STD + LOG_SIGMA_MEAN
    sigma = level.exp()
    total = (1 + sigma.square()).sqrt()
    noisy = clean + sigma * torch.randn_like(clean)
    raw = network(noisy / total).float()
    target = (clean - noisy / total.square()) * total / sigma
    return Pretext(F.mse_loss(raw, target), noisy, noisy / total.square() + raw * sigma / total)


def mae(network: nn.Module, clean: Tensor) -> Pretext:
    """Fill in masked blocks (masked autoencoder, arXiv 2111.06377; for U-Nets in 3D, arXiv 2410.23132).

    Args:
        network: From `(B, C, Z, Y, X)` to the same shape.
        clean: Normalised volumes, about unit variance, `(B, C, Z, Y, X)`.

    Returns:
        The mean squared error over the masked voxels.
    """
    size = clean.shape[2:]
    block = max(1, min(LARGEST_BLOCK, min(size) // BLOCKS))
    cells = [-(-n // block) for n in size]
    masked = (torch.rand(len(clean), 1, *cells, device=clean.device) < MASKED).float()
    z, y, x = size
    masked = F.interpolate(masked, scale_factor=block, mode="nearest")[..., :z, :y, :x]
    seen = clean * (1 - masked)  # zero is the mean of a normalised scan
    predicted = network(seen).float()
    error = (predicted - clean).square() * masked
    loss = error.sum() / (masked.sum() * clean.shape[1]).clamp_min(1)
    return Pretext(loss, seen, seen + predicted * masked)


PRETEXTS: dict[str, Callable[[nn.Module, Tensor], Pretext]] = {"denoise": denoise, "mae": mae}
