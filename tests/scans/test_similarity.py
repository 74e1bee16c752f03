"""Similarities agree with MONAI's, and are one for equal volumes."""

import pytest
import torch
from monai.losses.ssim_loss import SSIMLoss
from monai.metrics import MultiScaleSSIMMetric

from diffaug.scans.similarity import RANGE, WEIGHTS, ms_ssim, ms_ssim_settings, psnr, ssim


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    volume = torch.nn.functional.avg_pool3d(torch.rand(2, 2, 44, 48, 52, generator=generator), 3, 1) * 4 - 2
    return volume, (volume + 0.1 * torch.randn(volume.shape, generator=generator)).clamp(-1, 1)


def test_ssim_equals_monai(pair):
    theirs = 1 - SSIMLoss(spatial_dims=3, data_range=RANGE, win_size=7, reduction="none")(*pair).flatten(1).mean(1)
    torch.testing.assert_close(ssim(*pair), theirs, atol=1e-4, rtol=1e-4)


def test_ms_ssim_equals_monai(pair):
    scales, window = ms_ssim_settings(pair[0].shape[2:])
    assert scales > 1
    weights = [w / sum(WEIGHTS[:scales]) for w in WEIGHTS[:scales]]
    metric = MultiScaleSSIMMetric(spatial_dims=3, data_range=RANGE, kernel_size=window, weights=weights)
    torch.testing.assert_close(ms_ssim(*pair), metric(*pair).flatten(1).mean(1), atol=1e-4, rtol=1e-4)


def test_equal_volumes_are_wholly_alike(pair):
    one = torch.ones(2)
    torch.testing.assert_close(ssim(pair[0], pair[0]), one)
    torch.testing.assert_close(ms_ssim(pair[0], pair[0]), one)
    assert (psnr(pair[0], pair[0]) > 90).all()


@pytest.mark.parametrize("size", [(40, 48, 40), (8, 8, 8), (200, 128, 96), (5, 40, 40), (4, 32, 32)])
def test_every_size_has_settings_that_fit(size):
    volume = torch.rand(1, 1, *size) if min(size) < 100 else torch.rand(1, 1, *(n // 2 for n in size))
    assert ms_ssim(volume, volume).item() == pytest.approx(1, abs=1e-5)


def test_psnr_of_a_known_error():
    volume = torch.zeros(1, 1, 4, 4, 4)
    assert psnr(volume, volume + 0.2).item() == pytest.approx(20, abs=1e-4)
