"""Fidelity and diversity: known answers."""

import numpy as np
import pytest
import torch
from test_memorisation import CASES, blobs, grid, inputs
from torch import nn

from diffaug.audit.diversity import PAIRS, draw_pairs, measure_diversity
from diffaug.audit.fidelity import measure_fidelity
from diffaug.audit.figures import mean_figure, pairs_figure

CPU = torch.device("cpu")


class Shifted(nn.Module):
    """An autoencoder whose reconstruction is brighter by a known amount."""

    def __init__(self, by):
        super().__init__()
        self.head = nn.Linear(1, 1)
        self.by = by

    def encode(self, x):
        return x

    def decode(self, z):
        return z + self.by


def fidelity(tmp_path, by):
    scans = inputs(tmp_path, grid((16, 16, 16)), (14, 20, 16))
    return measure_fidelity(Shifted(by), scans, scans.likes(CASES, 0), 0)


def test_identity_has_ssim_one_and_the_highest_psnr(tmp_path):
    found = fidelity(tmp_path, 0.0)
    assert found.ssim.value == pytest.approx(1)
    assert found.psnr.value > 100
    assert found.psnr.n == len(CASES)


def test_psnr_of_a_known_error(tmp_path):
    assert fidelity(tmp_path, 0.2).psnr.value == pytest.approx(20, abs=1e-3)  # an error of a tenth of the range


def test_one_repeated_volume_has_diversity_one_and_others_less():
    repeated = measure_diversity(lambda i: blobs((16, 16, 16), 0), 6, 16**3, device=CPU, seed=0, what="x")
    varied = measure_diversity(lambda i: blobs((16, 16, 16), i), 6, 16**3, device=CPU, seed=0, what="x")
    assert repeated.value == pytest.approx(1, abs=1e-4)
    assert varied.high < 0.9
    assert varied.n == 15


def test_one_volume_has_no_diversity():
    assert measure_diversity(lambda i: blobs((16, 16, 16), 0), 1, 16**3, device=CPU, seed=0, what="x") is None


def test_pairs_are_different_seeded_and_bounded():
    pairs = draw_pairs(150, 48 * 56 * 40, 0)
    assert len({tuple(p) for p in pairs.tolist()}) == len(pairs) == PAIRS
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert np.array_equal(pairs, draw_pairs(150, 48 * 56 * 40, 0))
    assert len(draw_pairs(150, 256 * 256 * 128, 0)) < PAIRS


def test_intervals_hold_the_mean_and_know_that_pairs_share_volumes():
    rng = np.random.default_rng(0)
    plain = mean_figure(rng.normal(size=50).tolist(), 0)
    assert plain.low < plain.value < plain.high
    level = rng.normal(size=10)  # each volume has its own level: 45 pairs are far fewer than 45 measurements
    pairs = draw_pairs(10, 1, 0)
    values = [level[a] + level[b] for a, b in pairs]
    by_pair, by_volume = mean_figure(values, 0), pairs_figure(pairs, values, 10, 0)
    assert by_volume.high - by_volume.low > 1.3 * (by_pair.high - by_pair.low)
