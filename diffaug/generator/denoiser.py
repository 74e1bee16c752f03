"""The denoiser: a 3D U-Net behind the contract `denoise(x, sigma) -> x0`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffaug.generator.diffusion import preconditioned, time_of
from diffaug.generator.unet import UNet

POSITION = 3  # channels of the coordinates


class Denoiser(nn.Module):
    """Estimates the clean latent from a noisy one.

    The network has EDM's preconditioning: latents are standardised, so their standard deviation is one by construction. A
    prior of principal components in its place helps for a minute and is no better after five (docs/notebook/denoisers.md).

    Where in the scan each cell lies comes in as three more channels: for `patch` windows their place, for `whole` ones
    the scan's extent. What else is known of the scan comes in as channels of one value each.

    Args:
        latent_channels: C of the latent.
        channels: Width of each level; each next one halves the resolution.
        blocks: Residual blocks per level.
        attention: Whether the deepest level attends.
        condition_channels: Number of values that may be known of a scan.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        channels: Sequence[int],
        blocks: int,
        attention: bool,
        condition_channels: int = 0,
    ) -> None:
        super().__init__()
        self.condition_channels = condition_channels
        self.network = UNet(
            in_channels=latent_channels + POSITION + condition_channels,
            out_channels=latent_channels,
            channels=channels,
            blocks=blocks,
            attention=attention,
        )

    def forward(self, noisy: Tensor, sigma: Tensor, coordinates: Tensor, condition: Tensor | None = None) -> Tensor:
        """Denoise.

        Args:
            noisy: `(B, C, z, y, x)`: clean latent plus `sigma` times unit noise.
            sigma: `(B,)`.
            coordinates: `(B, 3, z, y, x)`, see `diffaug.scans.windows.coordinates`.
            condition: `(B, condition_channels)`, see `diffaug.generator.conditions`; None, like zeros, is unknown.

        Returns:
            The estimate of the clean latent, `(B, C, z, y, x)`.
        """
        if condition is None:
            condition = noisy.new_zeros(len(noisy), self.condition_channels)
        condition_maps = condition[..., None, None, None].expand(-1, -1, *noisy.shape[2:])

        def network(x: Tensor) -> Tensor:
            out: Tensor = self.network(torch.cat([x, coordinates, condition_maps], 1), time_of(sigma))
            return out

        return preconditioned(network, noisy, sigma)
