"""Weights that leave the house or come into it: export, import, and models that need no plugin."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffaug.errors import DiffaugError
from diffaug.files import atomic_path, emptied, locked, read_json, write_json
from diffaug.nnunet.dataset_json import read_dataset_json
from diffaug.nnunet.families import PLAN, family_of, network_of, trained_network
from diffaug.nnunet.networks import build_downstream, read_checkpoint
from diffaug.nnunet.plans import ConfigurationManager, PlansManager, read_plans, understood
from diffaug.nnunet.weights.format import IMPORTED, read_encoder, write_encoder
from diffaug.nnunet.weights.transfer import load_encoder
from diffaug.pretraining.images import OWN_IMAGES
from diffaug.workspace import Workspace

GIVE = "give nnU-Net's folder of a finished training"
TRAINING_ONLY = ("optimizer_state", "grad_scaler_state", "logging")
# what prediction reads of dataset.json; its entry `dataset` would name every case and its files
TOLD_OF_DATASET = ("channel_names", "labels", "regions_class_order", "file_ending", "overwrite_image_reader_writer")


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
    encoder = read_encoder(workspace.encoder / "encoder.pt", f"make it with: {workspace.command('pretrain')}")
    plan = encoder.adaptation_plan
    kwargs = plan["architecture_plans"]["arch_kwargs"]
    content = {
        "network_weights": {**encoder.weights, **_as_the_decoder_names_it(encoder.weights)},
        "nnssl_adaptation_plan": {
            **plan,
            "architecture_plans": _as_others_name_it(workspace.network, plan["architecture_plans"]),
            "architecture_kwargs": kwargs,
        },
        "citations": [],
        "diffaug": _without_names(encoder.provenance),
        **({"diffaug_styles": encoder.styles} if encoder.styles else {}),
    }
    write_encoder(out, content)
    return out


def _as_the_decoder_names_it(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the encoder once more: nnU-Net's decoder holds it, and `-pretrained_weights` misses no name that way."""
    if not any(name.startswith("decoder.") for name in weights):
        return {}
    return {f"decoder.{name}": tensor for name, tensor in weights.items() if name.startswith("encoder.")}


def _as_others_name_it(network: str, architecture: dict[str, Any]) -> dict[str, Any]:
    """Name a transformer as nnU-Net's and nnssl's tools do: by its size alone, where it is one of theirs."""
    if network == PLAN:
        return architecture
    family, kwargs = family_of(network), architecture["arch_kwargs"]
    if network in family.known and kwargs:
        usual = family.known[network][1]
        if family.identity(usual, with_decoder=True) == family.identity(kwargs, with_decoder=True):
            return {"arch_class_name": network, "arch_kwargs": None, "arch_kwargs_requiring_import": None}
    print(f"export: {network}: nnU-Net's and nnssl's tools know no such network, only diffaug reads this file")
    return architecture


