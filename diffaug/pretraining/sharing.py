"""Weights that leave the house or come into it: export, import, and models that need no plugin."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from diffaug.errors import DiffaugError
from diffaug.pretraining.encoder_file import load_encoder, read_encoder
from diffaug.pretraining.labelling import read_checkpoint
from diffaug.pretraining.networks import build_downstream
from diffaug.volumes.nnunet import read_plans
from diffaug.workspace import Workspace, atomic_path, file_hash, locked, read_json, write_json

STOCK = "nnUNetTrainer"


def export_encoder(workspace: Workspace, out: Path) -> Path:
    """Copy the encoder file, without its list of case ids, for nnU-Net's and nnssl's fine-tuning tools.

    Args:
        workspace: The task's workspace.
        out: The file to write.

    Returns:
        The file.

    Raises:
        DiffaugError: If there is no encoder, or the file is there already.
    """
    if out.exists():
        raise DiffaugError(f"{out}: is there already, expected a new file; give another --out")
    source = workspace.encoder / "encoder.pt"
    read_encoder(source)  # refuses what is no encoder file
    content = torch.load(source, map_location="cpu", weights_only=True)
    plan = content["nnssl_adaptation_plan"]
    plan["architecture_kwargs"] = plan["architecture_plans"]["arch_kwargs"]
    # who was seen is the hospital's business; how many, and how, is everybody's
    told = content["diffaug"]
    content["diffaug"] = {key: len(value) if isinstance(value, list) else value for key, value in told.items()}
    with atomic_path(out) as temporary:
        torch.save(content, temporary)
        torch.load(temporary, map_location="cpu", weights_only=True)
    return out


def import_encoder(workspace: Workspace, file: Path, *, fresh: bool = False) -> Path:
    """Take an encoder file of nnssl, or of another diffaug, for the task's network.

    Args:
        workspace: The task's workspace.
        file: The file; nothing in it is executed.
        fresh: Whether to discard an encoder that is there.

    Returns:
        Where the trainer will find it.

    Raises:
        DiffaugError: If it does not fit the plan's network, or another encoder is there.
    """
    plans, configuration = read_plans(workspace)
    dataset_json = read_json(workspace.raw / "dataset.json", "restore it")
    encoder = read_encoder(file, "give an encoder file of nnssl or diffaug")
    network = build_downstream(configuration, plans, dataset_json)
    report = load_encoder(network, encoder, configuration=configuration.configuration, parts="encoder")
    target = workspace.encoder / "encoder.pt"
    with locked(workspace.encoder):
        if target.exists() and not fresh:
            raise DiffaugError(f"{target}: is there already, expected none; discard it with --fresh")
        with atomic_path(target) as temporary:
            shutil.copyfile(file, temporary)
        # without the request of a pretraining: `pretrain` will not take it for its own
        write_json(workspace.encoder / "imported.json", {"from": file.name, "sha256": file_hash(file)})
    print(f'import: {report}; fine-tune with "load": "encoder" in the plan\'s diffaug block')
    return target


def share_model(folder: Path, out: Path) -> Path:
    """Copy a trained model so that it predicts where diffaug is not installed: the network is nnU-Net's own anyway.

    Args:
        folder: nnU-Net's folder of the model, `TRAINER__PLANS__CONFIGURATION`.
        out: Folder for the copy, as `nnUNet_results` would have it.

    Returns:
        The copy's folder.

    Raises:
        DiffaugError: If there is no finished fold, or the copy is there already.
    """
    checkpoints = sorted(folder.glob("fold_*/checkpoint_final.pth"))
    missing = [name for name in ("plans.json", "dataset.json") if not (folder / name).is_file()]
    if missing or not checkpoints or folder.name.count("__") != 2:
        raise DiffaugError(
            f"{folder}: found {len(checkpoints)} finished folds{' and no ' + missing[0] if missing else ''}, expected "
            "nnU-Net's folder TRAINER__PLANS__CONFIGURATION of a finished training; give that"
        )
    trainer, plans, configuration = folder.name.split("__", 2)
    target = out / folder.parent.name / f"{STOCK}__{plans}__{configuration}"
    if target.exists():
        raise DiffaugError(f"{target}: is there already, expected a new folder; give another --out")
    for checkpoint in checkpoints:
        content = read_checkpoint(checkpoint)
        content["trainer_name"] = STOCK
        content["diffaug"] = {"trainer": trainer}
        with atomic_path(target / checkpoint.parent.name / checkpoint.name) as temporary:
            torch.save(_for_prediction(content), temporary)
    for name in ("plans.json", "dataset.json", "dataset_fingerprint.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    return target


def _for_prediction(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out what only a training needs."""
    return {
        key: value for key, value in content.items() if key not in ("optimizer_state", "grad_scaler_state", "logging")
    }
