"""The very network of an nnU-Net configuration: built, read from checkpoints, and the trainers that build it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from diffaug.errors import DiffaugError
from diffaug.nnunet.families import PLAN, network_of

# what nnU-Net's checkpoints hold beside tensors and plain values
NUMPY_SCALARS = [np.dtype, np.float64(0).__reduce__()[0], *{type(np.dtype(kind)) for kind in (np.float32, np.float64)}]


def build_network(
    configuration: ConfigurationManager,
    channels: int,
    outputs: int,
    *,
    network: str = PLAN,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build the very network that nnU-Net's trainer will build for a configuration.

    Args:
        configuration: nnU-Net's configuration.
        channels: C of the volumes.
        outputs: Of the last layer.
        network: A key of `diffaug.nnunet.families.NETWORKS`.
        deep_supervision: Whether it also answers at lower resolutions, where its family can.

    Returns:
        The network.

    Raises:
        DiffaugError: If it is none that diffaug knows, or cannot take the configuration's patch size.
    """
    found = network_of(configuration.configuration, network)
    return found.build(channels, outputs, deep_supervision=deep_supervision)


def build_downstream(
    configuration: ConfigurationManager,
    plans: PlansManager,
    dataset_json: dict[str, Any],
    *,
    network: str = PLAN,
    deep_supervision: bool = True,
) -> nn.Module:
    """Build the network with the outputs of a task.

    Args:
        configuration: nnU-Net's configuration.
        plans: nnU-Net's plans.
        dataset_json: The task's `dataset.json`.
        network: A key of `diffaug.nnunet.families.NETWORKS`.
        deep_supervision: Whether it also answers at lower resolutions, as in training.

    Returns:
        The network.
    """
    heads = plans.get_label_manager(dataset_json).num_segmentation_heads
    channels = len(dataset_json["channel_names"])
    return build_network(configuration, channels, heads, network=network, deep_supervision=deep_supervision)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net without running any code in it.

    Args:
        file: The checkpoint.

    Returns:
        Its content.

    Raises:
        DiffaugError: If it is broken or something else.
    """
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            content = torch.load(file, map_location="cpu", weights_only=True)
        known = "network_weights" in content
    except Exception as error:  # torch raises many kinds for a broken file
        raise DiffaugError(
            f"{file}: cannot be read ({type(error).__name__}), expected a checkpoint of nnU-Net; is it whole, "
            "and written by about this version of numpy and torch?"
        ) from error
    if not known:
        raise DiffaugError(f"{file}: holds no network_weights, expected a checkpoint of nnU-Net; give that")
    return content


def find_trainer(name: str) -> type:
    """Let nnU-Net look a trainer up, as training and prediction will.

    Args:
        name: Of the class.

    Returns:
        The class.
    """
    return recursive_find_trainer_class_by_name(name)
