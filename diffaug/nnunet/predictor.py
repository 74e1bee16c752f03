"""nnU-Net's predictor: of a network in memory, or of a trained model's folder."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn


def make_predictor(
    network: nn.Module,
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    *,
    device: torch.device,
) -> nnUNetPredictor:
    """Let nnU-Net predict with a network that is in memory already.

    Args:
        network: The network on its device, without deep supervision.
        plans: nnU-Net's plans.
        configuration: nnU-Net's configuration.
        dataset_json: The task's `dataset.json`.
        device: Where the network is.

    Returns:
        nnU-Net's predictor; it takes one view of each volume, no mirrored ones.
    """
    predictor = _quiet(device, perform_everything_on_device=device.type == "cuda")
    predictor.manual_initialization(
        network, plans, configuration, [network.state_dict()], dataset_json, "nnUNetTrainer", None
    )
    return predictor


def load_predictor(model: Path, folds: Sequence[str], device: torch.device) -> nnUNetPredictor:
    """Load a trained model. nnU-Net unpickles its checkpoints: only trusted ones.

    Args:
        model: nnU-Net's folder, `TRAINER__PLANS__CONFIGURATION`.
        folds: Whose weights.
        device: Where to predict.

    Returns:
        nnU-Net's predictor.
    """
    predictor = _quiet(device)
    with contextlib.redirect_stdout(io.StringIO()):
        predictor.initialize_from_trained_model_folder(str(model), list(folds))
    return predictor


def _quiet(device: torch.device, **options: Any) -> nnUNetPredictor:
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net says on a CPU that it is no GPU
        return nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False, **options)
