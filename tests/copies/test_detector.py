"""The copy detector: finds what was planted, spares what was not, and survives the disk."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from blobs import blob
from diffaug.copies.changes import KINDS, change
from diffaug.copies.detector import CopyDetector
from diffaug.copies.fitting import fit_detector
from diffaug.engine.devices import start_fabric
from diffaug.engine.loop import Training

SHAPE = (20, 24, 22)
TRAINING = Training(steps=250, batch_size=1, learning_rate=2e-3, seed=0)
CASES, UNSEEN = tuple(range(20)), tuple(range(100, 112))


def scan(number: int) -> np.ndarray:
    body = blob(number)
    return (body / 1100 * 2 - 1)[None].astype(np.float32)


def fitted(folder, cases=CASES, unseen=UNSEEN, training=TRAINING, **changes):
    settings = {"shape": SHAPE, "mirror": 2, "field_of_view": "whole", **changes}
    names = [str(n) for n in cases], [str(n) for n in unseen]
    return fit_detector(
        lambda case: scan(int(case)), *names, **settings, training=training, fabric=start_fabric("cpu"), folder=folder
    )


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> CopyDetector:
    torch.set_num_threads(1)
    return fitted(tmp_path_factory.mktemp("detector"))


def judged(detector, volumes):
    return detector.judge(torch.from_numpy(np.stack(volumes)))


@pytest.mark.parametrize("kind", ["exact", "mirrored", "noisy", "intensities scaled"])
def test_copies_are_found_and_their_scan_is_named(detector, kind):
    rng = np.random.default_rng(7)
    found = judged(detector, [change(kind, scan(n), rng, 2) for n in CASES])
    assert sum(near.case == str(n) for near, n in zip(found, CASES, strict=True)) >= 19
    assert sum(near.copy for near in found) >= (20 if kind == "exact" else 16)


def test_people_it_never_saw_are_no_copies(detector):
    found = judged(detector, [scan(n) for n in range(200, 240)])
    assert sum(near.copy for near in found) <= 6, "of 40; the threshold lets one in twenty through"
    assert all(near.similarity < 1 for near in found)


def test_an_exact_copy_is_as_similar_as_can_be(detector):
    (near,) = judged(detector, [scan(4)])
    assert near.similarity == pytest.approx(1, abs=1e-2)
    assert near.ratio == pytest.approx(0, abs=1e-2)


def test_its_own_validation_counts_what_it_finds(detector):
    assert set(detector.planted) == set(KINDS)
    assert detector.planted["exact"] == (12, 12)
    share, low, high, count = detector.false_alarms
    assert 0 <= low <= share <= high <= 1
    assert count == len(UNSEEN)


def test_it_survives_the_disk(detector, tmp_path):
    detector.save(tmp_path / "copies.safetensors")
    loaded = CopyDetector.load(tmp_path / "copies.safetensors")
    volumes = [scan(n) for n in (3, 205)]
    for before, after in zip(judged(detector, volumes), judged(loaded, volumes), strict=True):
        assert (after.case, after.copy) == (before.case, before.copy)
        assert after.similarity == pytest.approx(before.similarity, abs=2e-3), "but for the order of sums"
    assert (loaded.threshold, loaded.false_alarms, loaded.planted) == (
        detector.threshold,
        detector.false_alarms,
        detector.planted,
    )


def test_broken_and_foreign_files_are_refused(detector, tmp_path, refusal):
    file = tmp_path / "copies.safetensors"
    assert "no such file" in refusal(CopyDetector.load, file)
    detector.save(file)
    file.write_bytes(file.read_bytes()[:1000])
    assert "not a whole copy detector" in refusal(CopyDetector.load, file)
    file.write_text("something else")
    assert "not a whole copy detector" in refusal(CopyDetector.load, file)


def test_further_scans_can_be_made_known(detector):
    assert judged(detector, [scan(300)])[0].case != "300"
    more = detector.with_cases(lambda case: scan(int(case)), ["300", "301"])
    (near,) = judged(more, [scan(300)])
    assert (near.case, near.copy) == ("300", True)
    assert len(detector.cases) == len(CASES), "the first one is as it was"


def test_the_same_person_among_the_unseen_hides_no_copies(tmp_path):
    twins = fitted(tmp_path, unseen=(*UNSEEN[:6], 2, 5))
    assert twins.known == 2
    assert twins.planted["exact"] == (12, 12)
    assert twins.false_alarms[3] == 6


def test_a_lone_scan_has_no_others_to_compare_with(detector):
    own = detector.owners == 0
    alone = replace(detector, references=detector.references[own], owners=detector.owners[own], cases=("0",))
    (near,) = judged(alone, [scan(0)])
    assert (near.case, near.copy) == ("0", True)


def test_copies_of_patches_are_found_wherever_they_lie(tmp_path):
    patches = fitted(tmp_path, cases=range(8), unseen=(100, 101, 102), shape=(16, 16, 16), field_of_view="patch")
    assert len(patches.references) > 8 * 8, "a scan is known by many windows"
    found = judged(patches, [scan(n)[:, 2:18, 5:21, 3:19] for n in range(8)])
    assert sum(near.case == str(n) for n, near in enumerate(found)) >= 7


def test_features_tell_blur_and_noise_that_the_vector_overlooks(detector):
    rng = np.random.default_rng(0)
    volumes = {
        "sharp": [scan(n) for n in CASES],
        "smooth": [change("smoothed", scan(n), rng, 2) for n in CASES],
        "noisy": [change("noisy", scan(n), rng, 2) for n in CASES],
    }
    features = {name: detector.features(torch.from_numpy(np.stack(v))).numpy() for name, v in volumes.items()}
    spread = features["sharp"].std(0) + 1e-6
    for name in ("smooth", "noisy"):
        assert np.abs((features[name].mean(0) - features["sharp"].mean(0)) / spread).max() > 2


def test_same_seed_same_detector(tmp_path):
    short = Training(steps=5, batch_size=1, learning_rate=2e-3, seed=0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    a, b = (fitted(tmp_path / name, training=short) for name in ("a", "b"))
    assert torch.equal(a.references, b.references)
    assert a.threshold == b.threshold
