"""Residual noise: what is measured on scans is what is put back."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from diffaug.generator.residual_noise import fit_residual_noise


def noise(seed, size=(24, 20, 22), smooth=0.0):
    white = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(seed))
    if not smooth:
        return white
    made = torch.from_numpy(gaussian_filter(white.numpy(), (0, 0, smooth, smooth, smooth), mode="wrap"))
    return made / made.std()


def spectrum(volumes):
    return torch.fft.rfftn(volumes, dim=(2, 3, 4)).abs().square().mean((0, 1))


@pytest.mark.parametrize("smooth", [0.0, 0.7])
def test_residual_noise_has_the_spectrum_of_what_was_lost(smooth):
    flat = torch.zeros(1, 1, 24, 20, 22)
    strength = torch.full_like(flat, 0.1)
    lost = [0.1 * noise(seed, smooth=smooth) for seed in range(20)]
    residual_noise = fit_residual_noise([(flat + n, flat, strength) for n in lost])
    added = torch.cat([residual_noise.add(flat, strength, noise(seed)) for seed in range(100, 120)])
    assert added.std() == pytest.approx(0.1, rel=0.05)
    ratio = spectrum(added) / spectrum(torch.cat(lost))
    assert ratio.median() == pytest.approx(1, abs=0.25)
    if smooth:
        neighbours = (added[..., 1:] * added[..., :-1]).mean() / added.square().mean()
        truth = torch.cat(lost)
        assert neighbours == pytest.approx(
            float((truth[..., 1:] * truth[..., :-1]).mean() / truth.square().mean()), abs=0.05
        )


def test_it_is_as_strong_as_the_estimate_at_each_voxel_and_its_spectrum_knows_nothing_of_that():
    flat = torch.zeros(1, 1, 24, 20, 22)
    strength = torch.full_like(flat, 0.02)
    strength[:, :, :, 10:] = 0.2
    residual_noise = fit_residual_noise([(flat + strength * noise(seed), flat, strength) for seed in range(10)])
    added = residual_noise.add(flat, strength, noise(77))
    assert added[:, :, :, :10].std() == pytest.approx(0.02, rel=0.1)
    assert added[:, :, :, 10:].std() == pytest.approx(0.2, rel=0.1)
    peak = residual_noise.kernel.abs().max()
    assert peak > 0.95, "white noise stays white: the filter is hardly more than one voxel"


def test_an_estimate_that_is_too_large_is_put_right():
    flat = torch.zeros(1, 1, 24, 20, 22)
    strength = torch.full_like(flat, 0.2)
    residual_noise = fit_residual_noise([(flat + 0.1 * noise(seed), flat, strength) for seed in range(10)])
    assert residual_noise.add(flat, strength, noise(77)).std() == pytest.approx(0.1, rel=0.05)


def test_channels_have_residual_noise_of_their_own_and_volumes_stay_in_range():
    flat, strength = torch.zeros(1, 2, 24, 20, 22), torch.full((1, 2, 24, 20, 22), 0.3)
    lost = torch.cat([0.3 * noise(1), 0.3 * noise(2, smooth=0.7)], 1)
    residual_noise = fit_residual_noise([(flat + lost, flat, strength)])
    added = residual_noise.add(flat, strength, torch.cat([noise(3), noise(4)], 1))
    roughness = torch.diff(added, dim=4).square().mean((0, 2, 3, 4))
    assert roughness[0] > 2 * roughness[1]
    full = residual_noise.add(flat + 0.99, strength, torch.cat([noise(3), noise(4)], 1))
    assert full.max() == 1
