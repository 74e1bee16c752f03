"""The scarce-label benchmark: scores, draws of labelled cases, cells that several processes share, and statistics."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.scarce.arms import Arm
from benchmarks.scarce.cells import Cell, collect, pack, read_cells, save, unfinished
from benchmarks.scarce.data import HIPPOCAMPUS, DataSet, draws, forbidden, judging_cases, require_draw, validation
from benchmarks.scarce.scores import score
from benchmarks.scarce.statistics import compare, grid, holm, interval
from diffaug.errors import DiffaugError
from diffaug.files import write_json
from diffaug.phantom.dataset import write_dataset
from diffaug.scans.exclusion import excluded_ids

TRIED = Path(__file__).parents[2] / "benchmarks" / "tried" / "results"
LOADED = {"initial_lr": 0.003, "load": "encoder"}


def ball(centre, radius, shape=(20, 20, 20)):
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    return ((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2).astype(np.uint8)


def test_the_truth_scores_perfectly():
    truth = ball((10, 10, 10), 5)
    assert score(truth, truth, {"organ": 1}, (1, 1, 1), 1)["organ"] == {"dice": 1, "nsd": 1, "hd95": 0}


def test_distances_are_in_millimetres():
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[5:15, 5:15, 5:15] = 1
    shifted = np.roll(truth, 1, axis=0)
    found = score(shifted, truth, {"organ": 1}, (3.0, 1.0, 1.0), tolerance=1)["organ"]
    assert found["dice"] == pytest.approx(0.9)
    assert found["hd95"] == pytest.approx(3)
    assert found["nsd"] < 0.8
    assert score(shifted, truth, {"organ": 1}, (3.0, 1.0, 1.0), tolerance=3)["organ"]["nsd"] == 1


def test_a_missed_label_costs_all_and_an_absent_one_nothing():
    truth = ball((10, 10, 10), 5)
    found = score(np.zeros_like(truth), truth, {"organ": 1, "absent": 2}, (1, 1, 1), 1)
    assert set(found) == {"organ"}
    assert found["organ"]["dice"] == found["organ"]["nsd"] == 0
    assert found["organ"]["hd95"] > 30


@pytest.fixture
def phantoms(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    write_dataset(tmp_path / "raw", task=951, cases=20, test=3, site="B", shape=(8, 8, 8))
    return DataSet("small", "Dataset951_BreastPhantomB", (2, 4, 8), 5.0, "Dataset951_BreastPhantomB")


def test_labelled_cases_are_nested_and_never_held_back(phantoms):
    splits = draws(phantoms)
    held, test = set(validation(phantoms)), {case.id for case, _ in judging_cases(phantoms)}
    assert len(held) == 8
    assert len(test) == 3
    for seed in range(3):
        few, more, most = (set(splits[phantoms.fold(n, seed)]["train"]) for n in phantoms.counts)
        assert few < more < most
        assert [len(s) for s in (few, more, most)] == [2, 4, 8]
        assert not most & (held | test)
    assert splits[phantoms.fold(4, 0)] != splits[phantoms.fold(4, 1)]


def test_no_training_takes_another_split_for_a_draw(phantoms):
    """nnU-Net takes a random split of all cases, tests included, for a fold that is none."""
    splits = draws(phantoms)
    write_json(phantoms.workspace.preprocessed / "splits_final.json", splits)
    require_draw(phantoms, 4, 3)
    for labelled, seed in ((5, 0), (4, 20), (4, -1)):
        with pytest.raises(DiffaugError, match="fix --labelled, --seeds or --first-seed"):
            require_draw(phantoms, labelled, seed)
    with pytest.raises(DiffaugError, match="cases to draw"):
        require_draw(replace(phantoms, counts=(2, 4, 80)), 80, 0)
    write_json(phantoms.workspace.preprocessed / "splits_final.json", splits[1:])
    with pytest.raises(DiffaugError, match="is another draw"):
        require_draw(phantoms, 4, 0)


def test_people_stay_together(phantoms, tmp_path):
    raw = phantoms.workspace.raw
    names = [f"phantomB_{number:04d}" for number in range(1, 21)]
    write_json(raw / "lists.json", {"pool": names[4:], "test": names[:4]})
    paired = DataSet(
        "paired", phantoms.task, (2, 4), 1.0, phantoms.task, raw / "lists.json", patient=HIPPOCAMPUS.patient
    )
    for split in draws(paired):
        numbers = sorted(int(case[-4:]) for case in split["train"])
        assert all(b == a + 1 and a % 2 for a, b in zip(numbers[::2], numbers[1::2], strict=True))
    assert [case.id for case, _ in judging_cases(paired)] == names[:4]


def test_choices_are_judged_by_cases_that_no_table_knows(phantoms, tmp_path):
    raw = phantoms.workspace.raw
    names = [f"phantomB_{number:04d}" for number in range(1, 21)]
    write_json(raw / "lists.json", {"pool": names[4:], "test": names[:4]})
    listed = replace(phantoms, lists=raw / "lists.json")
    judges = {case.id for case, _ in judging_cases(replace(listed, trials=True))}
    assert judges == set(validation(listed))
    assert not judges & {case.id for case, _ in judging_cases(listed)}
    assert not judges & {case for split in draws(listed) for case in split["train"]}


def test_generator_and_encoder_are_kept_from_test_and_validation(phantoms):
    held = validation(phantoms)
    write_json(phantoms.workspace.preprocessed / "scarce_lists.json", {"test": ["x"], "validation": held})
    assert excluded_ids(phantoms.workspace, forbidden(phantoms), []) == set(held), "imagesTs is never read anyway"


def result(value):
    return {"scores": {"case_1": {"organ": {"dice": value, "nsd": value, "hd95": 1.0}}}}


def test_finished_cells_are_skipped_and_those_at_work_too(tmp_path):
    cells = [Cell("d", "plan", "scratch", 4, seed) for seed in range(3)]
    save(cells[0], result(0.5), tmp_path)
    mine = unfinished(cells, tmp_path)
    assert next(mine) == cells[1]
    others = unfinished(cells, tmp_path)
    assert next(others) == cells[2], "another process takes what is free"
    save(cells[1], result(0.6), tmp_path)
    save(cells[2], result(0.7), tmp_path)
    assert list(others) == list(mine) == []


def test_a_cell_whose_process_was_killed_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.scarce.cells.PAUSE", 0.01)
    cells = [Cell("d", "plan", "scratch", 4, seed) for seed in range(2)]
    killed = unfinished(cells, tmp_path)
    assert next(killed) == cells[0]
    mine = unfinished(cells, tmp_path)
    assert next(mine) == cells[1]
    save(cells[1], result(0.5), tmp_path)
    killed.close()
    assert next(mine) == cells[0]


def test_a_killed_cell_is_run_again(tmp_path):
    cells = [Cell("d", "plan", "scratch", 4, 0)]
    taken = unfinished(cells, tmp_path)
    next(taken)
    taken.close()
    assert list(unfinished(cells, tmp_path)) == cells


def test_collected_values_are_means_over_labels(tmp_path):
    labels = {"a": {"dice": 0.5, "nsd": 1.0, "hd95": 2.0}, "b": {"dice": 0.7, "nsd": 0.0, "hd95": 4.0}}
    save(Cell("d", "plan", "real", 8, 1), {"scores": {"case_1": labels}}, tmp_path)
    assert collect(tmp_path, "d").to_dict("records") == [
        {"network": "plan", "arm": "real", "labelled": 8, "seed": 1, "case": "case_1", "value": 0.6}
    ]
    assert collect(tmp_path, "d", "hd95")["value"].tolist() == [3.0]


def test_packed_cells_say_the_same_and_are_not_run_again(tmp_path):
    cells = [Cell("d", "plan", "real", 8, 0), Cell("d", "plan", "scratch", 8, 0), Cell("e", "plan", "scratch", 8, 0)]
    folder = tmp_path / "cells"
    about = {"settings": {"epochs": 3}, "versions": {}, "machine": {}, "seconds": {"train": 2.5, "test": 1.0}}
    for number, cell in enumerate(cells[:2]):
        save(cell, {**result(0.5 + number / 10), **about}, folder)
    before = collect(folder, "d")
    table = pack(folder)
    assert table == tmp_path / "cells.csv.gz"
    assert not list(folder.rglob("*.json"))
    pd.testing.assert_frame_equal(collect(folder, "d"), before)
    assert list(unfinished(cells, folder)) == [cells[2]]
    content = table.read_bytes()
    save(cells[2], {**result(0.9), **about}, folder)
    assert collect(folder, "e")["value"].tolist() == [0.9], "of the table and of the folder"
    pack(folder)
    pd.testing.assert_frame_equal(collect(folder, "d"), before)
    assert pack(folder).read_bytes() != content
    assert pack(folder).read_bytes() == pack(folder).read_bytes(), "no time of day in it"
    assert set(read_cells(folder)["train"]) == {2.5}


@pytest.mark.parametrize(("data", "count"), [("phantom", 100), ("hippocampus", 76)])
def test_published_tables_can_be_read(data, count):
    cells = read_cells(TRIED / "short_trainings").query("data == @data")
    assert len(cells[["network", "arm", "labelled", "seed"]].drop_duplicates()) == count


def test_a_cell_whose_encoder_another_process_makes_has_its_turn_later(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.scarce.cells.PAUSE", 0.01)
    cells = [Cell("d", "plan", arm, 4, 0) for arm in ("real", "scratch")]
    asked = []

    def ready(cell):
        asked.append(cell.arm)
        return cell.arm == "scratch" or asked.count("real") > 2

    assert [cell.arm for cell in unfinished(cells, tmp_path, ready)] == ["scratch", "real"]


@pytest.mark.parametrize(
    ("text", "start", "is_long", "pretext", "steps", "settings"),
    [
        ("scratch", ("scratch",), False, None, None, {}),
        ("scratch-long::9", ("scratch",), True, None, 9, {}),
        ("real+synthetic-long:mae", ("real", "synthetic"), True, "mae", None, {}),
        ('synthetic:denoise:2000@initial_lr=0.003,load="encoder"', ("synthetic",), False, "denoise", 2000, LOADED),
    ],
)
def test_an_arm_is_read_from_its_name(text, start, is_long, pretext, steps, settings):
    assert Arm.parse(text) == Arm(text, start, is_long, pretext, steps, settings)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "scratch:mae",
        "scratch::9",
        "-long",
        "real::0",
        "scratch-long::-5",
        "oracle:mae",
        "real:nothing",
        "real:mae:x",
        "real:mae:1:2",
        "real+scratch",
        "real@lr=x",
    ],
)
def test_what_is_no_arm_is_refused(text):
    with pytest.raises(DiffaugError, match="no such arm"):
        Arm.parse(text)


def table(gain, noise, seeds=5, cases=40):
    rng = np.random.default_rng(1)
    hardness, luck = rng.normal(size=cases) * 0.05, rng.normal(size=seeds) * 0.02
    rows = []
    for arm, extra in (("scratch", 0.0), ("real", gain)):
        for seed in range(seeds):
            for case in range(cases):
                value = 0.8 + hardness[case] + luck[seed] + extra + noise * rng.normal()
                rows.append((arm, 4, seed, f"c{case}", value))
    return pd.DataFrame(rows, columns=["arm", "labelled", "seed", "case", "value"])


def test_a_gain_is_found_through_hard_cases_and_lucky_seeds():
    difference = compare(table(0.02, 0.005), "real", "scratch", 4)
    assert difference.mean == pytest.approx(0.02, abs=0.002)
    assert difference.low < 0.02 < difference.high
    assert difference.p_cases < 1e-6
    assert difference.p_seeds < 1e-3
    assert difference.seeds == 5


def test_no_gain_is_not_called_one():
    difference = compare(table(0.0, 0.02), "real", "scratch", 4)
    assert difference.low < 0 < difference.high
    assert difference.p_seeds > 0.05


def test_only_common_seeds_are_compared():
    cells = table(0.02, 0.005)
    cells = cells[~((cells["arm"] == "real") & (cells["seed"] > 1))]
    assert compare(cells, "real", "scratch", 4).seeds == 2
    assert compare(cells, "shapes", "scratch", 4) is None


def test_interval_knows_that_seeds_are_few():
    cells = grid(table(0.0, 0.001), "scratch", 4).to_numpy()
    low, high = interval(cells)
    assert high - low > 2 * 1.96 * cells.std() / np.sqrt(cells.size)


def test_holm_multiplies_the_smallest_by_all_and_keeps_the_order():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert np.isnan(holm([float("nan"), 0.01])[0])
