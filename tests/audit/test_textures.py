"""Textures: each flaw moves the figure that is meant for it."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from blobs import SPACING, blob
from diffaug.audit.textures import BANDS, describe, texture_distances

COUNT = 24


def volume(seed):
    return np.clip(blob(seed) / 500 - 1, -1, 1)[None]


def described(change=lambda v, rng: v, start=0):
    return [describe(change(volume(s), np.random.default_rng(s)), SPACING) for s in range(start, start + COUNT)]


@pytest.fixture(scope="module")
def real():
    return described()


def compare(real, change):
    return texture_distances(real, described(change, COUNT), 0)


def test_other_real_volumes_are_at_the_floor(real):
    found = compare(real, lambda v, rng: v)
    assert {name: c.verdict for name, c in found.items()} == dict.fromkeys(
        ("intensities", "spectrum", "slices"), "at the floor"
    )


def test_blur_shows_in_the_spectrum_and_hardly_in_intensities(real):
    found = compare(real, lambda v, rng: gaussian_filter(v, (0, 0.8, 0.8, 0.8)))
    assert found["spectrum"].verdict == "off"
    assert found["spectrum"].figure.low > 3  # dB
    assert found["intensities"].figure.value < found["intensities"].floor.value + 1.5  # percent of the range


def test_noise_volumes_are_off_in_everything(real):
    found = compare(real, lambda v, rng: np.clip(0.5 * rng.normal(size=v.shape), -1, 1))
    assert {c.verdict for c in found.values()} == {"off"}


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_slices_in_another_order_are_off(real, axis):
    found = compare(real, lambda v, rng: np.take(v, rng.permutation(v.shape[axis]), axis))
    assert found["slices"].verdict == "off"
    assert found["intensities"].verdict == "at the floor"


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize(("gain", "shift"), [(0.1, 0.0), (0.0, 0.05)])
def test_slices_of_uneven_brightness_are_off(real, axis, gain, shift):
    def jitter(v, rng):
        size = [1, 1, 1, 1]
        size[axis] = v.shape[axis]
        factor = 1 + gain * rng.normal(size=size)
        return np.clip((v + 1) * factor - 1 + shift * rng.normal(size=size), -1, 1)

    assert compare(real, jitter)["slices"].verdict == "off"


def test_another_gamma_shows_in_intensities(real):
    found = compare(real, lambda v, rng: 2 * ((v + 1) / 2) ** 1.5 - 1)
    assert found["intensities"].verdict == "off"


def test_intensity_distance_of_a_known_shift():
    one = [describe(np.full((2, 6, 6, 6), value), (1, 1, 1)) for value in np.linspace(-0.8, 0.2, 12)]
    other = [describe(np.full((2, 6, 6, 6), value + 0.4), (1, 1, 1)) for value in np.linspace(-0.8, 0.2, 12)]
    found = texture_distances(one, other, 0)["intensities"]
    assert found.figure.value == pytest.approx(20, abs=2)  # a fifth of the range


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_spectrum_peaks_at_the_physical_frequency_along_every_axis(axis):
    spacing, shape = (3.0, 1.0, 1.5), (24, 40, 32)
    frequency = 0.11  # cycles per mm, below every axis' Nyquist frequency
    place = np.arange(shape[axis]) * spacing[axis]
    wave = np.cos(2 * np.pi * frequency * place).reshape([-1 if i == axis else 1 for i in range(3)])
    found = describe(np.broadcast_to(wave, shape)[None], spacing)["spectrum"][0]
    assert found.argmax() == int(frequency / (0.5 / BANDS))


def test_spectrum_of_white_noise_is_its_variance_times_the_voxel():
    noise = 0.2 * np.random.default_rng(0).normal(size=(1, 32, 32, 32))
    found = describe(noise, (2.0, 1.0, 1.0))["spectrum"][0]
    assert found[2:] == pytest.approx(np.full(BANDS - 2, 10 * np.log10(0.04 * 2)), abs=0.7)


def test_channels_are_described_one_by_one():
    both = describe(np.concatenate([volume(0), volume(1)]), SPACING)
    for number in (0, 1):
        alone = describe(volume(number), SPACING)
        assert all(np.array_equal(both[key][number], alone[key][0]) for key in alone)


def test_empty_and_tiny_volumes_have_finite_descriptions():
    for shape in ((1, 4, 5, 6), (2, 16, 16, 16)):
        found = describe(np.full(shape, -1.0), (5.0, 1.0, 1.0))
        assert all(np.isfinite(values).all() for values in found.values())


def test_too_few_volumes_give_nothing(real):
    assert texture_distances(real[:3], real, 0) == {}
