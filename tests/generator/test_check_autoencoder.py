"""The verdict on the autoencoder: each fault is named, and a good one is let pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.check_autoencoder import AutoencoderCheck, check_autoencoder, noise_level

GOOD = AutoencoderCheck(
    psnr=28.0,
    ssim=0.9,
    interpolation_psnr=21.0,
    noise_psnr=31.0,
    training_psnr=28.4,
    gained=0.1,
    codes_used=0.6,
    rounded_share=0.03,
    noise_share=0.02,
)


def test_a_good_one_passes_and_says_its_figures():
    assert GOOD.advice == []
    assert "good enough" in GOOD.text()
    assert "28.0 dB" in GOOD.text()


@pytest.mark.parametrize(
    "fault, advice",
    [
        ({"interpolation_psnr": 27.0}, "gains only 1.0 dB over interpolation: raise autoencoder_training.steps"),
        ({"gained": 1.2}, "still gained 1.2 dB in its last quarter: raise autoencoder_training.steps"),
        ({"training_psnr": 33.0}, "keeps training scans 5.0 dB better than held-out ones: add scans"),
        ({"codes_used": 0.01}, "only 1% of the codes are in use: lower codes"),
        ({"rounded_share": 0.3}, "rounds 30% of the latent's variance away: raise codes"),
    ],
)
def test_each_fault_is_named_with_what_to_change(fault, advice):
    poor = replace(GOOD, **fault)
    assert len(poor.advice) == 1
    assert advice in poor.text()
    assert poor.figures()["advice"] == poor.advice


def test_a_run_too_short_to_tell_is_not_blamed():
    assert replace(GOOD, gained=None).advice == []


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_noise_is_measured_and_anatomy_is_not(sigma):
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij")
    smooth = np.cos(3 * z) * np.cos(2 * y) * 0.5 + 0.1 * x
    assert noise_level(smooth[None]) < 0.01
    assert noise_level((smooth + sigma * rng.normal(size=smooth.shape))[None]) == pytest.approx(sigma, rel=0.1)


def test_figures_of_a_known_autoencoder():
    """One whose latent holds every voxel rounds nothing away but what its codebook does."""
    torch.manual_seed(0)
    made = Autoencoder(
        image_channels=1, channels=[8], strides=[[2, 2, 2]], blocks=1, latent_channels=8, codes=64, groups=8
    )
    windows = [np.random.default_rng(n).uniform(-0.9, 0.9, (1, 8, 8, 8)).astype(np.float32) for n in range(4)]
    blocks = torch.rand(500, 1, 2, 2, 2) * 1.8 - 0.9
    made.begin_linear(blocks)
    latents = made.analysis(blocks).detach().flatten(1).T  # (8, 500): one scalar codebook per channel
    made.codebook.codes.copy_(torch.quantile(latents, torch.linspace(0, 1, 64), dim=1).T[..., None])
    curve = [{"held_out_psnr": value} for value in (10, 12, 14, 16, 18, 20, 22, 24)]
    check = check_autoencoder(made, windows[:2], windows[2:], curve)
    assert check.psnr > 30, "64 codes for each of eight numbers lose little"
    assert check.psnr == pytest.approx(check.training_psnr, abs=2)
    assert 0 < check.rounded_share < 0.01
    assert check.codes_used > 0.7
    assert check.interpolation_psnr < 15, "white noise cannot be interpolated"
    assert check.gained == pytest.approx(4.0)
