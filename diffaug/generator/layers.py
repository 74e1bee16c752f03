"""The autoencoder's building blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class ChannelNorm(nn.Module):
    """Scales every voxel's channels to a root mean square of one (arXiv 1910.07467), then by a learned factor each.

    Unlike a group norm it looks at one voxel at a time. So a network trained on small pieces does the same on whole
    scans, and tiles with enough overlap give exactly what the whole gives.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        Args:
            x: `(B, C, Z, Y, X)`.

        Returns:
            The same shape.
        """
        return F.rms_norm(x.movedim(1, -1), (x.shape[1],), self.weight.to(x.dtype), 1e-4).movedim(-1, 1)


class Block(nn.Module):
    """A residual block of two convolutions (arXiv 1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = [(ChannelNorm(channels), nn.SiLU(), nn.Conv3d(channels, channels, 3, padding=1)) for _ in range(2)]
        self.layers = nn.Sequential(*(layer for part in layers for layer in part))

    def forward(self, x: Tensor) -> Tensor:
        """Run the block.

        Args:
            x: `(B, C, Z, Y, X)`.

        Returns:
            The same shape.
        """
        return x + self.layers(x)
