"""The autoencoder: shapes for every stride, an unfold that is exact, intensities that stay in range."""

import numpy as np
import pytest
import torch

from diffaug.generator.autoencoder import LEAST_NOISE, Autoencoder, noise_error, reconstruction_error
from diffaug.generator.layers import VoxelShuffle
from diffaug.generator.planning import plan_strides

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
        groups=2,
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


def test_it_begins_as_the_principal_components_of_the_scans():
    made = autoencoder(STRIDES["isotropic"], 2).eval()
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(128, 4, generator=generator))[0].T
    # blocks that vary along as many directions as the latent has channels are kept whole
    shares = torch.randn(200, 4, generator=generator)
    blocks = ((shares - shares.mean(0)) @ axes + 0.1).view(200, 2, 4, 4, 4)
    made.begin_linear(blocks)
    volume = blocks[:8].reshape(2, 2, 2, 2, 4, 4, 4).permute(3, 0, 4, 1, 5, 2, 6).reshape(1, 2, 8, 8, 8)
    latent = made.encode(volume)
    torch.testing.assert_close(made.synthesis(latent), volume, atol=1e-4, rtol=0)


def test_without_codes_latents_begin_as_large_as_one_and_meet_noise_in_training_alone():
    torch.manual_seed(0)
    made = Autoencoder(image_channels=1, channels=[8], strides=[[2, 2, 2]], blocks=1, latent_channels=8)
    blocks = 0.01 * torch.randn(500, 1, 2, 2, 2) + 0.3
    made.begin_linear(blocks)
    volume = blocks[:64].reshape(4, 4, 4, 2, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 1, 8, 8, 8)
    latent = made.encode(volume)
    assert float(latent.detach().square().mean()) == pytest.approx(1, rel=0.2)
    torch.testing.assert_close(made.decode(latent), volume, atol=1e-4, rtol=0)
    assert not torch.equal(made.decode(latent), made.decode(latent + 0.01)), "nothing is rounded"
    noisy, _, _, penalty, figures = made(volume)
    assert float((noisy - volume).detach().std()) == pytest.approx(0.1 * 0.01, rel=0.2)
    assert float(penalty.detach()) == pytest.approx(1e-3 * float(figures["latent_square"]))
    assert not any(name.startswith("codebook") for name in made.state_dict())


@pytest.mark.parametrize("strides", STRIDES.values(), ids=STRIDES)
def test_it_looks_exactly_as_far_as_it_says(strides):
    made = autoencoder(strides).eval().double()
    volume = torch.randn(1, 1, *(24 * f for f in made.factors), dtype=torch.double, requires_grad=True)
    for run, x, reach in (
        (made._encoded, volume, made.encoder_reach),
        (made._decoded, torch.randn(1, 4, 24, 24, 24, dtype=torch.double, requires_grad=True), made.decoder_reach),
    ):
        # the gradient of the middle cell shows all that it looks at
        made_there = run(x)
        steps = [n // 24 for n in made_there.shape[2:]]
        z, y, x_ = (slice(12 * s, 13 * s) for s in steps)
        (gradient,) = torch.autograd.grad(made_there[:, :, z, y, x_].sum(), x)
        for axis, far in enumerate(reach, start=2):
            step = x.shape[axis] // 24
            seen = gradient.abs().amax([a for a in range(5) if a != axis]).nonzero().flatten()
            low, high = int(seen.min()) // step, int(seen.max()) // step
            assert max(12 - low, high - 12) == far


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


def test_it_learns_how_much_is_lost_where():
    """Left half silent, right half noisy: the estimate follows, and the reconstruction is none the worse for it."""
    torch.manual_seed(0)
    made = Autoencoder(image_channels=1, channels=[8], strides=[[2, 2, 2]], blocks=1, latent_channels=1)
    strength = torch.full((1, 1, 8, 8, 16), 0.02)
    strength[..., 8:] = 0.3
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    for _ in range(150):
        volume = strength.sign() * (strength - 0.16).sign() * 0.5 + strength * torch.randn_like(strength)
        reconstruction, lost, _, _, _ = made(volume)
        loss = reconstruction_error(reconstruction, volume) + noise_error(reconstruction, lost, volume)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _, lost = made.decode_and_estimate(made.encode(volume))
    assert float(lost[..., :6].detach().mean()) < 0.15  # processors round differently, and 150 steps are few
    assert float(lost[..., 10:].detach().mean()) == pytest.approx(0.3, rel=0.3)
    assert float(lost.detach().min()) >= LEAST_NOISE


def test_the_estimate_of_what_is_lost_is_best_where_it_is_true_and_pulls_at_no_voxel():
    reconstruction = torch.zeros(1, 1, 16, 16, 16, requires_grad=True)
    volume = 0.2 * torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    errors = [float(noise_error(reconstruction, torch.full_like(volume, s), volume).detach()) for s in (0.1, 0.2, 0.4)]
    assert min(errors) == errors[1]
    lost = torch.full_like(volume, 0.2, requires_grad=True)
    noise_error(reconstruction, lost, volume).backward()
    assert reconstruction.grad is None
    assert float(lost.grad.sum().abs()) < 0.5


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
