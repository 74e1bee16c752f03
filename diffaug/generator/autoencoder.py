"""The autoencoder: a volume to a small latent and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.generator.codebook import Codebook
from diffaug.generator.layers import Block, ChannelNorm, VoxelShuffle
from diffaug.generator.smooth_latent import SmoothLatent
from diffaug.generator.tiles import in_tiles

LAST = 8  # channels at full resolution
LEAST_NOISE, MOST_NOISE = 1e-3, 1.0  # standard deviation of what is lost, in units of a volume's [-1, 1]


class Autoencoder(nn.Module):
    """`encode(x) -> z`, `decode(z) -> x`; with codes a VQ-GAN, after "Medical Diffusion" (arXiv 2211.03364).

    Beside each voxel it estimates how much it has lost there, as the decoder of a variational autoencoder with a learned
    variance does (arXiv 1312.6114, appendix C.2): muscle is smooth where a gland is grainy, and one scan noisier than
    another. In units of that `Refiner` draws it again.

    Around encoder and decoder lead linear shortcuts, from a block of voxels to its cell and back, that begin as the
    principal components of the scans (see `begin_linear`); the networks add what is not linear. A VQ-GAN without them
    takes hundreds of steps to come as far as they are at the first one (benchmarks/autoencoders.py). Shortcuts around
    the strides are from DC-AE (arXiv 2410.10733), where they have no weights.

    Every level strides by its own factor per axis, so that anisotropic scans are not squeezed along their coarse axis
    (MONAI's autoencoders stride by two everywhere and normalise over space, see `ChannelNorm`). The first level
    strides at once and the last one unfolds with a pixel shuffle (arXiv 1609.05158): at full resolution there is only
    one thin convolution, which on a CPU makes a step several times cheaper.

    Args:
        image_channels: C of the volumes.
        channels: Width of each level.
        strides: Per level the factors (Z, Y, X).
        blocks: Residual blocks per level.
        latent_channels: C of the latent.
        codes: Size of each codebook; None keeps latents as they are, see `SmoothLatent`.
        groups: Into how many parts a latent vector is cut, each rounded to a codebook of its own.
    """

    def __init__(
        self,
        *,
        image_channels: int,
        channels: Sequence[int],
        strides: Sequence[Sequence[int]],
        blocks: int,
        latent_channels: int,
        codes: int | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        down: list[nn.Module] = []
        width = image_channels
        for wide, stride in zip(channels, strides, strict=True):
            z, y, x = stride
            # the kernel overlaps its neighbours by one voxel on either side
            down.append(nn.Conv3d(width, wide, (z + 2, y + 2, x + 2), stride=(z, y, x), padding=1))
            down += [Block(wide) for _ in range(blocks)]
            width = wide
        self.factors, self.encoder_reach, self.decoder_reach = _reaches(strides, blocks)
        z, y, x = self.factors
        self.analysis = nn.Conv3d(image_channels, latent_channels, (z, y, x), stride=(z, y, x))
        self.encoder = nn.Sequential(
            *down, ChannelNorm(width), nn.SiLU(), nn.Conv3d(width, latent_channels, 1, bias=False)
        )
        self.codebook = Codebook(codes, latent_channels, groups) if codes else SmoothLatent()
        self.synthesis = nn.ConvTranspose3d(latent_channels, image_channels, (z, y, x), stride=(z, y, x))
        up: list[nn.Module] = [nn.Conv3d(latent_channels, width, 3, padding=1)]
        narrower = [*channels[:-1][::-1], LAST]
        for wide, stride, narrow in zip(channels[::-1], strides[::-1], narrower, strict=True):
            up += [Block(wide) for _ in range(blocks + 1)]
            up += [nn.Conv3d(wide, narrow * math.prod(stride), 3, padding=1), VoxelShuffle(stride)]
        self.decoder = nn.Sequential(*up, nn.SiLU())
        self.head = nn.Conv3d(LAST, image_channels, 3, padding=1, bias=False)
        self.noise_head = nn.Conv3d(LAST, image_channels, 3, padding=1)  # logarithm of the standard deviation

    @torch.no_grad()
    def begin_linear(self, blocks: Tensor) -> None:
        """Let the shortcuts be the principal components of blocks of voxels, and the networks add nothing yet.

        Args:
            blocks: `(N, C, *factors)`, N at least the number of latent channels.
        """
        mean = blocks.mean((0, 2, 3, 4))
        flat = (blocks - mean.view(-1, 1, 1, 1)).flatten(1)
        axes = torch.linalg.svd(flat, full_matrices=False)[2][: len(self.analysis.weight)]
        # the root mean square of a block's voxels: a latent is about as large as the voxels it stands for
        size = flat.shape[1] ** 0.5
        if isinstance(self.codebook, SmoothLatent):  # as large as one, or its noise would drown it
            size = float((flat @ axes.T).square().mean().sqrt().clamp_min(1e-6))
        analysis = (axes / size).view_as(self.analysis.weight)
        self.analysis.weight.copy_(analysis)
        self.analysis.bias.copy_(-analysis.sum((2, 3, 4)) @ mean)  # type: ignore[union-attr]
        self.synthesis.weight.copy_(analysis * size**2)
        self.synthesis.bias.copy_(mean)  # type: ignore[union-attr]
        self.encoder[-1].weight.zero_()  # type: ignore[operator,union-attr]
        self.head.weight.zero_()
        self.noise_head.weight.zero_()
        self.noise_head.bias.fill_(math.log(0.1))  # type: ignore[union-attr]

    def _encoded(self, volume: Tensor) -> Tensor:
        return self.analysis(volume) + self.encoder(volume)

    def _decoded(self, latent: Tensor) -> Tensor:
        """Give volumes and the standard deviation of what they lack, one after another along the channels."""
        features = self.decoder(latent)
        lost = self.noise_head(features).clamp(math.log(LEAST_NOISE), math.log(MOST_NOISE)).exp()
        return torch.cat([self.synthesis(latent) + self.head(features), lost], 1)

    def encode(self, volume: Tensor) -> Tensor:
        """Compress volumes, large ones in tiles; the latent is deterministic and not yet quantised.

        Args:
            volume: `(B, C, Z, Y, X)` in [-1, 1].

        Returns:
            `(B, latent channels, z, y, x)`.
        """
        return in_tiles(self._encoded, volume, self.encoder_reach, self.factors, [1, 1, 1])

    def decode(self, latent: Tensor) -> Tensor:
        """Snap latents to the codebook, if there is one, and decompress them, large ones in tiles.

        Args:
            latent: `(B, latent channels, z, y, x)`.

        Returns:
            Volumes `(B, C, Z, Y, X)`, cut off at [-1, 1].
        """
        return self.decode_and_estimate(latent)[0]

    def decode_and_estimate(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Decompress latents as `decode` does, and estimate what the volumes lack.

        Args:
            latent: `(B, latent channels, z, y, x)`.

        Returns:
            Volumes `(B, C, Z, Y, X)`, cut off at [-1, 1], and the standard deviation of what is lost at each voxel.
        """

        def run(cells: Tensor) -> Tensor:
            return self._decoded(self.codebook.quantise(cells)).clamp(-1, 1)

        volumes, lost = in_tiles(run, latent, self.decoder_reach, [1, 1, 1], self.factors).chunk(2, 1)
        return volumes, lost

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Reconstruct volumes for training.

        Args:
            volume: `(B, C, Z, Y, X)` in [-1, 1].

        Returns:
            The reconstruction, the standard deviation of what it lacks, what the halved latent decodes to, the latent's own
            loss and figures of it.
        """
        latent = self._encoded(volume)
        passed, penalty, figures = self.codebook(latent)
        halved, _ = self._decoded(F.avg_pool3d(latent, 2)).chunk(2, 1)
        reconstruction, lost = self._decoded(passed).chunk(2, 1)
        return reconstruction, lost, halved, penalty, figures


def _reaches(strides: Sequence[Sequence[int]], blocks: int) -> tuple[list[int], list[int], list[int]]:
    """Tell the compression per axis, and how many latent cells away encoder and decoder still look."""
    factors, encoder, decoder = [], [], []
    for axis in zip(*strides, strict=True):
        factor = math.prod(axis)
        encoding, decoding, voxels = 0, 1, 1  # in voxels; the head looks one voxel far
        for stride in axis:
            encoding += voxels  # the strided convolution
            decoding += voxels * stride * (2 * (blocks + 1) + 1)  # blocks and convolution before the shuffle
            voxels *= stride
            encoding += voxels * 2 * blocks
        factors.append(factor)
        encoder.append(-(-encoding // factor))
        decoder.append(-(-(decoding + factor) // factor))  # the decoder's first convolution looks one cell far
    return factors, encoder, decoder


def noise_error(reconstruction: Tensor, lost: Tensor, volume: Tensor) -> Tensor:
    """Negative log likelihood of what is lost, as Gaussian noise of the estimated strength, without its constant.

    What is lost is taken as it is: the estimate shall not make the reconstruction worse.

    Args:
        reconstruction: `(B, C, Z, Y, X)`.
        lost: Standard deviation estimated at each voxel, `(B, C, Z, Y, X)`.
        volume: `(B, C, Z, Y, X)`.

    Returns:
        A scalar.
    """
    error = (volume - reconstruction).detach()
    return (error.square() / (2 * lost.square()) + lost.log()).mean()


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
