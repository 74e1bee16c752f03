"""One cell of the benchmark: stock nnU-Net trains on the few labelled cases, predicts the test cases, and is scored."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from benchmarks.scarce.arms import Arm, add_configuration, folder_of
from benchmarks.scarce.data import DataSet, judging_cases, require_draw
from benchmarks.scarce.gin import with_gin
from benchmarks.scarce.scores import score
from benchmarks.scarce.self_training import label, unlabelled, with_pool
from diffaug.files import read_json
from diffaug.nnunet.predictor import make_predictor
from diffaug.scans.dataset import open_dataset
from nnunet_plugin import trainers


def train_cell(data: DataSet, network: str, arm: Arm, labelled: int, seed: int, device: torch.device) -> dict[str, Any]:
    """Train, predict and score.

    Args:
        data: The data set.
        network: A key of `NETWORKS`.
        arm: What the training starts from.
        labelled: Number of labelled cases.
        seed: Of the draw of labelled cases, and of everything random in the training; the same in all arms.
        device: Where to train.

    Returns:
        Scores by case and label, settings, seconds.
    """
    require_draw(data, labelled, seed)
    if arm.pool:
        _label_pool(data, network, arm, labelled, seed, device)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (nnU-Net's augmentation draws from the global generators)
    random.seed(seed)
    trainer = make_trainer(data, network, arm, labelled, seed, device)
    _lay_out(trainer)
    place = Path(trainer.output_folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):  # cells of several tables may be the same training
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        started = time.monotonic()
        with _quiet(trainer):
            trainer.run_training()
        trained = time.monotonic()
        scores = score_tests(data, trainer)
        for name in ("checkpoint_latest.pth", "checkpoint_best.pth"):
            (place / name).unlink(missing_ok=True)
    return {
        "scores": scores,
        "settings": {
            "trainer": type(trainer).__name__,
            "configuration": trainer.configuration_name,
            "fold": trainer.fold,
            "epochs": trainer.num_epochs,
            "iterations_per_epoch": trainer.num_iterations_per_epoch,
            "initial_lr": trainer.initial_lr,
            "batch_size": trainer.configuration_manager.batch_size,
            "patch_size": list(trainer.configuration_manager.patch_size),
            "tolerance_mm": data.tolerance,
        },
        "seconds": {"train": trained - started, "test": time.monotonic() - trained},
    }


def make_trainer(
    data: DataSet, network: str, arm: Arm, labelled: int, seed: int, device: torch.device
) -> nnUNetTrainer:
    """Make nnU-Net's trainer of a cell, as `nnUNetv2_train` would.

    Args:
        data: The data set.
        network: A key of `NETWORKS`.
        arm: The arm.
        labelled: Number of labelled cases.
        seed: Of the draw.
        device: Where to train.

    Returns:
        The trainer, not initialised.
    """
    workspace = arm.workspace(data, network)
    plans = read_json(workspace.plans_file, "run: scarce_labels.py run")
    dataset_json = read_json(workspace.raw / "dataset.json", "restore it")
    plans["continue_training"] = False
    fold = data.fold(labelled, seed)
    kind = trainers.TRAINERS.get(arm.trainer(network), nnUNetTrainer)
    kind = with_gin(kind) if arm.start == ("gin",) else kind
    kind = with_pool(kind, _pooled(data, network, arm, fold)) if arm.pool else kind
    trainer = kind(plans, workspace.configuration, fold, dataset_json, device)
    if kind is nnUNetTrainer:  # it has no settings: the same length, its own schedule
        block = trainer.configuration_manager.configuration["diffaug"]
        trainer.num_epochs, trainer.num_iterations_per_epoch = block["epochs"], block["iterations_per_epoch"]
        trainer.num_val_iterations_per_epoch = block.get(
            "val_iterations_per_epoch", trainer.num_val_iterations_per_epoch
        )
    return trainer


def _pooled(data: DataSet, network: str, arm: Arm, fold: int) -> Path:
    return arm.workspace(data, network).run / "pooled" / f"fold_{fold}"


def _label_pool(data: DataSet, network: str, arm: Arm, labelled: int, seed: int, device: torch.device) -> None:
    """Have the pool labelled by the network of the cell `scratch`, which is trained first where it is not there."""
    scratch, fold = Arm.parse("scratch"), data.fold(labelled, seed)
    add_configuration(data, network, scratch)
    teacher = make_trainer(data, network, scratch, labelled, seed, device)
    weights = Path(teacher.output_folder) / "checkpoint_final.pth"
    if not weights.is_file():
        train_cell(data, network, scratch, labelled, seed, device)
    with _quiet(teacher):
        teacher.initialize()
    teacher.load_checkpoint(str(weights))
    pool = str(arm.pool)
    known = read_json(data.workspace.preprocessed / "splits_final.json", "run again")[fold]["train"]
    volumes = unlabelled(data, pool, folder_of(data, pool, str(device)), known)
    label(teacher, volumes, _pooled(data, network, arm, fold))


def _lay_out(trainer: nnUNetTrainer) -> None:
    """Keep a CPU's network in channels-last memory, which computes the same in two thirds of the time."""
    if trainer.device.type != "cpu":
        return
    initialize = trainer.initialize

    def initialize_and_lay_out() -> None:
        initialize()
        trainer.network.to(memory_format=torch.channels_last_3d)

    trainer.initialize = initialize_and_lay_out


@contextmanager
def _quiet(trainer: nnUNetTrainer) -> Iterator[None]:
    """Let nnU-Net write to its log file only, and draw its curves once: after every short epoch takes a third of a cell."""
    write, draw = trainer.print_to_log_file, trainer.logger.plot_progress_png
    trainer.print_to_log_file = lambda *text, **options: write(*text, **{**options, "also_print_to_console": False})
    trainer.logger.plot_progress_png = lambda folder: None
    yield
    trainer.print_to_log_file, trainer.logger.plot_progress_png = write, draw
    draw(trainer.output_folder)


def score_tests(data: DataSet, trainer: nnUNetTrainer) -> dict[str, dict[str, dict[str, float]]]:
    """Predict and score the test cases with the last weights, as `nnUNetv2_predict --disable_tta` does.

    Args:
        data: The data set.
        trainer: After the training.

    Returns:
        Scores by case, label and figure.
    """
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = make_predictor(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        trainer.dataset_json,
        device=trainer.device,
    )
    reader = open_dataset(data.workspace.raw).reader()
    labels = {n: v for n, v in trainer.dataset_json["labels"].items() if v != 0 and n != "ignore"}
    found = {}
    for case, file in judging_cases(data):
        image, properties = reader.read_images([str(f) for f in case.files])
        truth, _ = reader.read_seg(str(file))
        segmentation = predictor.predict_single_npy_array(image, properties)
        found[case.id] = score(segmentation, truth[0], labels, properties["spacing"], data.tolerance)
    return found
