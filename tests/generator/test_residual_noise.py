"""Residual noise: what is measured on scans is what is put back."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from diffaug.generator import residual_noise as module
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
def test_residual_noise_has_the_spectrum_and_strength_of_what_was_lost(smooth, monkeypatch):
    monkeypatch.setattr(module, "STRENGTH", 1.0)
    flat = torch.zeros(1, 1, 24, 20, 22)
    lost = [0.1 * noise(seed, smooth=smooth) for seed in range(20)]
    residual_noise = fit_residual_noise([(flat + n, flat) for n in lost])
    added = torch.cat([residual_noise.add(flat, noise(seed)) for seed in range(100, 120)])
    assert added.std() == pytest.approx(0.1, rel=0.05)
    ratio = spectrum(added) / spectrum(torch.cat(lost))
    assert ratio.median() == pytest.approx(1, abs=0.25)
    if smooth:
        neighbours = (added[..., 1:] * added[..., :-1]).mean() / added.square().mean()
        truth = torch.cat(lost)
        assert neighbours == pytest.approx(
            float((truth[..., 1:] * truth[..., :-1]).mean() / truth.square().mean()), abs=0.05
        )


def test_residual_noise_is_strong_where_it_was_strong():
    bright = torch.full((1, 1, 24, 20, 22), 0.5)
    bright[:, :, :, :10] = -0.5
    strength = torch.where(bright > 0, 0.2, 0.02)
    residual_noise = fit_residual_noise([(bright + strength * noise(seed), bright) for seed in range(10)])
    added = residual_noise.add(bright, noise(77)) - bright
    dark = added[:, :, :, :9].std()
    assert added[:, :, :, 11:].std() == pytest.approx(0.2 * module.STRENGTH, rel=0.15)
    assert dark == pytest.approx(0.02 * module.STRENGTH, rel=0.5)


def test_channels_have_residual_noise_of_their_own_and_volumes_stay_in_range():
    flat = torch.zeros(1, 2, 24, 20, 22)
    lost = torch.cat([0.3 * noise(1), 0.01 * noise(2)], 1)
    residual_noise = fit_residual_noise([(flat + lost, flat)])
    added = residual_noise.add(flat, torch.cat([noise(3), noise(4)], 1))
    assert added[:, 0].std() > 10 * added[:, 1].std()
    full = residual_noise.add(flat + 0.99, torch.cat([noise(3), noise(4)], 1))
    assert full.max() == 1
