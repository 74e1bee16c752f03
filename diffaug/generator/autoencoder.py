"""The 3D VQ-GAN: a volume to a small latent and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets.autoencoderkl import AEKLResBlock
from torch import Tensor, nn

from diffaug.generator.codebook import Codebook

GROUPS = 8  # of the group norms; every channel count is a multiple


class Autoencoder(nn.Module):
    """`encode(x) -> z`, `decode(z) -> x`, after "Medical Diffusion" (arXiv 2211.03364) with a cheaper first level.

    Every level strides by its own factor per axis, so that anisotropic scans are not squeezed along their coarse axis
    (MONAI's autoencoders stride by two everywhere, which is why only their residual block is used). The first level
    strides at once and the last one unfolds with a pixel shuffle (arXiv 1609.05158): at full resolution there is only
    one thin convolution, which on a CPU makes a step several times cheaper.

    Args:
        image_channels: C of the volumes.
        channels: Width of each level.
        strides: Per level the factors (Z, Y, X).
        blocks: Residual blocks per level.
        latent_channels: C of the latent.
        codes: Size of the codebook.
    """

    def __init__(
        self,
        *,
        image_channels: int,
        channels: Sequence[int],
        strides: Sequence[Sequence[int]],
        blocks: int,
        latent_channels: int,
        codes: int,
    ) -> None:
        super().__init__()
        down: list[nn.Module] = []
        width = image_channels
        for wide, stride in zip(channels, strides, strict=True):
            z, y, x = stride
            # the kernel overlaps its neighbours by one voxel on either side
            down.append(nn.Conv3d(width, wide, (z + 2, y + 2, x + 2), stride=(z, y, x), padding=1))
            down += [_block(wide) for _ in range(blocks)]
            width = wide
        self.encoder = nn.Sequential(
            *down, nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv3d(width, latent_channels, 1)
        )
        self.codebook = Codebook(codes, latent_channels)
        up: list[nn.Module] = [nn.Conv3d(latent_channels, width, 3, padding=1)]
        narrower = [*channels[:-1][::-1], GROUPS]
        for wide, stride, narrow in zip(channels[::-1], strides[::-1], narrower, strict=True):
            up += [_block(wide) for _ in range(blocks + 1)]
            up += [nn.Conv3d(wide, narrow * math.prod(stride), 3, padding=1), VoxelShuffle(stride)]
        self.decoder = nn.Sequential(*up, nn.SiLU())
        self.head = nn.Conv3d(GROUPS, image_channels, 3, padding=1)

    def encode(self, volume: Tensor) -> Tensor:
        """Compress volumes; the latent is deterministic and not yet quantised.

        Args:
            volume: `(B, C, Z, Y, X)` in [-1, 1].

        Returns:
            `(B, latent channels, z, y, x)`.
        """
        return self.encoder(volume)

    def decode(self, latent: Tensor) -> Tensor:
        """Snap latents to the codebook and decompress them.

        Args:
            latent: `(B, latent channels, z, y, x)`.

        Returns:
            Volumes `(B, C, Z, Y, X)`, cut off at [-1, 1].
        """
        return self.head(self.decoder(self.codebook.quantise(latent))).clamp(-1, 1)

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reconstruct volumes for training.

        Args:
            volume: `(B, C, Z, Y, X)` in [-1, 1].

        Returns:
            The reconstruction, what the halved latent decodes to, the commitment loss and the codebook's perplexity.
        """
        latent = self.encoder(volume)
        quantised, commitment, perplexity = self.codebook(latent)
        halved = self.head(self.decoder(F.avg_pool3d(latent, 2)))
        return self.head(self.decoder(quantised)), halved, commitment, perplexity


class VoxelShuffle(nn.Module):
    """Unfold channels into space: `(B, C * prod(stride), z, y, x)` to `(B, C, z * s0, y * s1, x * s2)`."""

    def __init__(self, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        """Unfold.

        Args:
            x: `(B, C * prod(stride), z, y, x)`.

        Returns:
            `(B, C, z * s0, y * s1, x * s2)`.
        """
        batch, channels, *size = x.shape
        x = x.view(batch, channels // math.prod(self.stride), *self.stride, *size)
        x = x.permute(0, 1, 5, 2, 6, 3, 7, 4)
        return x.reshape(batch, -1, *(n * s for n, s in zip(size, self.stride, strict=True)))


def _block(channels: int) -> nn.Module:
    return AEKLResBlock(3, channels, norm_num_groups=GROUPS, norm_eps=1e-6, out_channels=channels)


def reconstruction_error(reconstruction: Tensor, volume: Tensor) -> Tensor:
    """Mean absolute error of the voxels and, so that edges stay sharp, of their differences to the next voxel.

    Args:
        reconstruction: `(B, C, Z, Y, X)`.
        volume: `(B, C, Z, Y, X)`.

    Returns:
        A scalar.
    """
    error = F.l1_loss(reconstruction, volume)
    for axis in (2, 3, 4):
        error = error + F.l1_loss(torch.diff(reconstruction, dim=axis), torch.diff(volume, dim=axis))
    return error
