"""One cell of the scarce-label benchmark with real nnU-Net, from phantoms to a report."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.scarce.arms import Arm, add_configuration, pretrain_arm
from benchmarks.scarce.cells import Cell, save
from benchmarks.scarce.data import DataSet, drawn_from, draws, judging_cases, prepare
from benchmarks.scarce.report import write_report
from benchmarks.scarce.self_training import POOLED
from benchmarks.scarce.training import make_trainer, train_cell
from benchmarks.scarce_labels import main
from diffaug.errors import DiffaugError
from diffaug.files import read_json, write_json
from diffaug.phantom.dataset import write_dataset

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


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
        patch.setattr("benchmarks.scarce.arms.ITERATIONS", 3)
        made = DataSet("small", task, (2, 4), 5.0, task, steps=6)
        prepare(made, ["PrimusS"])
        yield made


def test_a_split_of_ones_own_is_kept(data):
    splits = data.workspace.preprocessed / "splits_final.json"
    mine = [{"train": ["a"], "val": ["b"]}]
    write_json(splits, mine)
    prepare(data)
    assert read_json(splits, "") == draws(data)
    assert read_json(splits.with_name("splits_final.kept_by_scarce_labels.json"), "") == mine


def cell_of(data, name, network="plan", labelled=2, seed=0):
    arm = Arm.parse(name)
    pretrain_arm(data, network, arm, "cpu")
    return train_cell(data, network, arm, labelled, seed, CPU)


def test_cell_scores_every_test_case_and_repeats(data):
    first, again = (cell_of(data, "scratch") for _ in range(2))
    assert set(first["scores"]) == {case.id for case, _ in judging_cases(data)}
    assert first["scores"] == again["scores"], "same seed, same network, same scores"
    assert (first["settings"]["epochs"], first["settings"]["iterations_per_epoch"]) == (2, 3)
    other = cell_of(data, "scratch", seed=1)
    assert other["settings"]["fold"] != first["settings"]["fold"]


def test_stock_trainer_has_the_same_length_and_its_own_optimizer(data):
    settings = cell_of(data, "stock")["settings"]
    assert settings["trainer"] == "nnUNetTrainer"
    assert (settings["epochs"], settings["iterations_per_epoch"], settings["initial_lr"]) == (2, 3, 0.01)


def test_gin_sees_other_patches_and_is_the_same_otherwise(data):
    settings = cell_of(data, "gin", "PrimusS")["settings"]
    assert settings["trainer"] == "nnUNetTrainerDiffAugPrimusSScratchGin"
    assert cell_of(data, "gin")["scores"] != cell_of(data, "scratch")["scores"]


def test_a_network_of_few_labels_labels_the_pool_for_another(data):
    found = cell_of(data, "self-own")
    assert found["settings"]["trainer"] == "nnUNetTrainerDiffAugScratchPool"
    assert found["scores"] != cell_of(data, "scratch")["scores"]
    assert found["scores"] == cell_of(data, "self-own")["scores"]
    arm, drawn = Arm.parse("self-own"), draws(data)[data.fold(2, 0)]
    trainer = make_trainer(data, "plan", arm, 2, 0, CPU)
    training, validation = trainer.get_tr_and_val_datasets()
    kinds = Counter(name.startswith(POOLED) for name in training.identifiers)
    assert kinds[True] == len(drawn_from(data)) - 2, "all whose labels are not known, none that is held back"
    assert kinds[False] == kinds[True]
    assert {name for name in training.identifiers if not name.startswith(POOLED)} == set(drawn["train"])
    assert sorted(validation.identifiers) == drawn["val"]
    truth = {
        case: np.asarray(trainer.dataset_class(trainer.preprocessed_dataset_folder).load_case(case)[1])
        for case in drawn_from(data)
    }
    pooled = {name for name in training.identifiers if name.startswith(POOLED)}
    labels = {name: np.asarray(training.load_case(name)[1]) for name in pooled}
    assert not any(np.array_equal(one, other) for one in labels.values() for other in truth.values()), (
        "no true label is used"
    )


def test_equal_steps_are_those_of_pretraining_and_training_together(data):
    settings = cell_of(data, "scratch-long::9")["settings"]
    assert settings["epochs"] * settings["iterations_per_epoch"] == 6 + 9
    assert settings["trainer"] == "nnUNetTrainerDiffAugScratch"


def test_pretrained_arm_is_a_configuration_of_nnunets_plans(data, monkeypatch):
    monkeypatch.setattr("benchmarks.scarce.arms.SHAPES", 4)
    name = 'shapes:mae:2@load="encoder"'
    settings = cell_of(data, name, "PrimusS")["settings"]
    plans = read_json(data.workspace.plans_file, "")
    made = plans["configurations"][settings["configuration"]]
    assert made["inherits_from"] == data.configuration_of("PrimusS")
    assert made["diffaug"]["load"] == "encoder"
    assert settings["trainer"] == "nnUNetTrainerDiffAugPrimusS"


def test_settings_and_lengths_share_an_encoder(data, monkeypatch):
    monkeypatch.setattr("benchmarks.scarce.arms.SHAPES", 4)
    arm = Arm.parse("shapes:mae:2@decoder_first=1")
    file = pretrain_arm(data, "PrimusS", arm, "cpu")
    long = Arm.parse("shapes-long:mae:2")
    assert file == pretrain_arm(data, "PrimusS", Arm.parse("shapes:mae:2"), "cpu")
    assert file == pretrain_arm(data, "PrimusS", long, "cpu")
    plans = read_json(data.workspace.plans_file, "")
    blocks = [plans["configurations"][each.workspace(data, "PrimusS").configuration]["diffaug"] for each in (arm, long)]
    assert [block["encoder_file"] for block in blocks] == [str(file)] * 2
    assert [block["epochs"] * block["iterations_per_epoch"] for block in blocks] == [6, 6 + 2]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("scratch@restyle=0.5", "have no effect"),
        ("stock@epochs=3", "have no effect"),
        ("scratch@initial_lr=5", "initial_lr is 5"),
        ("scratch@lr=1", "unknown setting 'lr'"),
    ],
)
def test_settings_without_effect_are_refused_before_anything_is_trained(data, name, told):
    with pytest.raises(DiffaugError, match=told):
        pretrain_arm(data, "plan", Arm.parse(name), "cpu")


def test_nnunets_own_trainer_is_refused_for_a_network_that_it_does_not_build(data):
    with pytest.raises(DiffaugError, match="expected plan"):
        pretrain_arm(data, "PrimusS", Arm.parse("stock"), "cpu")


def test_equal_steps_are_equal_whatever_the_lengths(data):
    for steps, pretraining in ((1020, 2010), (1000, 2025), (999, 2000)):
        long = data.lasting(steps=steps, pretraining=pretraining)
        arm = Arm.parse("scratch-long")
        add_configuration(long, "plan", arm)
        plans = read_json(data.workspace.plans_file, "")
        block = plans["configurations"][arm.workspace(long, "plan").configuration]["diffaug"]
        assert block["epochs"] * block["iterations_per_epoch"] == steps + pretraining


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
                save(Cell(data.name, "plan", arm, labelled, seed), json.loads(json.dumps(result)), tmp_path)
                if arm == "real":  # another network, pretrained alone
                    save(Cell(data.name, "PrimusS", arm, labelled, seed), json.loads(json.dumps(result)), tmp_path)
    write_report(tmp_path, [data], tmp_path / "report")
    text = (tmp_path / "report.md").read_text()
    assert "| plan | real | scratch | 2 | +0.05" in text
    assert re.search(r"Best with 2 labels, of what has 3 draws: (plan|PrimusS), real \(0.8", text)
    assert "best from scratch: plan (0.8" in text
    assert "| PrimusS | real | plan, scratch | 2 | +0.05" in text, "against what nnU-Net itself would have given"
    assert (tmp_path / "report.png").stat().st_size > 5000


def test_the_oracle_is_refused_where_no_mask_is_known(data):
    with pytest.raises(DiffaugError, match="has no true masks"):
        pretrain_arm(replace(data, pool="Dataset004_Hippocampus"), "plan", Arm.parse("oracle"))


def test_two_processes_share_the_work_and_the_report_says_what_they_did(folders, monkeypatch, capsys):
    """The command as people run it, on a dataset of their own."""
    raw = write_dataset(folders / "raw", task=953, cases=14, site="B", shape=(16, 16, 16))
    names = [f"phantomB_{number:04d}" for number in range(1, 15)]
    write_json(folders / "lists.json", {"pool": names[2:], "test": names[:2]})
    own = ["--data", "953", "--lists", str(folders / "lists.json"), "--labelled", "2", "--networks", "PrimusS"]
    own += ["--steps", "20", "--pretraining", "2", "--cells", str(folders / "cells")]
    arms = ["--arms", "scratch", "own:mae", "--seeds", "2"]

    command = [sys.executable, "-m", "benchmarks.scarce_labels", "run", *own, *arms, "--processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Dice 0.") == 4
    assert "left" in done.stdout

    def call(*options):
        monkeypatch.setattr(sys, "argv", ["scarce_labels", *options])
        return main(), capsys.readouterr()

    code, again = call("run", *own, *arms)
    assert code == 0
    assert "Dice 0." not in again.out, "finished cells are not run again"
    code, told = call("report", *own, "--out", str(folders / "report"))
    assert code == 0, told.err
    assert f"--data {raw.name}" in told.out
    assert "--steps 20 --pretraining 2" in told.out
    assert (folders / "report.png").is_file()
    code, none = call("run", *own, "--arms", "scratch", "--seeds", "0")
    assert (code, none.err.count("\n")) == (2, 1)
    code, refused = call("run", *own[:-2], "--arms", "scratch", "--seeds", "21")
    assert code == 2
    assert "a draw below 20" in refused.err
    assert "Traceback" not in refused.err
