"""The road where it is not plain: two channels, thick slices, other networks; and the example in Python."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncM,
)
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    plan_experiment_dataset,
    preprocess_dataset,
)
from nnunetv2.run.run_training import get_trainer_from_args

from blobs import blob, write_image
from diffaug.budgets import BUDGETS, Training
from diffaug.cli import main
from diffaug.generator.plan import FITS
from diffaug.workspace import Workspace
from nnunet_plugin.trainer_path import trainer_path

CONFIGURATION = "3d_cpu_small"
TASK = ["--task", "702", "--configuration", CONFIGURATION]
SHORT = {"epochs": 1, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("planner", "configuration", "network", "kernel"),
    [
        (ExperimentPlanner, "3d_fullres", "PlainConvUNet", [1, 3, 3]),
        (nnUNetPlannerResEncM, "3d_lowres", "ResidualEncoderUNet", [3, 3, 3]),
    ],
)
def test_two_channels_thick_slices_and_whatever_network_nnunet_plans(
    folders, monkeypatch, planner, configuration, network, kernel
):
    monkeypatch.setenv("nnUNet_extTrainer", trainer_path())
    shorten_pretraining(monkeypatch, "gpu-24g", 2)
    raw, spacing = folders / "raw" / "Dataset703_Thick", (4.0, 1.0, 1.0)
    for number in range(5):
        body = blob(number, (40, 160, 160))
        for channel, voxels in enumerate((body, 1000 - body)):
            write_image(raw / "imagesTr" / f"case_{number}_{channel:04d}.nii.gz", voxels, spacing)
        write_image(raw / "labelsTr" / f"case_{number}.nii.gz", (body > 400).astype(np.uint8), spacing)
    info = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "body": 1}}
    (raw / "dataset.json").write_text(json.dumps({**info, "numTraining": 5, "file_ending": ".nii.gz"}))
    extract_fingerprint_dataset(703, num_processes=1)
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # nnU-Net's planner takes it for a number of threads
    # so little memory that one patch is far from the whole scan, and nnU-Net plans 3d_lowres, too
    plan_experiment_dataset(703, planner, gpu_memory_target_in_gb=0.3, overwrite_plans_name="small")
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    workspace = Workspace("Dataset703_Thick", "small", configuration)
    edit(workspace.plans_file, lambda plans: plans["configurations"][configuration].update(diffaug=SHORT))
    preprocess_dataset(703, plans_identifier="small", configurations=(configuration,), num_processes=(1,))

    task = ["--task", "703", "--plans", "small", "--configuration", configuration]
    assert main(["pretrain", *task, "--images", "real", "--device", "cpu"]) == 0
    trainer = trained(workspace)
    assert type(trainer.network).__name__ == network
    assert trainer.configuration_manager.network_arch_init_kwargs["kernel_sizes"][0] == kernel


def shorten_pretraining(monkeypatch, budget, steps):
    few = Training(steps=steps, batch_size=1, learning_rate=1e-3, warmup_steps=1)
    monkeypatch.setitem(BUDGETS, budget, replace(BUDGETS[budget], pretraining=few))


def trained(workspace):
    trainer = get_trainer_from_args(
        workspace.dataset,
        workspace.configuration,
        0,
        "nnUNetTrainerDiffAug",
        plans_identifier=workspace.plans,
        device=torch.device("cpu"),
    )
    trainer.run_training()
    log = next(Path(trainer.output_folder).glob("training_log_*.txt")).read_text()
    assert "left random: decoder.seg_layers; from" in log
    return trainer


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def shorten(plan):
    for fit in FITS:
        plan[fit] |= {"steps": 4, "warmup_steps": 1}
    plan["autoencoder"] |= {"channels": [8, 8], "codes": 64}
    plan["denoiser"] |= {"channels": [8, 8]}
    plan["refiner"] = {"width": 8, "blocks": 1}


EXAMPLE = Path(__file__).parents[1] / "examples" / "own_folder.py"


@pytest.mark.slow
def test_own_folder(tmp_path, monkeypatch, capsys, short):
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    for name in ("raw", "preprocessed", "results"):  # so that what the example sets does not outlive the test
        monkeypatch.setenv(f"nnUNet_{name}", "")
    monkeypatch.setenv("nnUNet_extTrainer", "")
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    for number in range(8):
        scan = blob(number, (16, 24, 32))
        kind = "labelled" if number < 5 else "unlabelled"
        write_image(tmp_path / kind / f"scan_{number}.nii.gz", scan)
        if number < 5:
            write_image(tmp_path / "masks" / f"scan_{number}.nii.gz", (scan > 400).astype(np.uint8))
    folders = [
        part for name in ("unlabelled", "labelled", "masks", "out") for part in (f"--{name}", str(tmp_path / name))
    ]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *folders, "--budget", "cpu-small", "--volumes", "4"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "Dice of fold 0: " in capsys.readouterr().out.splitlines()[-1]
