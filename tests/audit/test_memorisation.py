"""The test for copies: what is counted, what a count is worth, and which volumes are compared with which."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from diffaug.audit.figures import Figure
from diffaug.audit.inputs import AuditInputs
from diffaug.audit.memorisation import Judged, Memorisation, batches, chance, look_for_copies, tail
from diffaug.copies.detector import Calibration
from diffaug.scans.cache import VolumeCache
from diffaug.scans.grid import Grid
from diffaug.scans.windows import Window, centred, cut, scattered
from diffaug.training.devices import start_fabric

CASES = [f"case_{i}" for i in range(8)]


def grid(shape, field_of_view="whole", spacing=(1.0, 1.0, 1.0), channels=1, orientation="LPS"):
    ranges = tuple((-1.0, 1.0) for _ in range(channels))
    return Grid(field_of_view, orientation, spacing, shape, ranges, (0.0,) * channels, (1.0,) * channels)


def blobs(shape, seed, channels=1):
    noise = np.random.default_rng(seed).standard_normal((channels, *shape))
    smooth = gaussian_filter(noise, (0, 2.5, 2.5, 2.5))
    return (0.95 * smooth / np.abs(smooth).max() + 0.01 * noise).astype(np.float32)  # with some grain, as scans have


def inputs(tmp_path, the_grid, extent, *, training=CASES, unseen=(), made=None, windows=None, channels=1):
    """Real scans of blobs, and synthetic volumes `made` by name."""
    cache = VolumeCache(tmp_path / "scans")
    cache.fill({*training, *unseen}, lambda case: blobs(extent, int(case.rpartition("_")[2]), channels))
    made = made or {"s": blobs(extent, 99, channels)}
    return AuditInputs(
        title="blobs",
        channels=("MR",) * channels,
        grid=the_grid,
        training=tuple(training),
        unseen=tuple(unseen),
        scans=cache,
        names=tuple(sorted(made)),
        read=made.__getitem__,
        windows=windows or {},
        files={},
        synthetic_files={},
        about=(),
    )


@dataclass(frozen=True)
class Found:
    case: str
    similarity: float
    ratio: float
    copy: bool


class Correlation:
    """A detector that knows plain copies."""

    threshold = 0.9

    def __init__(self, scans, cases):
        self.cases = list(cases)
        self.bank = torch.stack([self._unit(torch.from_numpy(scans.real(case))[None])[0] for case in self.cases])
        self.calibration = Calibration(
            threshold=0.9,
            false_alarms=(0.0, 0.0, 0.6, 3),
            planted={"exact": (2, 2), "mirrored": (0, 2)},
            innocent={"case_10": ("case_3", 0.2, 0.9)},
        )

    @staticmethod
    def _unit(volumes):
        flat = volumes.flatten(1)
        return torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True))

    def judge(self, volumes):
        scores = self._unit(volumes) @ self.bank.T
        best = scores.argmax(1)
        return [
            Found(self.cases[i], float(row[i]), 0.5, bool(row[i] > 0.9)) for row, i in zip(scores, best, strict=True)
        ]


def looked(scans, decoded=None):
    return look_for_copies(scans, Correlation(scans, scans.training), decoded, start_fabric("cpu"), 0)


def test_copies_are_named_and_others_are_not(tmp_path):
    made = {f"new_{i}": blobs((16, 16, 16), 50 + i) for i in range(4)} | {"old": blobs((16, 16, 16), 3) + 0.1}
    found = looked(inputs(tmp_path, grid((16, 16, 16)), (16, 16, 16), unseen=["case_10", "case_11"], made=made))
    assert [(j.name, j.case) for j in found.copies] == [("old", "case_3")]
    assert found.reached == 1 / len(CASES)
    assert [j.name for j in found.synthetic] == sorted(made)
    assert found.false_alarms.value == 0
    assert found.innocent == [Judged("case_10", "case_3", 0.2, 0.9, False)]
    assert found.found == {"exact": (2, 2), "mirrored": (0, 2)}


def test_what_the_autoencoder_keeps_is_planted_and_what_it_makes_of_unseen_scans_must_not_be_named(tmp_path):
    scans = inputs(tmp_path, grid((16, 16, 16)), (16, 16, 16), unseen=["case_10", "case_11"])
    kept = looked(scans, lambda volume: volume)
    assert kept.found["through the autoencoder"] == (len(CASES), len(CASES))
    assert [j.copy for j in kept.decoded_unseen] == [False, False]
    lost = looked(scans, lambda volume: blobs((16, 16, 16), 77))
    assert lost.found["through the autoencoder"] == (0, len(CASES))
    swapped = looked(scans, lambda volume: scans.real("case_0"))
    assert swapped.found["through the autoencoder"] == (1, len(CASES)), "the right scan must be named"


def test_windows_of_real_scans_lie_where_volumes_lie(tmp_path):
    extent, shape = (40, 36, 48), (16, 16, 16)
    windows = {f"s{i}": scattered(extent, shape, 0, np.random.default_rng(i)) for i in range(4)}
    made = {name: blobs(shape, 60 + i) for i, name in enumerate(windows)}
    scans = inputs(tmp_path, grid(shape, "patch"), extent, unseen=["case_10", "case_11"], made=made, windows=windows)
    assert np.allclose(scans.real("case_2", "s1"), cut(scans.scans["case_2"], windows["s1"], shape))
    assert {like for _, like in scans.likes(CASES, 0)} <= set(windows)


def test_a_window_keeps_its_relative_place_in_a_larger_scan(tmp_path):
    scans = inputs(tmp_path, grid((10, 10, 10), "patch"), (20, 20, 20), windows={"s": Window((0, 5, 10), (20, 20, 20))})
    assert scans.place((40, 40, 40), "s").offset == (5, 15, 25)  # middles at a quarter, a half, three quarters
    assert scans.place((8, 40, 12), "s").offset == (-1, 15, 2)  # a short axis: the middle; nothing sticks out


def test_alarms_among_few_real_scans_make_copies_uncertain():
    assert chance(1, 1, 0, 0) == pytest.approx(0.5)  # nothing known, one volume: either
    assert chance(0, 10, 0, 10) == 1
    assert chance(1, 100, 0, 1000) > 0.05 > chance(5, 100, 0, 1000)
    assert chance(5, 100, 0, 10) > 0.05


def test_a_similarity_far_above_all_real_scans_is_a_copy_even_if_few_are_known():
    innocents = [0.5, 0.55, 0.6, 0.52, 0.58]
    high, usual = tail([0.99, 0.58], innocents)
    assert high < 1e-3 < 0.1 < usual
    assert tail([1 - float(np.exp(np.log1p(-np.array(innocents)).mean()))], innocents)[0] == pytest.approx(0.5)
    assert tail([0.99], [0.5, 0.6])[0] == 1, "two tell nothing"
    real = [Judged(str(i), "x", s, 0.9, False) for i, s in enumerate(innocents)]
    made = [Judged("copy", "x", 0.99, 0.1, True), *(Judged(str(i), "x", 0.6, 0.9, True) for i in range(9))]
    assert [
        j.name for j in Memorisation(made, real, [], [], 0.55, Figure(0.2, 0, 0.7, 5), (), {}, training=4).certain
    ] == ["copy"]


def test_copies_come_most_similar_first_and_reach_each_scan_once():
    judged = [Judged("a", "x", 0.8, 0.3, True), Judged("b", "x", 0.9, 0.3, True), Judged("c", "y", 0.99, 0.9, False)]
    found = Memorisation(judged, [], [], [], 0.7, Figure(0, 0, 0.6, 4), (), {}, training=4)
    assert [j.name for j in found.copies] == ["b", "a"]
    assert found.reached == 0.25


def test_batches_hold_every_volume_once():
    volumes = [np.full((1, 2, 2, 2), i, np.float32) for i in range(5)]
    stacked = list(batches(iter(volumes), 2**19))
    assert [len(b) for b in stacked] == [2, 2, 1]
    assert torch.cat(stacked)[:, 0, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_mirroring_is_left_right_however_axes_lie(tmp_path):
    assert inputs(tmp_path, grid((16, 16, 16), orientation="LPS"), (16, 16, 16)).grid.mirror == 2
    assert inputs(tmp_path, grid((16, 16, 16), orientation="PIR"), (16, 16, 16)).grid.mirror == 0


def test_a_cropped_synthetic_volume_comes_back_onto_the_grid(tmp_path):
    from diffaug.audit.inputs import _in_range
    from diffaug.scans.canonical import synthetic_scan
    from diffaug.scans.scan import write_scan
    from diffaug.scans.windows import paste_extent

    the_grid, extent = grid((16, 16, 16), orientation="RAS"), (14, 20, 11)
    window = centred(extent, the_grid.shape)
    whole = cut(blobs(extent, 0), window, the_grid.shape)
    files = write_scan(synthetic_scan(paste_extent(whole, window), the_grid), tmp_path / "imagesTr", "s")
    windows = {"s": Window(window.offset, extent)}
    scans = inputs(tmp_path, the_grid, extent, made={"s": _in_range(files, the_grid)}, windows=windows)
    assert np.allclose(scans.synthetic("s"), whole, atol=1e-5)
