"""The autoencoder: shapes for every stride, an unfold that is exact, intensities that stay in range."""

import numpy as np
import pytest
import torch

from diffaug.generator.autoencoder import Autoencoder, VoxelShuffle, reconstruction_error
from diffaug.generator.plan import plan_strides

STRIDES = {
    "isotropic": [[2, 2, 2], [2, 2, 2]],
    "anisotropic": [[1, 2, 2], [2, 2, 2]],
    "slices": [[1, 2, 2], [1, 2, 2]],
    "one level": [[4, 4, 4]],
}


def autoencoder(strides, image_channels=1):
    torch.manual_seed(0)
    made = Autoencoder(
        image_channels=image_channels,
        channels=[8, 16][: len(strides)],
        strides=strides,
        blocks=1,
        latent_channels=4,
        codes=16,
    )
    made.codebook.codes.normal_()
    return made


@pytest.mark.parametrize("strides", STRIDES.values(), ids=STRIDES)
@pytest.mark.parametrize("image_channels", [1, 3])
def test_latent_is_smaller_by_the_strides_and_decodes_to_the_same_shape(strides, image_channels):
    made = autoencoder(strides, image_channels).eval()
    volume = torch.rand(2, image_channels, 8, 16, 24) * 2 - 1
    latent = made.encode(volume)
    factors = np.prod(strides, axis=0)
    assert latent.shape == (2, 4, *(n // f for n, f in zip((8, 16, 24), factors, strict=True)))
    assert made.decode(latent).shape == volume.shape
    assert made(volume)[0].shape == volume.shape


def test_decoded_volumes_stay_in_range_and_encoding_is_deterministic():
    made = autoencoder(STRIDES["isotropic"])
    made.head.weight.data.mul_(1000)
    latent = torch.randn(1, 4, 2, 2, 2) * 50
    decoded = made.decode(latent)
    assert decoded.min() == -1
    assert decoded.max() == 1
    volume = torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(made.encode(volume), made.encode(volume))


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (3, 1, 2)])
def test_voxel_shuffle_is_the_inverse_of_an_unfold(stride):
    z, y, x = stride
    volume = torch.arange(2 * 3 * 4 * z * 5 * y * 6 * x).float().view(2, 3, 4 * z, 5 * y, 6 * x)
    cells = volume.unfold(2, z, z).unfold(3, y, y).unfold(4, x, x)  # (B, C, 4, 5, 6, z, y, x)
    folded = cells.permute(0, 1, 5, 6, 7, 2, 3, 4).reshape(2, 3 * z * y * x, 4, 5, 6)
    assert torch.equal(VoxelShuffle(stride)(folded), volume)


def test_reconstruction_error_is_zero_for_equals_and_sees_lost_edges():
    volume = torch.rand(1, 1, 8, 8, 8)
    assert reconstruction_error(volume, volume) == 0
    shifted = reconstruction_error(volume + 0.1, volume)
    assert float(shifted) == pytest.approx(0.1, rel=1e-4), "a constant offset loses no edge"
    assert reconstruction_error(torch.full_like(volume, 0.5), volume) > (volume - 0.5).abs().mean()


@pytest.mark.parametrize(
    "spacing, strides",
    [
        ((1, 1, 1), [[2, 2, 2], [2, 2, 2]]),
        ((2, 1, 1), [[1, 2, 2], [2, 2, 2]]),
        ((4, 1, 1), [[1, 2, 2], [1, 2, 2]]),
        ((9, 1, 1), [[1, 2, 2], [1, 2, 2]]),
        ((1.2, 1, 1), [[2, 2, 2], [2, 2, 2]]),
        ((1, 1, 2), [[2, 2, 1], [2, 2, 2]]),
    ],
)
def test_long_voxels_are_compressed_less(spacing, strides):
    assert plan_strides(spacing, 4) == strides
