"""The example runs as it stands, from folders of scans to a trained nnU-Net."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blobs import blob, write_image
from diffaug.budgets import BUDGETS, Training

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_folder.py"


@pytest.fixture
def short(monkeypatch):
    """The CPU's budget with a few steps of each fit and smaller networks."""
    few = Training(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1)
    small = BUDGETS["cpu-small"]
    changed = replace(
        small,
        autoencoder={**small.autoencoder, "channels": [8, 8], "codes": 64},
        denoiser={**small.denoiser, "channels": [8, 8]},
        autoencoder_training=few,
        denoiser_training=replace(few, ema_decay=0.9),
        pretraining=few,
        nnunet={**small.nnunet, "epochs": 1, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1},
    )
    monkeypatch.setitem(BUDGETS, "cpu-small", changed)


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
