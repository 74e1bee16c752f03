"""The whole road in small: scans, plans, generator, volumes, audit, encoder, a trained nnU-Net, a predicted mask."""

import json
from pathlib import Path

import pytest
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args

from diffaug.cli import main
from diffaug.engine.loop import Training
from diffaug.pretraining import fitting
from diffaug.workspace import Workspace
from nnunet_plugin.trainer_path import trainer_path

CONFIGURATION = "3d_cpu_small"
TASK = ["--task", "702", "--configuration", CONFIGURATION]
SHORT = {"epochs": 1, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1}


@pytest.mark.slow
def test_from_unlabelled_scans_to_a_predicted_mask(folders, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", trainer_path())
    monkeypatch.setitem(
        fitting.BUDGETS, "cpu-small", Training(steps=3, batch_size=1, learning_rate=1e-3, warmup_steps=1)
    )
    size = ["--shape", "16", "24", "32", "--cases", "8", "--labelled", "6", "--test", "1"]
    assert main(["phantom", "--out", str(folders / "raw"), "--task", "702", *size]) == 0
    assert main(["plan", "--task", "702", "--budget", "cpu-small"]) == 0
    workspace = Workspace("Dataset702_BreastPhantomA", configuration=CONFIGURATION)
    edit(workspace.plans_file, lambda plans: plans["configurations"][CONFIGURATION]["diffaug"].update(SHORT))
    preprocess_dataset(702, configurations=(CONFIGURATION,), num_processes=(1,))

    assert main(["fit", *TASK, "--budget", "cpu-small", "--plan-only"]) == 0
    edit(workspace.generator / "plan.json", shorten)
    assert main(["fit", *TASK, "--budget", "cpu-small"]) == 0
    assert main(["sample", *TASK, "-n", "8", "--steps", "3"]) == 0
    assert main(["audit", *TASK]) == 0
    assert main(["pretrain", *TASK, "--budget", "cpu-small"]) == 0

    trainer = get_trainer_from_args(
        workspace.dataset, CONFIGURATION, 0, "nnUNetTrainerDiffAug", device=torch.device("cpu")
    )
    trainer.run_training()
    log = next(Path(trainer.output_folder).glob("training_log_*.txt")).read_text()
    assert "left random: decoder.seg_layers; from" in log

    predictor = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(Path(trainer.output_folder).parent), (0,))
    tests, out = workspace.raw / "imagesTs", folders / "predicted"
    out.mkdir()
    predictor.predict_from_files_sequential(str(tests), str(out))
    assert [p.name for p in out.glob("*.nii.gz")] == ["phantomA_test_0001.nii.gz"]


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def shorten(plan):
    for fit in ("autoencoder_training", "denoiser_training"):
        plan[fit] |= {"steps": 4, "warmup_steps": 1}
    plan["autoencoder"] |= {"channels": [8, 8], "codes": 64}
    plan["denoiser"] |= {"channels": [8, 8]}
