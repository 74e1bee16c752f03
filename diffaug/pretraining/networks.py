"""The very network of an nnU-Net configuration, for pretraining and for what comes after it."""

from __future__ import annotations

from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn


def build_network(configuration: ConfigurationManager, channels: int, outputs: int) -> nn.Module:
    """Build the very network of an nnU-Net configuration, with a pretext's outputs.

    Args:
        configuration: nnU-Net's configuration.
        channels: C of the volumes.
        outputs: Of the last layer, which is not kept.

    Returns:
        The network.
    """
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        channels,
        outputs,
        deep_supervision=False,
    )


def build_downstream(
    configuration: ConfigurationManager,
    plans: PlansManager,
    dataset_json: dict[str, Any],
    *,
    deep_supervision: bool = True,
) -> nn.Module:
    """Build the network as nnU-Net's trainer will.

    Args:
        configuration: nnU-Net's configuration.
        plans: nnU-Net's plans.
        dataset_json: The task's `dataset.json`.
        deep_supervision: Whether it also answers at lower resolutions, as in training.

    Returns:
        The network.
    """
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(dataset_json["channel_names"]),
        plans.get_label_manager(dataset_json).num_segmentation_heads,
        deep_supervision=deep_supervision,
    )
