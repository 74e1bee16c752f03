"""The copy detector: finds what was planted, spares what was not, knows one patient's scans, and survives the disk."""

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from diffaug.copies.calibrating import make_detector
from diffaug.copies.changes import COPY_KINDS, apply, draw
from diffaug.copies.detector import CopyDetector
from diffaug.scans.windows import centred, cut

SIZE, SHAPE = (24, 28, 26), (20, 24, 22)
CASES, UNSEEN = tuple(range(20)), tuple(range(100, 112))
CPU = torch.device("cpu")


def scan(number: int) -> np.ndarray:
    """Anatomy that all share and structure of its own; numbers from 1000 on are second scans of the same patients."""
    anatomy, own = (
        gaussian_filter(np.random.default_rng(seed).standard_normal(SIZE), width) * width**1.5
        for seed, width in ((10**6, 4), (number % 1000, 1.5))
    )
    grain = np.random.default_rng(number).normal(0, 0.03, SIZE)
    return np.clip(0.5 * anatomy + 0.8 * own + grain, -1, 1)[None].astype(np.float32)


def volume(case: str) -> np.ndarray:
    return scan(int(case))


def made(cases=CASES, unseen=UNSEEN, **changes) -> CopyDetector:
    settings = {"shape": SHAPE, "mirror": 2, "field_of_view": "whole", "device": CPU, **changes}
    return make_detector(volume, [str(n) for n in cases], [str(n) for n in unseen], **settings)


@pytest.fixture(scope="module")
def detector() -> CopyDetector:
    torch.set_num_threads(1)
    return made()


def judged(detector, volumes):
    return detector.judge(torch.from_numpy(np.stack(volumes)))


@pytest.mark.parametrize("kind", COPY_KINDS)
def test_copies_are_found_and_their_scan_is_named(detector, kind):
    rng = np.random.default_rng(7)
    copies = [apply(draw(kind, rng), scan(n), centred(SIZE, SHAPE), SHAPE, 2) for n in CASES]
    found = judged(detector, copies)
    assert sum(near.copy and near.case == str(n) for near, n in zip(found, CASES, strict=True)) >= 18


def test_people_it_never_saw_are_no_copies(detector):
    found = judged(detector, [centre(n) for n in range(200, 240)])
    assert sum(near.copy for near in found) <= 5, "of 40; the threshold lets three in a hundred through"


def centre(number: int) -> np.ndarray:
    return cut(scan(number), centred(SIZE, SHAPE), SHAPE)


def test_an_exact_copy_is_as_similar_as_can_be():
    whole = made(shape=SIZE)
    (near,) = judged(whole, [scan(4)])
    assert near.case == "4"
    assert near.similarity > 0.8
    assert near.ratio < 0.2


def test_its_own_validation_counts_what_it_finds(detector):
    told = detector.calibration
    assert set(told.planted) == set(COPY_KINDS)
    assert told.planted["exact"] == (12, 12)
    share, low, high, count = told.false_alarms
    assert 0 <= low <= share <= high <= 1
    assert count == len(told.innocent) == len(CASES) + len(UNSEEN), "training scans too are held against the others"
    assert all(near != case for case, (near, _, _) in told.innocent.items())


def test_it_survives_the_disk_without_an_image_in_the_file(detector, tmp_path):
    file = tmp_path / "copies.json"
    detector.save(file)
    assert file.stat().st_size < 10_000
    loaded = CopyDetector.load(file, volume, CPU)
    volumes = [centre(n) for n in (3, 205)]
    assert judged(loaded, volumes) == judged(detector, volumes)
    assert loaded.calibration == detector.calibration


def test_broken_and_foreign_files_are_refused(detector, tmp_path, refusal):
    file = tmp_path / "copies.json"
    assert "no such file" in refusal(CopyDetector.load, file, volume, CPU)
    detector.save(file)
    content = json.loads(file.read_text())
    file.write_text(file.read_text()[:100])
    assert "not valid JSON" in refusal(CopyDetector.load, file, volume, CPU)
    for broken in ({**content, "format": "another"}, {**content, "planted": 3}, [1, 2]):
        file.write_text(json.dumps(broken))
        assert "not a copy test" in refusal(CopyDetector.load, file, volume, CPU)


