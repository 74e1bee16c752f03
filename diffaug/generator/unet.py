"""The 3D U-Net inside the denoiser, of MONAI's residual and attention blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.blocks import SpatialAttentionBlock
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, get_timestep_embedding
from torch import Tensor, nn

GROUPS = 8


class UNet(nn.Module):
    """A noise-conditioned U-Net (DDPM, arXiv 2006.11239, appendix B) for latents of any size.

    MONAI's `DiffusionModelUNet` has the same blocks but halves only sizes that are multiples of a power of two. Latents
    of small scans are 9 or 13 cells wide; padding them to 12 and 16 more than doubles the cells that are computed. Here
    a level halves rounding up, and goes back up to the very size it came from.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        channels: Width of each level; each next one halves the resolution.
        blocks: Residual blocks per level.
        attention: Whether the deepest level attends.
    """

    def __init__(
        self, *, in_channels: int, out_channels: int, channels: Sequence[int], blocks: int, attention: bool
    ) -> None:
        super().__init__()
        self.embedded = channels[0]
        temporal = 4 * channels[0]

        def block(before: int, after: int) -> nn.Module:
            return DiffusionUNetResnetBlock(3, before, temporal, after, norm_num_groups=GROUPS)

        self.embed = nn.Sequential(nn.Linear(self.embedded, temporal), nn.SiLU(), nn.Linear(temporal, temporal))
        self.first = nn.Conv3d(in_channels, channels[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        kept, width = [channels[0]], channels[0]  # what the way up will be joined with
        for level, wide in enumerate(channels):
            if level:
                self.shrink.append(nn.Conv3d(width, width, 3, stride=2, padding=1))
                kept.append(width)
            self.down.append(nn.ModuleList(block(before, wide) for before in (width, *[wide] * (blocks - 1))))
            kept += [wide] * blocks
            width = wide
        self.deepest = nn.ModuleList([block(width, width), block(width, width)])
        self.attend = (
            SpatialAttentionBlock(3, width, num_head_channels=math.gcd(32, width), norm_num_groups=GROUPS)
            if attention
            else nn.Identity()
        )
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, wide in reversed(list(enumerate(channels))):
            blocks_up = []
            for _ in range(blocks + 1):
                blocks_up.append(block(width + kept.pop(), wide))
                width = wide
            self.up.append(nn.ModuleList(blocks_up))
            if level:
                self.grow.append(nn.Conv3d(width, width, 3, padding=1))
        outwards = nn.Conv3d(width, out_channels, 3, padding=1)
        for parameter in outwards.parameters():  # an untrained network says nothing
            nn.init.zeros_(parameter)
        self.last = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), outwards)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Run the network.

        Args:
            x: `(B, in_channels, z, y, x)`.
            time: `(B,)`, told apart where it differs by about one, up to thousands.

        Returns:
            `(B, out_channels, z, y, x)`.
        """
        embedding = self.embed(get_timestep_embedding(time, self.embedded))
        x = self.first(x)
        kept = [x]
        for level, blocks in enumerate(self.down):
            if level:
                x = self.shrink[level - 1](x)
                kept.append(x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, embedding)
                kept.append(x)
        x = self.deepest[0](x, embedding)
        x = self.deepest[1](self.attend(x), embedding)
        for level, blocks in enumerate(self.up):
            if level:
                x = self.grow[level - 1](F.interpolate(x, kept[-1].shape[2:], mode="nearest-exact"))
            for block in blocks:  # type: ignore[attr-defined]
                x = block(torch.cat([x, kept.pop()], 1), embedding)
        return self.last(x)