def _without_names(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Keep how many cases were seen, and how, which is everybody's; who and where is the hospital's business."""
    plain = {key: value for key, value in provenance.items() if not isinstance(value, dict)}
    told = {key: len(value) if isinstance(value, (list, tuple)) else value for key, value in plain.items()}
    if isinstance(provenance.get("images"), (list, tuple)):
        told["images"] = [name if name in OWN_IMAGES else "folder" for name in provenance["images"]]
    return told


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
    dataset_json = read_dataset_json(workspace.raw, labels=True)
    encoder = read_encoder(file, "give an encoder file of nnssl or diffaug")
    kind = workspace.network
    network = build_downstream(configuration, plans, dataset_json, network=kind)
    report = load_encoder(network, encoder, configuration=configuration.configuration, parts="encoder", kind=kind)
    target = workspace.encoder / "encoder.pt"
    with locked(workspace.encoder):
        there = [
            entry for entry in workspace.encoder.iterdir() if entry.name == "manifest.json" or entry.suffix == ".pt"
        ]
        if there and not fresh:
            raise DiffaugError(f"{there[0]}: is there already, expected none; discard it with --fresh")
        with emptied(workspace.encoder, file) as copy:  # no manifest of an earlier pretraining may vouch for it
            write_json(workspace.encoder / IMPORTED, {"from": file.name, "sha256": encoder.hash})
            with atomic_path(target) as temporary:
                shutil.copyfile(copy, temporary)
    print(f'import: {report}; fine-tune with "load": "encoder" in the plan\'s diffaug block')
    return target


def _require_own_weights(
    checkpoint: Path, info: dict[str, Any], plans: PlansManager, configuration: ConfigurationManager, trainer: str
) -> None:
    """Require that a model's weights are those of the network that its trainer is known to build."""
    kind = trained_network(trainer)
    network = build_downstream(configuration, plans, info, network=kind, deep_supervision=False)
    try:
        network.load_state_dict(read_checkpoint(checkpoint)["network_weights"])
    except (AttributeError, RuntimeError, TypeError) as error:
        raise DiffaugError(
            f"{checkpoint}: {trainer} trained another network than {'the plans describe' if kind == PLAN else kind}, "
            "expected one that nnU-Net builds without it; share the model's folder as it is"
        ) from error


def _without_paths(plans: dict[str, Any]) -> dict[str, Any]:
    """Leave out of plans where an encoder lay, which training alone looks for."""
    shared = deepcopy(plans)
    for configuration in shared["configurations"].values():
        configuration.get("diffaug", {}).pop("encoder_file", None)
    return shared


def share_model(folder: Path, out: Path) -> Path:
    """Copy a trained model so that it predicts where diffaug is not installed: most networks are nnU-Net's own anyway.

    Only what prediction needs is copied: no case's name, no path, no table of scans' sizes (the plans hold their median).

    Args:
        folder: nnU-Net's folder of the model, `TRAINER__PLANS__CONFIGURATION`.
        out: Folder for the copy, as `nnUNet_results` would have it.

    Returns:
        The copy's folder.

    Raises:
        DiffaugError: If there is no finished fold, the copy is there already, or nnU-Net has no trainer of the network.
    """
    checkpoints = sorted(folder.glob("fold_*/checkpoint_final.pth"))
    missing = [name for name in ("plans.json", "dataset.json") if not (folder / name).is_file()]
    if missing or not checkpoints or folder.name.count("__") != 2:
        raise DiffaugError(
            f"{folder}: found {len(checkpoints)} finished folds{' and no ' + missing[0] if missing else ''}, expected "
            "nnU-Net's folder TRAINER__PLANS__CONFIGURATION of a finished training; give that"
        )
    trainer, plans, configuration = folder.name.split("__", 2)
    content_of_plans = read_json(folder / "plans.json", GIVE)
    told, planned = understood(content_of_plans, configuration, folder / "plans.json")
    stock = network_of(planned.configuration, trained_network(trainer)).stock
    info = read_dataset_json(folder, labels=True)
    _require_own_weights(checkpoints[0], info, told, planned, trainer)
    if stock is None:
        raise DiffaugError(
            f"{folder}: nnU-Net has no trainer of this network, expected one that it has; share the model's folder as it is "
            "with people who have diffaug"
        )
    target = out / folder.parent.name / f"{stock}__{plans}__{configuration}"
    if target.exists():
        raise DiffaugError(f"{target}: is there already, expected a new folder; give another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        copy = Path(place) / target.name
        for checkpoint in checkpoints:
            content = {k: v for k, v in read_checkpoint(checkpoint).items() if k not in TRAINING_ONLY}
            told_once_more = {k: v for k, v in content["init_args"].items() if k not in ("plans", "dataset_json")}
            content |= {"trainer_name": stock, "init_args": told_once_more, "diffaug": {"trainer": trainer}}
            with atomic_path(copy / checkpoint.parent.name / checkpoint.name) as temporary:
                torch.save(content, temporary)
        write_json(copy / "plans.json", _without_paths(content_of_plans))
        write_json(copy / "dataset.json", {k: v for k, v in info.items() if k in TOLD_OF_DATASET})
        copy.rename(target)  # whole, or not there
    return target
