"""Residual noise: what an autoencoder takes from every scan and no denoiser can give back, drawn anew for each volume.

What is lost is no white noise: it has colours, is here stronger than there, in one scan louder than in another, and some of
it is fine structure. A small network makes it from noise at three scales and a few numbers for the whole volume.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.generator.tiles import in_tiles

NOISE_SCALES = {
    1: 3,
    2: 2,
    4: 1,
}  # channels of white noise at every voxel, every second and every fourth along each axis
LOUDNESS = 2  # numbers that are the same in all of a volume
WHITE = sum(NOISE_SCALES.values())
NOISES = WHITE + LOUDNESS
COLOURS = 8  # kinds of noise for each channel of the volumes
REACH = 3  # voxels that the network looks far: three convolutions


def _convolution(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, 3, padding=1, padding_mode="replicate", bias=bias)


class ResidualNoise(nn.Module):
    """Draws what volumes lack: noises of several colours, each as loud at every voxel as a small network says.

    It is told what the volume is like there, and noise, so that tails may be heavy and whole volumes loud. Noise is also
    there squared: what scans lack is skewed, in air above all.

    Args:
        image_channels: C of the volumes.
        width: Of the network's layers.

    Attributes:
        cut_off: Of each channel whether scans have many voxels at -1, as CT whose air is cut off there, `(1, C, 1, 1, 1)`.
    """

    cut_off: Tensor

    def __init__(self, image_channels: int, width: int = 16) -> None:
        super().__init__()
        self.colours = _convolution(WHITE + NOISE_SCALES[1], COLOURS * image_channels, bias=False)
        self.body = nn.Sequential(
            _convolution(2 * image_channels + NOISES, width), nn.SiLU(), _convolution(width, width), nn.SiLU()
        )
        self.gains = _convolution(width, COLOURS * image_channels)
        self.spread = nn.Parameter(torch.full((1, image_channels, 1, 1, 1), 0.2))
        self.register_buffer("cut_off", torch.zeros(1, image_channels, 1, 1, 1, dtype=torch.bool))
        with torch.no_grad():  # begin with white noise, as strong as is estimated
            self.gains.weight.zero_()
            self.gains.bias.zero_()  # type: ignore[union-attr]
            for channel in range(image_channels):
                first = COLOURS * channel
                self.gains.bias[first] = 1  # type: ignore[index]
                self.colours.weight[first].zero_()
                self.colours.weight[first, channel % NOISE_SCALES[1], 1, 1, 1] = 1

    def forward(self, volumes: Tensor, lost: Tensor, noise: Tensor) -> Tensor:
        """Draw what is to be added to volumes, large ones in tiles.

        Args:
            volumes: `(B, C, Z, Y, X)` in [-1, 1].
            lost: The estimate of its standard deviation, see `Autoencoder.decode_and_estimate`, of the same shape.
            noise: From `draw`, `(B, NOISES, Z, Y, X)`.

        Returns:
            The same shape as the volumes.
        """
        channels = volumes.shape[1]

        def run(told: Tensor) -> Tensor:
            noises = told[:, 2 * channels : 2 * channels + WHITE]
            skewed = noises[:, : NOISE_SCALES[1]].square() - 1
            coloured = self.colours(torch.cat([noises, skewed], 1)) * self.gains(self.body(told))
            strength = (told[:, channels : 2 * channels] + self.spread * told[:, -1:]).exp()
            return coloured.unflatten(1, (channels, COLOURS)).sum(2) * strength

        return in_tiles(run, torch.cat([volumes, lost.log(), noise], 1), [REACH] * 3, [1] * 3, [1] * 3)

    def add(self, volumes: Tensor, lost: Tensor, noise: Tensor) -> Tensor:
        """Put residual noise onto volumes, as `forward` draws it.

        Args:
            volumes: As for `forward`.
            lost: As for `forward`.
            noise: As for `forward`.

        Returns:
            The same shape, in [-1, 1]. What falls below is reflected, as a scanner's magnitude is, or cut off where that is
            what scans look like.
        """
        made = volumes + self(volumes, lost, noise)
        return torch.where(self.cut_off, made.clamp_min(-1), (made + 1).abs() - 1).clamp(-1, 1)

    @staticmethod
    def draw(size: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise for a volume.

        Args:
            size: Its voxels (Z, Y, X).
            generator: Source of randomness; torch's own by default.

        Returns:
            `(NOISES, Z, Y, X)`, on the CPU.
        """
        drawn = []
        for scale, channels in NOISE_SCALES.items():
            coarse = torch.randn(1, channels, *(-(-n // scale) for n in size), generator=generator)
            if scale > 1:
                coarse = F.interpolate(coarse, size=tuple(size), mode="trilinear")
            drawn.append(coarse[0])
        loud = torch.randn(LOUDNESS, 1, 1, 1, generator=generator).expand(-1, *size)
        return torch.cat([*drawn, loud])
