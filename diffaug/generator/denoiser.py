"""The denoiser: MONAI's 3D diffusion U-Net behind the contract `denoise(x, sigma) -> x0`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

GROUPS = 8
POSITION = 3  # channels of the coordinates
NOISE_SCALE = 250.0  # spreads log(sigma), about -5 to 5, over the steps MONAI's sinusoidal embedding tells apart


class Denoiser(nn.Module):
    """Estimates the clean latent from a noisy one: EDM's preconditioning (arXiv 2206.00364, table 1), sigma_data = 1.

    Latents are standardised, so their standard deviation is one by construction. Where in the scan each cell lies comes
    in as three more channels: for `patch` windows their place, for `whole` ones the scan's extent.

    Args:
        latent_channels: C of the latent.
        channels: Width of each level; each next one halves the resolution.
        blocks: Residual blocks per level.
        attention: Whether the deepest level attends.
    """

    def __init__(self, *, latent_channels: int, channels: Sequence[int], blocks: int, attention: bool) -> None:
        super().__init__()
        self.multiple = 2 ** (len(channels) - 1)
        self.network = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=latent_channels + POSITION,
            out_channels=latent_channels,
            channels=tuple(channels),
            num_res_blocks=blocks,
            attention_levels=tuple(attention and level == len(channels) - 1 for level in range(len(channels))),
            num_head_channels=min(32, channels[-1]),
            norm_num_groups=GROUPS,
        )

    def forward(self, noisy: Tensor, sigma: Tensor, coordinates: Tensor) -> Tensor:
        """Denoise.

        Args:
            noisy: `(B, C, z, y, x)`: clean latent plus `sigma` times unit noise.
            sigma: `(B,)`.
            coordinates: `(B, 3, z, y, x)`, see `diffaug.volumes.windows.coordinates`.

        Returns:
            The estimate of the clean latent, `(B, C, z, y, x)`.
        """
        wide = sigma.view(-1, 1, 1, 1, 1)
        total = (wide.square() + 1).sqrt()
        size = noisy.shape[2:]
        # each level halves: what does not halve evenly is continued beyond its edge, and cut off again
        margin = [step for n in reversed(size) for step in (0, -n % self.multiple)]
        shown = F.pad(torch.cat([noisy / total, coordinates], 1), margin, mode="replicate")
        raw = self.network(shown, sigma.log() * NOISE_SCALE)[..., : size[0], : size[1], : size[2]]
        return noisy / total.square() + raw.float() * wide / total