def test_scans_of_one_person_count_as_one_and_hide_no_copies():
    twins = made(cases=(*CASES[:12], 1003, 1007), unseen=(*UNSEEN[:6], 1005))
    assert twins.calibration.patients == (("1003", "3"), ("1005", "5"), ("1007", "7"))
    assert twins.calibration.planted["exact"] == (12, 12)
    assert "1005" in twins.calibration.innocent, "held against other patients it is as innocent as any"
    (near,) = judged(twins, [centre(3)])
    assert near.copy
    assert near.case in ("3", "1003")


@pytest.mark.parametrize("scans", [3, 6, 9])
def test_a_patient_of_many_scans_is_known_as_one_and_copies_of_his_are_found(scans):
    repeated = [4, *(1000 * i + 4 for i in range(1, scans))]
    crowd = make_detector(
        lambda case: scan(int(case)) if int(case) % 1000 != 4 else repeat(int(case)),
        [str(n) for n in (*CASES, *repeated[1:])],
        [],
        shape=SHAPE,
        mirror=2,
        field_of_view="whole",
        device=CPU,
    )
    assert crowd.calibration.patients == (tuple(sorted(map(str, repeated))),)
    assert all(near.copy for near in judged(crowd, [cut(repeat(i), centred(SIZE, SHAPE), SHAPE) for i in range(5)]))
    assert not any(near.copy for near in judged(crowd, [centre(n) for n in range(300, 305)]))


def test_scans_whose_names_say_so_are_of_one_patient():
    names = [f"P{10000 + n % 8}V{1 + n // 8}" for n in range(16)]  # two strangers under each name
    named = make_detector(
        lambda case: scan(names.index(case)), names, [], shape=SHAPE, mirror=2, field_of_view="whole", device=CPU
    )
    assert named.calibration.patients == tuple(sorted((f"P{10000 + n}V1", f"P{10000 + n}V2") for n in range(8)))
    assert all(near.copy for near in judged(named, [centre(n) for n in range(16)]))


@pytest.mark.parametrize("unseen", [[], ["P20000V7"]])
def test_where_all_scans_are_of_one_patient_by_name_they_are_held_against_each_other(unseen):
    names = [f"P10000V{n + 1}" for n in range(4)]
    alone = make_detector(
        lambda case: scan(int(case.partition("V")[2])),
        names,
        unseen,
        shape=SHAPE,
        mirror=2,
        field_of_view="whole",
        device=CPU,
    )
    assert alone.calibration.patients == ()


def repeat(number: int) -> np.ndarray:
    """A scan of patient 4 on another day: his structure, grain of its own."""
    return np.clip(scan(4) + np.random.default_rng(number).normal(0, 0.05, (1, *SIZE)), -1, 1).astype(np.float32)


def test_the_scan_a_volume_is_cut_from_is_passed_over(detector):
    (row,) = detector.distances(torch.from_numpy(centre(4))[None], own="4")
    near = detector.nearest(row)
    assert torch.isinf(row[4])
    assert near.case != "4"
    assert not near.copy


def test_a_lone_scan_has_no_others_to_compare_with():
    alone = CopyDetector(volume, ["0"], shape=SHAPE, mirror=2, field_of_view="whole", device=CPU)
    (near,) = judged(alone, [centre(0)])
    assert near.case == "0"
    assert near.similarity > 0.3


def test_what_is_planted_and_not_found_makes_it_blind():
    same = make_detector(
        lambda case: scan(0), [str(n) for n in range(12)], [], shape=SHAPE, mirror=2, field_of_view="whole", device=CPU
    )
    assert same.blind or len(same.calibration.patients) == 1, "one scan twelve times over tells no copy from another"


def test_copies_of_patches_are_found_wherever_they_lie():
    patches = made(cases=range(16), unseen=(100, 101, 102), shape=(16, 16, 16), field_of_view="patch")
    found = judged(patches, [scan(n)[:, 2:18, 5:21, 3:19] for n in range(16)])
    assert sum(near.case == str(n) and near.copy for n, near in enumerate(found)) >= 15


def test_made_twice_it_is_the_same(detector):
    assert made().calibration == detector.calibration
