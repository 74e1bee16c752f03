"""The search for copies: planted ones are found under every disguise, independent volumes are not."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from diffaug.audit.figures import percentile_figure
from diffaug.audit.material import Material
from diffaug.audit.memorisation import as_query, compare, describe, nearest, plan_search, plant, planted_shift
from diffaug.volumes.cache import VolumeCache
from diffaug.volumes.grid import Grid
from diffaug.volumes.windows import Window, scattered

CASES = [f"case_{i}" for i in range(8)]


class Plan:
    """The part of a generator's plan that the audit's material reads."""

    def __init__(self, grid):
        self.grid = grid


def grid(shape, field_of_view="whole", spacing=(1.0, 1.0, 1.0), channels=1, orientation="LPS"):
    ranges = tuple((-1.0, 1.0) for _ in range(channels))
    return Grid(field_of_view, orientation, spacing, shape, ranges, (0.0,) * channels, (1.0,) * channels)


def blobs(shape, seed, channels=1):
    noise = np.random.default_rng(seed).standard_normal((channels, *shape))
    smooth = gaussian_filter(noise, (0, 2.5, 2.5, 2.5))
    return (smooth / np.abs(smooth).max()).astype(np.float32)


def material(tmp_path, the_grid, extent, channels=1, windows=None):
    cache = VolumeCache(tmp_path)
    cache.fill(CASES, lambda case: blobs(extent, int(case[-1]), channels))
    return Material(Plan(the_grid), cache, tmp_path, windows or {})


def look_for(volumes, scans, places=None):
    search = plan_search(scans.plan.grid)
    queries = torch.stack([as_query(v, search) for v in volumes])
    scores = compare(scans, queries, places or [None] * len(volumes), CASES, search, torch.device("cpu"))
    return nearest(scores, [f"query {i}" for i in range(len(volumes))], CASES)


@pytest.mark.parametrize("channels", [1, 2])
def test_planted_copies_are_found_and_independent_volumes_are_not(tmp_path, channels):
    scans = material(tmp_path, grid((32, 32, 32), channels=channels), (30, 34, 32), channels)
    search = plan_search(scans.plan.grid)
    real = scans.real("case_3")
    blurred = np.stack([gaussian_filter(v, 1.0) for v in real])
    copies = plant(real, scans.real("case_3", None, planted_shift(search)), blurred, search, 0)
    independent = [blobs((32, 32, 32), 100 + i, channels) for i in range(10)]
    found = look_for([*copies.values(), *independent], scans)
    highest = max(n.similarity for n in found[len(copies) :])
    for kind, near in zip(copies, found, strict=False):
        assert near.case == "case_3", kind
        assert near.similarity > highest, kind
        assert near.mirrored == (kind == "mirrored"), kind
    assert found[0].similarity == pytest.approx(1, abs=1e-3)
    assert found[0].ratio < 0.1
    assert highest < 0.8


def test_a_window_is_found_wherever_it_lies_in_a_patch_dataset(tmp_path):
    extent, shape = (40, 36, 48), (16, 16, 16)
    windows = {f"s{i}": scattered(extent, shape, 0, np.random.default_rng(i)) for i in range(4)}
    scans = material(tmp_path, grid(shape, "patch"), extent, windows=windows)
    names = sorted(windows)
    copies = [scans.real(f"case_{i}", name) for i, name in enumerate(names)]
    strangers = [blobs(shape, 50 + i) for i in range(4)]
    found = look_for([*copies, *strangers], scans, [*names, *names])
    assert [n.case for n in found[:4]] == CASES[:4]
    assert min(n.similarity for n in found[:4]) > 0.99 > max(n.similarity for n in found[4:])


def test_similarity_ignores_brightness_and_contrast_of_each_channel():
    search = plan_search(grid((16, 16, 16), channels=2))
    volume = blobs((16, 16, 16), 0, 2)
    changed = volume * np.array([0.5, 2.0], dtype=np.float32)[:, None, None, None] + 0.3
    assert torch.allclose(as_query(volume, search), as_query(changed, search), atol=1e-5)


def test_a_constant_volume_is_like_nothing(tmp_path):
    scans = material(tmp_path, grid((16, 16, 16)), (16, 16, 16))
    (found,) = look_for([np.zeros((1, 16, 16, 16), np.float32)], scans)
    assert found.similarity == pytest.approx(0)


def test_a_scan_is_not_its_own_neighbour():
    scores = np.zeros((2, 3, 1), np.float32)
    scores[0, :, 0] = 1.0, 0.4, 0.6
    (found,) = nearest(scores, ["a"], ["a", "b", "c"])
    assert (found.case, found.similarity) == ("c", pytest.approx(0.6))
    assert found.ratio == pytest.approx((0.4 / 0.6) ** 0.5)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((48, 56, 40), (1, 1, 1)), ((256, 256, 128), (1, 1, 2)), ((8, 4, 4), (1, 1, 1))]
)
def test_few_cells_are_compared_whatever_the_grid(shape, spacing):
    search = plan_search(grid(shape, spacing=spacing))
    assert np.prod(np.array(shape) // search.factor) <= 16384
    assert min(search.core) >= 1


def test_mirroring_is_left_right_however_axes_lie():
    assert plan_search(grid((16, 16, 16), orientation="LPS")).mirror == 2
    assert plan_search(grid((16, 16, 16), orientation="PIR")).mirror == 0


def test_smoothing_keeps_a_constant_and_never_wraps_around():
    search = plan_search(grid((16, 16, 16)))
    volume = np.ones((1, 16, 16, 16), np.float32)
    assert torch.allclose(describe(volume, search), torch.ones(1, 16, 16, 16))
    volume[:, 0] = 5
    assert describe(volume, search)[0, -1].max() == pytest.approx(1)


def test_floor_of_few_scans_is_the_largest_and_of_many_is_not():
    assert percentile_figure(np.arange(20) / 20, 95, 0).value == 0.95
    assert percentile_figure(np.arange(100) / 100, 95, 0).value < 0.99


def test_a_cropped_synthetic_volume_comes_back_onto_the_grid(tmp_path):
    from diffaug.volumes.grid import synthetic_scan
    from diffaug.volumes.scan import write_scan
    from diffaug.volumes.windows import centred, cut, paste_extent

    the_grid, extent = grid((16, 16, 16), orientation="RAS"), (14, 20, 11)
    window = centred(extent, the_grid.shape)
    whole = cut(blobs(extent, 0), window, the_grid.shape)
    write_scan(synthetic_scan(paste_extent(whole, window), the_grid), tmp_path / "imagesTr", "s")
    scans = Material(Plan(the_grid), VolumeCache(tmp_path), tmp_path, {"s": Window(window.offset, extent)})
    assert np.allclose(scans.synthetic("s"), whole, atol=1e-5)
