"""The few-label model labels volumes, for a student to train on both."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.tried.self_training.trainer import pseudo_labels_path, save_labelled
from diffaug.errors import DiffaugError
from diffaug.files import discard, file_hash, fingerprint, locked, read_json, write_json
from diffaug.nnunet.networks import build_downstream, read_checkpoint
from diffaug.nnunet.plans import ConfigurationManager, PlansManager, read_plans
from diffaug.nnunet.predictor import make_predictor
from diffaug.pretraining.images import folders_of
from diffaug.pretraining.preprocessing import preprocess
from diffaug.pretraining.pretexts.appearance import vary
from diffaug.pretraining.sources import open_sources, source_hashes
from diffaug.scans.exclusion import excluded_ids
from diffaug.training.devices import start_fabric
from diffaug.workspace import Workspace, nnunet_folder

SURE = 0.8  # probability of the likeliest label below which a voxel is left out of the student's loss
VARIED = 0.5  # share of the volumes whose appearance is changed after the teacher has seen them


@dataclass(frozen=True)
class LabelRequest:
    """What was asked of `label`.

    Attributes:
        fold: nnU-Net's fold, whose model is the teacher.
        trainer: Name of the teacher's trainer class.
        teacher: Its configuration; None for the workspace's own.
        images: Any of `synthetic`, `real`, or folders.
        exclude: `--exclude` rules.
        seed: Of the varied appearance.
    """

    fold: str = "0"
    trainer: str = "nnUNetTrainerDiffAug"
    teacher: str | None = None
    images: tuple[str, ...] = ("synthetic",)
    exclude: tuple[str, ...] = ("fold:0",)
    seed: int = 0


def label(
    workspace: Workspace, request: LabelRequest | None = None, *, device: str = "auto", fresh: bool = False
) -> Path:
    """Label volumes with a trained model, or go on.

    Args:
        workspace: The task's workspace.
        request: What is wanted; None for the defaults.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard what is there.

    Returns:
        The folder of labelled volumes.

    Raises:
        DiffaugError: If the teacher is missing or broken, or the task has regions instead of labels.
    """
    request = request or LabelRequest()
    plans, configuration = read_plans(workspace)
    results = nnunet_folder("nnUNet_results")
    folder = pseudo_labels_path(results, workspace.dataset, workspace.plans, workspace.configuration, request.fold)
    model = f"{request.trainer}__{workspace.plans}__{request.teacher or workspace.configuration}"
    checkpoint = results / workspace.dataset / model / f"fold_{request.fold}" / "checkpoint_final.pth"
    if not checkpoint.is_file():
        raise DiffaugError(f"{checkpoint}: no such file, expected the teacher; train it with nnUNetv2_train")
    dataset_json = read_json(workspace.raw / "dataset.json", "restore it")
    manager = plans.get_label_manager(dataset_json)
    if manager.has_regions or manager.has_ignore_label:
        raise DiffaugError(f"{workspace.raw / 'dataset.json'}: has regions or an ignore label, expected plain labels")
    with locked(folder):
        excluded = excluded_ids(workspace, request.exclude, others=folders_of(request.images))
        sources = open_sources(workspace, request.images, [], excluded)
        if not sources:
            raise DiffaugError(
                f"label: found images {' '.join(request.images)}, expected synthetic, real or folders; random structures "
                "have no organs to label"
            )
        inputs = {source.name: source_hashes(source) for source in sources}
        taught_by = {"file": str(checkpoint), "sha256": file_hash(checkpoint)}
        identity = fingerprint([asdict(request), inputs, taught_by["sha256"], SURE, VARIED])
        if fresh:  # all is checked
            discard(folder)
        done = folder / "manifest.json"
        manifest: dict[str, Any] = {"stage": "label", "finished": False, "identity": identity}
        if done.is_file():
            before = read_json(done, "run with --fresh")
            if before["identity"] != identity:
                raise DiffaugError(
                    f"{done}: made by another teacher or of other volumes; repeat that, or run with --fresh"
                )
            if before["finished"]:
                return folder
        hardware = start_fabric(device).device
        network = load_model(checkpoint, plans, configuration, dataset_json, hardware)
        # one view of each volume: mirrored ones cost seven times the time, see quality.py
        predictor = make_predictor(network, plans, configuration, dataset_json, device=hardware)
        write_json(done, manifest)  # before the first volume, so that no other teacher's mix with these
        names: list[str] = []
        for source in sources:
            key = fingerprint([source.name, inputs[source.name], configuration.configuration])
            cache, cases = preprocess(source, plans, configuration, dataset_json, workspace.run / "labelled" / key)
            for case in tqdm(cases, f"labelling {Path(source.name).name}", unit="volume", ascii=True):
                name = f"{len(names):05d}_{case}"
                names.append(name)
                if (folder / f"{name}.npy").is_file():
                    continue
                image = torch.from_numpy(np.array(cache[case], np.float32))
                labels = likeliest(predictor.predict_logits_from_preprocessed_data(image))
                torch.manual_seed(int(fingerprint([request.seed, name])[:8], 16))
                if torch.rand(()) < VARIED:
                    image = vary(image[None])[0]
                save_labelled(folder, name, image.numpy(), labels, manager.foreground_labels)
        manifest |= {
            "finished": True,
            "request": asdict(request),
            "teacher": taught_by,
            "case_ids": sorted({case for source in sources for case in source.seen}),
            "volumes": names,
        }
        write_json(done, manifest)
    return folder


def likeliest(logits: Tensor) -> np.ndarray:
    """Take the likeliest label of every voxel, where the model is sure of it.

    Args:
        logits: One channel per label, `(L, Z, Y, X)`.

    Returns:
        `(Z, Y, X)`; one value more than there are labels where the likeliest has a probability below `SURE`.
    """
    probability, labels = logits.float().softmax(0).max(0)
    labels[probability < SURE] = len(logits)
    return labels.cpu().numpy()


def load_model(
    checkpoint: Path,
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    device: torch.device,
) -> nn.Module:
    """Load a model that nnU-Net trained with these plans.

    Args:
        checkpoint: nnU-Net's checkpoint.
        plans: nnU-Net's plans.
        configuration: nnU-Net's configuration.
        dataset_json: The task's `dataset.json`.
        device: Where to.

    Returns:
        The network, answering at full resolution alone.

    Raises:
        DiffaugError: If the checkpoint is broken or of other plans.
    """
    network = build_downstream(configuration, plans, dataset_json, deep_supervision=False)
    weights = read_checkpoint(checkpoint)["network_weights"]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DiffaugError(
            f"{checkpoint}: does not fit the network of these plans, expected a model of them; train it again"
        ) from error
    return network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]
