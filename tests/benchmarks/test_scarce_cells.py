"""One cell of the scarce-label benchmark with real nnU-Net, from phantoms to a report."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.scarce.arms import ARMS, Arm, pretrain_arm
from benchmarks.scarce.cells import Cell, save
from benchmarks.scarce.data import DataSet, draws, judging_cases, prepare
from benchmarks.scarce.report import write_report
from benchmarks.scarce.training import train_cell
from diffaug.errors import DiffaugError
from diffaug.files import read_json, write_json
from diffaug.phantom.dataset import write_dataset

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("cells")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            (root / name).mkdir()
            patch.setenv(f"nnUNet_{name}", str(root / name))
        patch.setenv("nnUNet_n_proc_DA", "0")
        patch.setenv("nnUNet_def_n_proc", "1")
        task = write_dataset(root / "raw", task=951, cases=12, test=2, site="B", shape=(16, 16, 16)).name
        made = DataSet("small", task, (2, 4), 5.0, task)
        prepare(made)
        plans = read_json(made.workspace.plans_file, "")
        plans["configurations"][made.configuration]["diffaug"] |= {"epochs": 2, "iterations_per_epoch": 3}
        write_json(made.workspace.plans_file, plans)
        yield made


def test_a_split_of_ones_own_is_kept(data):
    splits = data.workspace.preprocessed / "splits_final.json"
    mine = [{"train": ["a"], "val": ["b"]}]
    write_json(splits, mine)
    prepare(data)
    assert read_json(splits, "") == draws(data)
    assert read_json(splits.with_name("splits_final.kept_by_scarce_labels.json"), "") == mine


def test_cell_scores_every_test_case_and_repeats(data):
    first, again = (train_cell(data, ARMS["scratch"], 2, 0, CPU) for _ in range(2))
    assert set(first["scores"]) == {case.id for case, _ in judging_cases(data)}
    assert first["scores"] == again["scores"], "same seed, same network, same scores"
    assert first["settings"]["epochs"] == 2
    other = train_cell(data, ARMS["scratch"], 2, 1, CPU)
    assert other["settings"]["fold"] != first["settings"]["fold"]


def test_stock_trainer_has_the_same_length_and_its_own_optimizer(data):
    settings = train_cell(data, ARMS["stock"], 2, 0, CPU)["settings"]
    assert settings["trainer"] == "nnUNetTrainer"
    assert (settings["epochs"], settings["iterations_per_epoch"], settings["initial_lr"]) == (2, 3, 0.01)


def test_pretrained_arm_is_a_configuration_of_nnunets_plans(data, monkeypatch):
    arm = Arm("shapes-few", images=("shapes",), steps=2, settings={"load": "encoder"})
    monkeypatch.setattr("benchmarks.scarce.arms.SHAPES", 4)
    assert pretrain_arm(data, arm, "cpu").is_file()
    plans = read_json(data.workspace.plans_file, "")
    made = plans["configurations"][f"{data.configuration}__shapes-few"]
    assert made["inherits_from"] == data.configuration
    assert made["diffaug"]["load"] == "encoder"
    cell = train_cell(data, arm, 2, 0, CPU)
    assert cell["settings"]["configuration"].endswith("__shapes-few")
    borrowed = replace(arm, name="borrowed", images=(), encoder="shapes-few")
    assert pretrain_arm(data, borrowed, "cpu") is None
    train_cell(data, borrowed, 2, 0, CPU)


def test_report_names_gains_and_draws_the_figure(data, tmp_path):
    rng = np.random.default_rng(0)
    for arm, gain in (("scratch", 0.0), ("real", 0.05)):
        for labelled in data.counts:
            for seed in range(3):
                values = {
                    f"c{n}": {"breast": dict.fromkeys(("dice", "nsd", "hd95"), 0.8 + gain + 0.01 * rng.normal())}
                    for n in range(6)
                }
                result = {
                    "scores": values,
                    "settings": {"epochs": 2},
                    "versions": {"torch": "2"},
                    "machine": {"processor": "CPU"},
                    "seconds": {"train": 1.0},
                }
                save(Cell(data.name, arm, labelled, seed), json.loads(json.dumps(result)), tmp_path)
    write_report(tmp_path, data.name, ["scratch", "real", "synthetic"], tmp_path / "report", ["command"])
    text = (tmp_path / "report.md").read_text()
    assert "| real | 2 | +0.05" in text
    assert "synthetic" not in text, "an arm without cells is not shown"
    assert (tmp_path / "report.png").stat().st_size > 5000


def test_the_oracle_is_refused_where_no_mask_is_known(data):
    with pytest.raises(DiffaugError, match="has no true masks"):
        pretrain_arm(replace(data, pool="Dataset004_Hippocampus"), ARMS["oracle"])
