"""Changes: drawn before they are applied, and each does what its name says."""

import numpy as np
import pytest

from blobs import blob
from diffaug.copies.changes import COPY_KINDS, Change, apply, change, draw, draw_mixture
from diffaug.scans.windows import centred, cut

SHAPE = (16, 20, 18)


@pytest.fixture
def scan() -> np.ndarray:
    body = blob(3)
    return (body / body.max() * 1.6 - 0.8)[None].astype(np.float32)


def window(scan):
    return centred(scan.shape[1:], SHAPE)


def test_nothing_changes_nothing(scan):
    assert np.array_equal(apply(Change(), scan, window(scan), SHAPE, 2), cut(scan, window(scan), SHAPE))


def test_mirroring_twice_is_none_and_goes_along_the_given_axis(scan):
    once = apply(Change(mirrored=True), scan, window(scan), SHAPE, 2)
    assert np.array_equal(np.flip(once, 3), cut(scan, window(scan), SHAPE))


def test_a_shift_shows_what_lies_beyond_the_window(scan):
    moved = apply(Change(shift=(2 / 16, 0, -1 / 18)), scan, window(scan), SHAPE, 2)
    original = cut(scan, window(scan), SHAPE)
    assert np.array_equal(moved[:, :-2, :, 1:], original[:, 2:, :, :-1])
    assert np.array_equal(moved[0, -1, :, 5], scan[0, 2 + 16 + 1, 2:22, 2 + 5 - 1])


def test_a_warp_moves_anatomy_by_as_much_as_it_says(scan):
    field = np.zeros((3, 4, 4, 4))
    field[0] = 2 / 16  # two voxels along Z everywhere
    warped = apply(Change(warp=field), scan, window(scan), SHAPE, 2)
    original = cut(scan, window(scan), SHAPE)
    np.testing.assert_allclose(warped[:, :-2], original[:, 2:], atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in COPY_KINDS if kind != "exact"])
def test_every_kind_changes_the_volume_and_keeps_shape_range_and_seed(scan, kind):
    made = change(kind, scan, np.random.default_rng(1), 2)
    assert made.shape == scan.shape
    assert made.dtype == np.float32
    assert np.abs(made).max() <= 1
    assert not np.array_equal(made, scan)
    assert np.array_equal(made, change(kind, scan, np.random.default_rng(1), 2))


def test_what_is_drawn_is_applied_the_same_way_every_time(scan):
    drawn = draw_mixture(np.random.default_rng(5))
    first, second = (apply(drawn, scan, window(scan), SHAPE, 2) for _ in range(2))
    assert np.array_equal(first, second)


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="no kind of change: 'upside down'"):
        draw("upside down", np.random.default_rng(0))
