"""Residual noise: what an autoencoder takes from every scan and no denoiser can give back, put back as noise of its kind.

Film grain is coded in the same way (AV1, section 7.18.3): not the grain itself is kept but its statistics. How strong it is
where is the autoencoder's own estimate; what is measured here is its spectrum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

KERNEL = 15  # voxels per axis of the filter that colours white noise, or the window where that is less


@dataclass(frozen=True)
class ResidualNoise:
    """Statistics of what is lost.

    Attributes:
        kernel: Filter `(C, k, k, k)` that gives white noise the spectrum of the residual noise. Its energy is what is truly
            lost over what the autoencoder estimates, about one.
    """

    kernel: Tensor

    def add(self, volumes: Tensor, lost: Tensor, white: Tensor) -> Tensor:
        """Put residual noise onto volumes.

        Args:
            volumes: `(B, C, Z, Y, X)` in [-1, 1].
            lost: Its standard deviation at each voxel, see `Autoencoder.decode_and_estimate`, of the same shape.
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
            coloured[:, channel] = torch.fft.irfftn(
                torch.fft.rfftn(white[:, channel], dim=(1, 2, 3)) * response, size, dim=(1, 2, 3)
            )
        return (volumes + lost * coloured).clamp(-1, 1)


def fit_residual_noise(triples: Sequence[tuple[Tensor, Tensor, Tensor]]) -> ResidualNoise:
    """Measure the spectrum of the residual noise of scans, where it is as strong everywhere as at any place.

    Args:
        triples: Scan, reconstruction and the estimate of what it lacks, `(1, C, Z, Y, X)` each, all of one size.

    Returns:
        The residual noise.
    """
    scans, made, lost = (torch.cat(volumes) for volumes in zip(*triples, strict=True))
    even = (scans - made) / lost
    size = even.shape[2:]
    kernels = []
    for channel in range(even.shape[1]):
        power = torch.fft.rfftn(even[:, channel], dim=(1, 2, 3)).abs().square().mean(0)
        kernel = torch.fft.irfftn(power.sqrt(), size)
        for axis, n in enumerate(size):  # symmetric around its first voxel: roll it to the middle of a small box
            k = min(KERNEL, n)
            kernel = kernel.roll(k // 2, axis).narrow(axis, 0, k)
        # the estimate is learned from latents with noise in them, and a tenth too large for those without
        kernels.append(kernel * even[:, channel].square().mean().sqrt() / kernel.square().sum().sqrt())
    return ResidualNoise(torch.stack(kernels).cpu())
