"""Alignment: a piece of a scan fits where it was cut out, and nothing else fits so well."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from diffaug.copies.alignment import WORKING, Probe, Target, structure, working_factor


def noise(seed, *size):
    return gaussian_filter(np.random.default_rng(seed).standard_normal((1, *size)), (0, 1, 1, 1)).astype(np.float32)


@pytest.mark.parametrize("shape", [(20, 24, 22), (32, 256, 256), (128, 128, 128), (1, 512, 512)])
def test_a_volume_of_any_size_is_worked_on_in_few_cells(shape):
    cells = [n // f for n, f in zip(shape, working_factor(shape), strict=True)]
    assert WORKING / 2 < np.prod(cells) <= WORKING or working_factor(shape) == (1, 1, 1)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_piece_fits_perfectly_and_another_scan_does_not(channels):
    scans = [torch.from_numpy(np.concatenate([noise(10 * c + s, 13, 17, 11) for c in range(channels)])) for s in (0, 1)]
    piece = scans[0][None, :, 2:10, 5:14, 1:8]
    own, other = (Target(scan, (8, 9, 7)).fit(Probe(piece)) for scan in scans)
    assert float(own) == pytest.approx(1, abs=1e-4)
    assert float(other) < 0.5


def test_correlation_is_that_of_the_best_place():
    scan, piece = torch.from_numpy(noise(0, 7, 8, 9)), torch.from_numpy(noise(1, 4, 5, 6))
    wanted = -1.0
    for z, y, x in np.ndindex(4, 4, 4):
        part = scan[:, z : z + 4, y : y + 5, x : x + 6]
        wanted = max(wanted, float((part * piece).sum() / part.norm() / piece.norm()))
    assert float(Target(scan, (4, 5, 6)).fit(Probe(piece[None]))) == pytest.approx(wanted, abs=1e-4)


def test_structure_does_not_depend_on_the_intensities():
    scan = noise(0, 16, 16, 16)
    torch.testing.assert_close(structure(3 * scan + 7, (2, 2, 2)), structure(scan, (2, 2, 2)), atol=2e-2, rtol=2e-2)


def test_where_there_is_nothing_noise_is_not_blown_up():
    scan = noise(0, 16, 16, 32)
    scan[..., 16:] *= 1e-3
    found = structure(scan, (1, 1, 1))
    assert found[..., 26:].std() < 0.02 * found[..., :10].std()


def test_an_empty_volume_fits_nowhere():
    scan = torch.from_numpy(noise(0, 9, 9, 9))
    assert float(Target(scan, (5, 5, 5)).fit(Probe(torch.zeros(1, 1, 5, 5, 5)))) == 0
