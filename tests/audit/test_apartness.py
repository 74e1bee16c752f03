"""The classifier two-sample test: what differs is seen, what does not is not, and no patient is on both sides of a fold."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu
from test_memorisation import blobs, grid, inputs

from diffaug.audit import apartness, classifier, spoiling
from diffaug.audit.apartness import at_least_chance, look_for_differences, tell_apart
from diffaug.audit.discriminant import STATISTICS
from diffaug.audit.figures import Figure, area_figure
from diffaug.audit.folds import deal_folds
from diffaug.audit.spoiling import strangers
from diffaug.patients import owners_of
from diffaug.training.devices import start_fabric

SIZE = (16, 16, 16)
FIRST = [blobs(SIZE, i) for i in range(40)]
SECOND = [blobs(SIZE, 100 + i) for i in range(40)]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(apartness, "CLASSIFIER_STEPS", 50)
    monkeypatch.setattr(apartness, "CLASSIFIER_BATCH", 8)


def owners(prefix, count=40):
    return [f"{prefix}{i}" for i in range(count)]


@pytest.fixture
def told(tmp_path):
    def call(first, second, patients=None):
        patients = patients or (owners("a", len(first)), owners("b", len(second)))
        fabric = start_fabric("cpu")
        return tell_apart([first, second], patients, mirror=2, seed=0, fabric=fabric, folder=tmp_path, name="sets")

    return call


def test_what_was_drawn_alike_is_not_told_apart(told):
    area = at_least_chance(area_figure(told(FIRST, SECOND), 0))
    assert area.low <= 0.5 < area.high
    assert area.n == 40


def test_grain_is_seen(told):
    rng = np.random.default_rng(0)
    grainy = [volume + rng.normal(0, 0.2, volume.shape).astype(np.float32) for volume in SECOND]
    assert area_figure(told(FIRST, grainy), 0).low > 0.9


def test_every_volume_is_judged_once_and_by_a_classifier_that_knows_none_of_its_patient(told, monkeypatch):
    seen = []
    honest = apartness.ClassifierObjective

    def spied(sets, mirror):
        seen.append([{id(v) for v in volumes} for volumes in sets])
        return honest(sets, mirror)

    monkeypatch.setattr(apartness, "ClassifierObjective", spied)
    patients = ([f"p{i // 2}" for i in range(40)], [f"p{i // 4}" for i in range(40)])
    scores = told(FIRST, SECOND, patients)
    assert [len(side) for side in scores] == [40, 40]
    for fold, known in enumerate(seen):
        asked = {
            p
            for side, of in zip(scores, patients, strict=True)
            for (n, _), p in zip(side, of, strict=True)
            if n == fold
        }
        for volumes, of, ids in zip((FIRST, SECOND), patients, known, strict=True):
            assert ids == {id(v) for v, p in zip(volumes, of, strict=True) if p not in asked}


def test_a_stopped_test_goes_on_to_the_same_scores_and_other_volumes_are_judged_anew(told, tmp_path):
    before = told(FIRST, SECOND)
    first, fourth = (next(tmp_path.glob(f"*/{number}.json")) for number in (0, 3))
    fourth.unlink()
    kept = first.stat().st_mtime_ns
    after = told(FIRST, SECOND)
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert first.stat().st_mtime_ns == kept
    assert not list(tmp_path.rglob("*.state.pt"))
    other = told(FIRST, [volume * 0.9 for volume in SECOND])
    assert not (other[1] == before[1]).all()


def test_one_that_was_killed_stands_in_the_way_of_no_other(told, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(apartness.ClassifierObjective, "judge", killed)
        with pytest.raises(KeyboardInterrupt):
            told(FIRST, SECOND)
    assert list(tmp_path.rglob("*.state.pt"))
    told(FIRST, [volume * 0.9 for volume in SECOND])


def test_the_area_is_that_of_mann_and_whitney_fold_by_fold():
    rng = np.random.default_rng(0)
    scores = [np.stack([np.arange(40) % 5, rng.normal(shift, 1, 40).round(1)], 1) for shift in (0, 0.5)]
    folds = [[side[side[:, 0] == n, 1] for side in scores] for n in range(5)]
    expected = np.mean([mannwhitneyu(b, a).statistic / (len(a) * len(b)) for a, b in folds])
    area = area_figure(scores, 0)
    assert area.value == pytest.approx(expected)
    assert area.low < area.value < area.high


def test_no_floor_is_below_chance():
    assert at_least_chance(Figure(0.25, 0.125, 0.375, 9)) == Figure(0.5, 0.375, 0.625, 9)
    assert at_least_chance(Figure(0.6, 0.5, 0.7, 9)) == Figure(0.6, 0.5, 0.7, 9)


def test_a_volume_larger_than_the_classifier_sees_is_judged_at_several_places(told, monkeypatch):
    monkeypatch.setattr(classifier, "SEEN_EDGE", 8)
    spoilt = [volume.copy() for volume in SECOND]
    for volume in spoilt:
        volume[:, ::2] += 0.6
    assert area_figure(told(FIRST, spoilt), 0).low > 0.8


def found(tmp_path, made, scans=40):
    cases = [f"case_{i}" for i in range(scans)]
    volumes = inputs(tmp_path, grid(SIZE), SIZE, training=cases, made={f"made_{i}": v for i, v in enumerate(made)})
    real = volumes.likes(cases, 0)
    owners = owners_of(cases, [("case_1", "case_2")])
    return look_for_differences(volumes, real, owners, seed=0, fabric=start_fabric("cpu"), folder=tmp_path / "apart")


def test_synthetic_volumes_stand_beside_the_floor_and_beside_spoilt_scans(tmp_path, monkeypatch):
    monkeypatch.setattr(spoiling, "SLIGHT_BLUR", 3.0)  # so short a training sees no slighter one
    noise = np.random.default_rng(0)
    apart = found(tmp_path, [v + noise.normal(0, 0.2, v.shape).astype(np.float32) for v in SECOND])
    assert apart.curve.verdict == "off"
    assert apart.blurred.verdict == "off"
    assert apart.curve.floor == apart.patched.floor
    assert 0.5 <= apart.curve.floor.value < 0.8
    assert len(apart.synthetic) == len(apart.real) == 20
    assert set(apart.real) <= {f"case_{i}" for i in range(40)}
    assert min(apart.synthetic.values()) > np.median(list(apart.real.values()))


@pytest.mark.parametrize("seed", range(8))
def test_no_fold_lacks_volumes_of_either_set_however_many_a_patient_has(seed):
    first = [f"p{i}" for i in range(4) for _ in range(5)] + ["p4", "shared"]
    second = ["shared", *(f"q{i}" for i in range(4) for _ in range(3)), "q4", "q5"]
    folds = deal_folds((first, second), seed)
    assert [sorted(set(side)) for side in folds] == [list(range(5))] * 2
    assert folds[0][-1] == folds[1][0], "a patient of both sets is in one fold"


def test_fewer_patients_than_folds_are_not_judged(tmp_path):
    made = {f"made_{i}": v for i, v in enumerate(SECOND)}
    cases = [f"case_{i}" for i in range(40)]
    volumes = inputs(tmp_path, grid(SIZE), SIZE, training=cases, made=made)
    owners = [f"p{i // 5}" for i in range(40)]
    folder = tmp_path / "apart"
    fabric = start_fabric("cpu")
    apart = look_for_differences(volumes, volumes.likes(cases, 0), owners, seed=0, fabric=fabric, folder=folder)
    assert apart is None
    assert not folder.exists(), "nothing was trained in vain"


def test_few_synthetic_volumes_are_held_against_scans_of_many_patients():
    scans = [((f"case_{i}", None), f"p{i // 3}") for i in range(300)]
    halves = apartness._halves(scans, 12, np.random.default_rng(0))
    assert halves is not None
    assert [len(half) for half in halves] == [12, 12]
    assert [len({owner for _, owner in half}) for half in halves] == [12, 12]
    assert len({owner for half in halves for _, owner in half}) >= 23


def test_every_voxel_of_a_large_volume_is_looked_at():
    judged = classifier.ClassifierObjective(([np.zeros((1, 70, 33, 20), np.float32)],) * 2, 2)
    seen = np.zeros((70, 33, 20), bool)
    for z, y, x in classifier._places(seen.shape):
        seen[z : z + classifier.SEEN_EDGE, y : y + classifier.SEEN_EDGE, x : x + classifier.SEEN_EDGE] = True
    assert seen.all()
    assert np.isfinite(judged.judge(np.zeros((1, 70, 33, 20), np.float32), torch.device("cpu")))


def test_a_block_of_another_scan_is_another_patients():
    patients = [f"p{i // 8}" for i in range(48)]
    assert all(a != b for a, b in zip(patients, strangers(patients), strict=True))


def test_volumes_are_ranked_by_the_classifier_that_tells_more(tmp_path):
    soft = [gaussian_filter(v, (0, 0.6, 0.6, 0.6)) for v in SECOND]
    apart = found(tmp_path, soft)
    assert apart.textured.figure.value > apart.curve.figure.value, "so short a training overlooks it"
    told = np.mean([made > real for made in apart.synthetic.values() for real in apart.real.values()])
    assert told == pytest.approx(apart.textured.figure.value, abs=0.1)
    assert np.argmin(apart.excess) in [i for i, name in enumerate(STATISTICS) if "Laplacian" in name]


def test_too_few_volumes_are_not_judged(tmp_path):
    assert found(tmp_path, SECOND[:9]) is None
