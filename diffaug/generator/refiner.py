"""The refiner: draws what an autoencoder takes from every scan, thin lines and grain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor, nn

from diffaug.generator import samplers
from diffaug.generator.diffusion import preconditioned, time_of
from diffaug.generator.layers import ChannelNorm, VoxelShuffle
from diffaug.generator.tiles import in_tiles

REFINING_STEPS = 8  # what is drawn has little structure: fewer than a latent needs (docs/notebook/telling_apart.md)
GAINS = 32  # quantiles of how much louder than drawn ones the residuals of scans are


class Refiner(nn.Module):
    """`denoise(x, sigma) -> x0` of the residual, what a scan has and its reconstruction lacks, in view of the reconstruction.

    A diffusion model behind the decoder, as in "Diffusion Autoencoders" (arXiv 2111.15640) and SR3 (arXiv 2104.07636):
    skin that is one voxel wide is a soft edge in the reconstruction, and only the edge tells where it lies. The residual is
    divided by the autoencoder's own estimate of its strength, so that grain of any strength is of the same size.

    It is local: normalised voxel by voxel, and seeing some twenty voxels far, it trains on pieces and runs on whole scans.

    Args:
        image_channels: C of the volumes.
        stride: Voxels (Z, Y, X) that are folded into one cell, so that a step costs little.
        width: Channels of a cell.
        blocks: Residual blocks.
    """

    def __init__(self, *, image_channels: int, stride: Sequence[int], width: int, blocks: int) -> None:
        super().__init__()
        z, y, x = self.stride = list(stride)
        self.reach = [2 * blocks + 2] * 3  # in cells
        self.width = width
        temporal = 4 * width
        self.embed = nn.Sequential(nn.Linear(width, temporal), nn.SiLU(), nn.Linear(temporal, temporal), nn.SiLU())
        self.first = nn.Conv3d(3 * image_channels, width, (z + 2, y + 2, x + 2), stride=(z, y, x), padding=1)
        self.blocks = nn.ModuleList([_TimedBlock(width, temporal) for _ in range(blocks)])
        last = nn.Conv3d(width, image_channels * math.prod(stride), 3, padding=1)
        for parameter in last.parameters():  # an untrained network says nothing
            nn.init.zeros_(parameter)
        self.last = nn.Sequential(ChannelNorm(width), nn.SiLU(), last, VoxelShuffle(stride))
        # root mean square of the residual over its estimate: about one
        self.scale = nn.Buffer(torch.ones(1, image_channels, 1, 1, 1))
        # one scan is noisier than another all over, which what is local cannot know: factors, from the least to the most
        self.gains = nn.Buffer(torch.ones(GAINS, image_channels))

    def forward(self, noisy: Tensor, sigma: Tensor, volumes: Tensor, lost: Tensor) -> Tensor:
        """Denoise.

        Args:
            noisy: `(B, C, Z, Y, X)`: standardised residual plus `sigma` times unit noise.
            sigma: `(B,)`.
            volumes: Reconstructions, of the same shape.
            lost: The standard deviation that the autoencoder expects of the residual, of the same shape.

        Returns:
            The estimate of the standardised residual, of the same shape.
        """
        time = self.embed(get_timestep_embedding(time_of(sigma), self.width))

        def network(x: Tensor) -> Tensor:
            return in_tiles(
                lambda part: self._network(part, time),
                torch.cat([x, volumes, lost.log()], 1),
                self.reach,
                self.stride,
                self.stride,
            )

        return preconditioned(network, noisy, sigma)

    def _network(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x, time)
        out: Tensor = self.last(x)
        return out

    def standardised(self, scans: Tensor, volumes: Tensor, lost: Tensor) -> Tensor:
        """Give the residual of scans in units of what is expected of it.

        Args:
            scans: `(B, C, Z, Y, X)`.
            volumes: Their reconstructions.
            lost: The standard deviation that the autoencoder expects.

        Returns:
            The same shape.
        """
        return (scans - volumes) / (lost * self.scale)

    def draw(self, volumes: Tensor, lost: Tensor, white: Tensor) -> Tensor:
        """Draw a standardised residual.

        Args:
            volumes: `(B, C, Z, Y, X)` in [-1, 1], as a decoder gives them.
            lost: The standard deviation of what they lack, see `Autoencoder.decode_and_estimate`.
            white: Unit normal noise of the same shape.

        Returns:
            The same shape.
        """

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return self(x, torch.full((len(x),), sigma, device=x.device), volumes, lost)

        sigmas = samplers.karras_sigmas(REFINING_STEPS)
        return samplers.dpm_solver_pp_2m(denoise, white * sigmas[0], sigmas, lambda: white)

    def calibrate(self, true: Tensor, drawn: Tensor) -> None:
        """Learn how loud residuals are: few steps and a network of some training draw them too softly, and all alike.

        Args:
            true: Loudness of scans' standardised residuals, `(N, C)`, see `loudness_of`.
            drawn: Loudness of what `draw` gives for the same scans.
        """
        ratios = true / drawn.clamp_min(1e-6)
        shares = (torch.arange(GAINS) + 0.5) / GAINS
        self.gains.copy_(torch.quantile(ratios.float(), shares.to(ratios), dim=0))

    def refine(self, volumes: Tensor, lost: Tensor, white: Tensor, chance: Tensor) -> Tensor:
        """Draw a residual as loud as that of one of the scans, and put it onto volumes.

        Args:
            volumes: `(B, C, Z, Y, X)` in [-1, 1], as a decoder gives them.
            lost: The standard deviation of what they lack, see `Autoencoder.decode_and_estimate`.
            white: Unit normal noise of the same shape.
            chance: `(B,)` in [0, 1): what share of the scans is less loud.

        Returns:
            Volumes of the same shape, in [-1, 1].
        """
        gain = self.gains[(chance * GAINS).long()][..., None, None, None]
        return (volumes + gain * self.draw(volumes, lost, white) * lost * self.scale).clamp(-1, 1)


def loudness_of(residuals: Tensor) -> Tensor:
    """Tell how loud residuals are as a whole: their root mean square.

    Args:
        residuals: `(B, C, Z, Y, X)`.

    Returns:
        `(B, C)`.
    """
    return residuals.square().mean((2, 3, 4)).sqrt()


class _TimedBlock(nn.Module):
    """A residual block of two convolutions that is told the noise level by a factor and a shift (arXiv 1709.07871)."""

    def __init__(self, width: int, temporal: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([ChannelNorm(width), ChannelNorm(width)])
        self.convolutions = nn.ModuleList([nn.Conv3d(width, width, 3, padding=1) for _ in range(2)])
        self.modulation = nn.Linear(temporal, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        factor, shift = self.modulation(time)[..., None, None, None].chunk(2, 1)
        y = self.convolutions[0](F.silu(self.norms[0](x)))
        out: Tensor = x + self.convolutions[1](F.silu(self.norms[1](y) * (1 + factor) + shift))
        return out
