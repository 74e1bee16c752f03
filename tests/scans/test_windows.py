"""Windows are cut and pasted without losing their place."""

import numpy as np
import pytest
import torch

from diffaug.scans.windows import Window, centred, coordinates, cut, paste_extent, scattered

SCAN = np.arange(2 * 9 * 10 * 11, dtype=np.float32).reshape(2, 9, 10, 11)


@pytest.mark.parametrize("mode", ["symmetric", "constant"])
@pytest.mark.parametrize("offset", [(0, 0, 0), (-3, 4, -2), (5, -1, 7), (-2, -2, -2)])
@pytest.mark.parametrize("shape", [(4, 4, 4), (9, 10, 11), (14, 16, 12)])
def test_cutting_then_dropping_the_padding_gives_the_scan_back(offset, shape, mode):
    window = Window(offset, SCAN.shape[1:])
    made = cut(SCAN, window, shape, mode)
    assert made.shape == (2, *shape)
    inside = paste_extent(made, window)
    starts = [max(o, 0) for o in offset]
    stops = [min(o + s, n) for o, s, n in zip(offset, shape, SCAN.shape[1:], strict=True)]
    (z, y, x), (zz, yy, xx) = starts, stops
    np.testing.assert_array_equal(inside, SCAN[:, z:zz, y:yy, x:xx])


def test_outside_is_zero_as_nnunet_fills_it_or_the_mirrored_scan():
    window = Window((-2, 0, 0), SCAN.shape[1:])
    assert not cut(SCAN, window, (4, 4, 4), "constant")[:, :2].any()
    np.testing.assert_array_equal(cut(SCAN, window, (4, 4, 4))[:, :2], SCAN[:, 1::-1, :4, :4])


def test_a_cut_is_a_copy():
    made = cut(SCAN, Window((0, 0, 0), SCAN.shape[1:]), SCAN.shape[1:])
    made += 1
    assert SCAN[0, 0, 0, 0] == 0


def test_a_window_as_large_as_the_scan_has_coordinates_from_edge_to_edge():
    places = coordinates([centred((8, 12, 16), (8, 12, 16))], (8, 12, 16), (4, 3, 8))
    assert places.shape == (1, 3, 4, 3, 8)
    for axis, cells in enumerate((4, 3, 8)):
        line = places[0, axis].movedim(axis, 0).flatten(1)[:, 0]
        # cell centres: half a cell from the edges -1 and 1, evenly between
        torch.testing.assert_close(line, torch.linspace(-1 + 1 / cells, 1 - 1 / cells, cells))


def test_coordinates_tell_the_place_in_the_scan_and_not_in_the_window():
    scan, shape, cells = (16, 16, 16), (8, 8, 8), (8, 8, 8)
    lower, upper = coordinates([Window((0, 0, 0), scan), Window((8, 0, 0), scan)], shape, cells)
    torch.testing.assert_close(upper[0], lower[0] + 1)
    torch.testing.assert_close(upper[1:], lower[1:])
    outside = coordinates([Window((-4, 12, 0), scan)], shape, cells)[0]
    assert outside[0].min() < -1
    assert outside[1].max() > 1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("offset", [(0, 0, 0), (-3, 4, -2), (5, -1, 7)])
def test_a_mirrored_window_shows_every_voxel_with_its_own_coordinates(offset, axis):
    scan, shape = (9, 10, 11), (6, 6, 6)
    places = coordinates([centred(scan, scan)], scan, scan)[0].numpy()
    window = Window(offset, scan, mirrored=axis)
    seen, told = cut(places, window, shape, "constant"), coordinates([window], shape, shape)[0].numpy()
    inside = (np.abs(told) < 1).all(0)
    np.testing.assert_allclose(seen[:, inside], told[:, inside], atol=1e-6)
    assert told[axis].flat[0] > told[axis].flat[-1]
    others = [other for other in range(3) if other != axis]
    np.testing.assert_array_equal(told[others], coordinates([Window(offset, scan)], shape, shape)[0].numpy()[others])


@pytest.mark.parametrize("reach", [0, 3])
def test_scattered_windows_stay_in_reach_and_get_everywhere(reach):
    extent, shape = (20, 8, 5), (8, 8, 8)
    rng = np.random.default_rng(0)
    offsets = np.array([scattered(extent, shape, reach, rng).offset for _ in range(600)])
    middle = centred(extent, shape).offset
    assert set(offsets[:, 0]) == set(range(-reach, 12 + reach + 1))
    for axis in (1, 2):
        assert set(offsets[:, axis]) == set(range(middle[axis] - reach, middle[axis] + reach + 1))


@pytest.mark.parametrize("size", [1, 2, 5, 12])
@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_scattered_windows_of_thin_scans_still_hold_some_of_them(size, length):
    rng = np.random.default_rng(0)
    for _ in range(100):
        window = scattered((size, 9, 9), (length, 4, 4), 4, rng)
        assert paste_extent(np.zeros((1, length, 4, 4)), window).size


def test_scattered_is_a_function_of_its_generator():
    one, other = (scattered((20, 20, 20), (8, 8, 8), 2, np.random.default_rng(5)) for _ in range(2))
    assert one == other
