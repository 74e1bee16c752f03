"""The second classifier sees textures: soft edges behind grain, and nothing where nothing differs."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from test_memorisation import blobs

from diffaug.audit.apartness import at_least_chance
from diffaug.audit.discriminant import LOOKED_AT, STATISTICS, excess_of, tell_textures_apart, texture_statistics
from diffaug.audit.figures import area_figure

SIZE = (16, 16, 16)
GRAIN = 0.05


def organs(seed):
    """Two tissues with a sharp border, and grain."""
    volume = blobs(SIZE, seed)
    grain = np.random.default_rng(seed).normal(0, GRAIN, volume.shape)
    return (np.where(volume > np.median(volume), 0.4, -0.4) + grain).astype(np.float32)


FIRST = [organs(i) for i in range(40)]
SECOND = [organs(100 + i) for i in range(40)]


def area(second, patients=None):
    patients = patients or tuple([f"{side}{i}" for i in range(40)] for side in "ab")
    sets = (texture_statistics(FIRST), texture_statistics(second))
    return area_figure(tell_textures_apart(sets, patients, 0), 0)


def softened(volume, seed):
    """Soften what is there, and put the power that this takes back as noise of the same spectrum."""
    soft = gaussian_filter(volume, (0, 0.7, 0.7, 0.7))
    axes = (1, 2, 3)
    white = np.fft.fftn(np.random.default_rng(seed).normal(size=volume.shape), axes=axes)
    strength = np.abs(np.fft.fftn(volume - soft, axes=axes))
    return (soft + np.fft.ifftn(strength * white / np.abs(white), axes=axes).real).astype(np.float32)


def test_what_was_drawn_alike_is_not_told_apart():
    found = at_least_chance(area(SECOND))
    assert found.low <= 0.5 < found.high
    assert found.n == 40


def test_soft_edges_are_seen_though_noise_makes_up_for_the_power_that_they_lack():
    assert area([softened(volume, i) for i, volume in enumerate(SECOND)]).low > 0.9


def test_what_differs_most_has_a_name():
    soft = [gaussian_filter(volume, (0, 0.5, 0.5, 0.5)) for volume in SECOND]
    excess = excess_of(texture_statistics(FIRST), texture_statistics(soft))
    assert len(excess) == len(STATISTICS)
    named = dict(zip(STATISTICS, excess, strict=True))
    for weaker in ("strength of the grain, which a median takes away", "strength of the Laplacian, as it is"):
        assert named[weaker] < -2
    assert abs(named["tails of the grain"]) < 1, "blur changes how strong, not how heavy-tailed"
    alike = excess_of(texture_statistics(FIRST), texture_statistics(SECOND))
    assert np.abs(alike).max() < 1 < np.abs(excess).max()


def test_brightness_and_contrast_are_no_texture():
    volume = FIRST[0]
    np.testing.assert_allclose(*texture_statistics([0.4 * volume - 0.3, volume]), atol=1e-2)


def test_a_constant_volume_and_a_large_one_have_statistics_too():
    assert np.isfinite(texture_statistics([np.zeros((1, *SIZE), np.float16)])).all()
    large = np.tile(FIRST[0], (1, 7, 7, 7))
    margin = (large.shape[1] - LOOKED_AT) // 2
    middle = large[:, margin:-margin, margin:-margin, margin:-margin]
    np.testing.assert_allclose(*texture_statistics([large, middle]), rtol=1e-5)


def test_every_channel_counts():
    two = [np.concatenate([volume, volume]) for volume in FIRST]
    assert texture_statistics(two).shape[1] == 2 * texture_statistics(FIRST).shape[1]
    other = [np.concatenate([volume, gaussian_filter(volume, (0, 0.7, 0.7, 0.7))]) for volume in SECOND]
    patients = tuple([f"{side}{i}" for i in range(40)] for side in "ab")
    sets = (texture_statistics(two), texture_statistics(other))
    assert area_figure(tell_textures_apart(sets, patients, 0), 0).low > 0.9


@pytest.mark.parametrize("shared", [1, 4])
def test_every_volume_is_judged_once_in_the_fold_of_its_patient(shared):
    patients = tuple([f"{side}{i // shared}" for i in range(40)] for side in "ab")
    sets = (texture_statistics(FIRST), texture_statistics(SECOND))
    for side, scores in zip(patients, tell_textures_apart(sets, patients, 0), strict=True):
        assert scores.shape == (40, 2)
        folds = {
            patient: {fold for p, fold in zip(side, scores[:, 0], strict=True) if p == patient} for patient in side
        }
        assert all(len(found) == 1 for found in folds.values())
