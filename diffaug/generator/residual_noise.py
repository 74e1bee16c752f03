"""Residual noise: what an autoencoder takes from every scan and no denoiser can give back, put back as noise of its kind.

Film grain is coded in the same way (AV1, section 7.18.3): not the grain itself is kept but its statistics, here the spectrum
and how strong it is where the volume is bright or dark, smooth or full of edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

INTENSITY_LEVELS = 16  # of intensity
CONTRASTS = 4  # of local contrast
KERNEL = 15  # voxels per axis of the filter that colours white noise, or the window where that is less
# Of the residual's strength: part of what is lost is structure, and that much of it as noise would be too much. Measured
# on 2026-11-22: with 0.8 reconstructions of hippocampi are at the floor of KID and coverage, with 0.6 and 1 not.
STRENGTH = 0.8
DAMPING = 50  # voxels that a bin without any counts as having, of small strength


@dataclass(frozen=True)
class ResidualNoise:
    """Statistics of what is lost.

    Attributes:
        kernel: Filter `(C, k, k, k)` that gives white noise the spectrum of the residual noise, of unit energy.
        strength: Standard deviation `(C, LEVELS, CONTRASTS)`.
        edges: Local contrasts `(C, CONTRASTS - 1)` between the bins.
    """

    kernel: Tensor
    strength: Tensor
    edges: Tensor

    def add(self, volumes: Tensor, white: Tensor) -> Tensor:
        """Put residual noise onto volumes.

        Args:
            volumes: `(B, C, Z, Y, X)` in [-1, 1].
            white: Unit normal noise of the same shape.

        Returns:
            Volumes of the same shape, in [-1, 1].
        """
        size = volumes.shape[2:]
        coloured = torch.empty_like(volumes)
        for channel, kernel in enumerate(self.kernel):
            padded = torch.zeros(size, device=volumes.device)
            z, y, x = (slice(0, min(n, k)) for n, k in zip(size, kernel.shape, strict=True))
            padded[z, y, x] = kernel[z, y, x].to(volumes.device)
            response = torch.fft.rfftn(padded)
            filtered = torch.fft.irfftn(
                torch.fft.rfftn(white[:, channel], dim=(1, 2, 3)) * response, size, dim=(1, 2, 3)
            )
            bins = _bins(volumes[:, channel], self.edges[channel].to(volumes.device))
            coloured[:, channel] = filtered * self.strength[channel].flatten().to(volumes.device)[bins]
        return (volumes + STRENGTH * coloured).clamp(-1, 1)


def fit_residual_noise(pairs: Sequence[tuple[Tensor, Tensor]]) -> ResidualNoise:
    """Measure the residual noise of scans.

    Args:
        pairs: Scan and reconstruction, `(1, C, Z, Y, X)` each, all of one size.

    Returns:
        The residual noise.
    """
    channels, size = pairs[0][0].shape[1], pairs[0][0].shape[2:]
    edges, strength, kernels = [], [], []
    for channel in range(channels):
        made = torch.cat([pair[1][:, channel] for pair in pairs])
        lost = torch.cat([pair[0][:, channel] for pair in pairs]) - made
        own = _contrast(made).flatten()
        shares = torch.linspace(0, 1, CONTRASTS + 1)[1:-1]
        edges.append(torch.quantile(own[:: max(1, len(own) // 100_000)], shares.to(own)))
        bins = _bins(made, edges[-1])
        energy = torch.bincount(bins.flatten(), lost.square().flatten(), INTENSITY_LEVELS * CONTRASTS)
        count = torch.bincount(bins.flatten(), minlength=INTENSITY_LEVELS * CONTRASTS)
        strength.append(((energy + 1e-4 * DAMPING) / (count + DAMPING)).sqrt())
        power = torch.fft.rfftn(lost / strength[-1][bins], dim=(1, 2, 3)).abs().square().mean(0)
        kernel = torch.fft.irfftn(power.sqrt(), size)
        for axis, n in enumerate(size):  # symmetric around its first voxel: roll it to the middle of a small box
            k = min(KERNEL, n)
            kernel = kernel.roll(k // 2, axis).narrow(axis, 0, k)
        kernels.append(kernel / kernel.square().sum().sqrt())
    return ResidualNoise(
        torch.stack(kernels).cpu(),
        torch.stack(strength).view(channels, INTENSITY_LEVELS, CONTRASTS).cpu(),
        torch.stack(edges).cpu(),
    )


def _contrast(volumes: Tensor) -> Tensor:
    """Give the standard deviation of each voxel's neighbourhood of 3 x 3 x 3, `(B, Z, Y, X)`."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool3d(x[:, None], 3, 1, 1, count_include_pad=False)[:, 0]

    return (mean(volumes.square()) - mean(volumes).square()).clamp_min(0).sqrt()


def _bins(volumes: Tensor, edges: Tensor) -> Tensor:
    """Sort voxels of one channel by intensity and contrast, `(B, Z, Y, X)`."""
    level = ((volumes + 1) / 2 * INTENSITY_LEVELS).long().clamp(0, INTENSITY_LEVELS - 1)
    return level * CONTRASTS + torch.bucketize(_contrast(volumes), edges)
