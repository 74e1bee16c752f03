"""The ceiling: pretraining on the phantoms' pool with the masks that no pool has, which no pretext can hope to beat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from diffaug.budgets import BUDGETS
from diffaug.files import fingerprint, read_json
from diffaug.nnunet.families import family_of
from diffaug.nnunet.networks import build_network
from diffaug.nnunet.plans import read_plans
from diffaug.nnunet.weights.format import save_encoder
from diffaug.phantom.dataset import case_parameters, render
from diffaug.pretraining.fitting import PretextObjective
from diffaug.pretraining.preprocessing import preprocess
from diffaug.pretraining.pretexts import Pretext, Shown
from diffaug.pretraining.sources import folder_source, source_hashes
from diffaug.scans.cache import VolumeCache
from diffaug.training.devices import start_fabric
from diffaug.training.loop import train
from diffaug.workspace import Workspace, nnunet_folder


@dataclass(frozen=True)
class TrueMasks(Pretext):
    """Segment the organ itself; the mask follows the volume's own channel."""

    taught: ClassVar[int] = 1

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`."""
        return 2

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`; the loss is Dice plus cross entropy."""
        volume, mask = clean[:, :-1], (clean[:, -1:] > 0.5).float()
        predicted = network(volume).float()
        loss = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)(predicted, mask)
        return Shown(loss, volume, predicted.argmax(1, keepdim=True).float(), mask)


def true_mask(case: str, plans: PlansManager, shape: tuple[int, int, int], extent: tuple[int, ...]) -> Tensor:
    """Give the mask of a phantom of the pool in the network's space.

    Args:
        case: Its id.
        plans: nnU-Net's plans.
        shape: Voxels of the phantom.
        extent: Voxels of its preprocessed volume.

    Returns:
        `(1, Z, Y, X)`, between 0 and 1.
    """
    _, mask = render(case_parameters(0, "A", int(case.rpartition("_")[2]) - 1), shape)
    turned = torch.from_numpy(mask.transpose(plans.transpose_forward).astype(np.float32))[None, None]
    # the volumes were resampled, but never cropped: phantoms have noise everywhere
    return F.interpolate(turned, extent, mode="trilinear")[0]


def pretrain_oracle(workspace: Workspace, pool: str, shape: tuple[int, int, int], steps: int, device: str) -> Path:
    """Pretrain with true masks, or go on.

    Args:
        workspace: Of the arm's configuration.
        pool: Folder name of the pool's dataset.
        shape: Voxels of its phantoms.
        steps: How long.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        The encoder file.
    """
    folder = workspace.encoder
    target = folder / "encoder.pt"
    if target.is_file():
        return target
    plans, configuration = read_plans(workspace)
    dataset_json = read_json(workspace.raw / "dataset.json", "restore it")
    source = folder_source(workspace, nnunet_folder("nnUNet_raw") / pool, set())
    hashes = source_hashes(source)
    key = fingerprint([source.name, hashes, configuration.configuration])
    volumes, cases = preprocess(source, plans, configuration, dataset_json, folder / "cache" / key)
    masked = VolumeCache(folder / "cache" / f"{key}_masked")

    def with_mask(case: str) -> np.ndarray:
        mask = true_mask(case, plans, shape, volumes[case].shape[1:])
        return np.concatenate([volumes[case], mask.numpy()])

    masked.fill(cases, with_mask)
    recipe = family_of(workspace.network).recipe
    training = replace(BUDGETS["cpu-small"].pretraining, steps=steps)
    training = replace(training, learning_rate=min(training.learning_rate, recipe.pretraining_rate))
    torch.manual_seed(training.seed)
    network = build_network(configuration, 1, 2, network=workspace.network)
    objective = PretextObjective(
        network,
        TrueMasks(),
        [(masked, c) for c in cases],
        configuration.patch_size,
        configuration.spacing,
        0,
        recipe.weight_decay,
    )
    train(
        objective,
        objective.example,
        training,
        fabric=start_fabric(device),
        folder=folder,
        name="pretext",
        identity=[steps, hashes, configuration.configuration],
    )
    provenance = {"case_ids": cases, "pretext": "true masks", "steps": steps}
    save_encoder(
        target,
        network,
        name=workspace.configuration,
        configuration=configuration.configuration,
        provenance=provenance,
        kind=workspace.network,
    )
    return target
