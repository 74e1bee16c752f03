"""What nnU-Net has planned for a task, and the folds that it makes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from diffaug.errors import DiffaugError
from diffaug.files import read_json
from diffaug.nnunet.dataset_json import read_dataset_json
from diffaug.nnunet.families import Network, network_of
from diffaug.workspace import Workspace

__all__ = ["ConfigurationManager", "PlansManager", "read_plans"]


def read_plans(workspace: Workspace) -> tuple[PlansManager, ConfigurationManager]:
    """Read the task's nnU-Net plans.

    Args:
        workspace: The task's workspace.

    Returns:
        The plans and the workspace's configuration.

    Raises:
        DiffaugError: If there are no plans, they lack the configuration, or it is not a 3D one.
    """
    number = workspace.dataset.removeprefix("Dataset").partition("_")[0]
    content = read_json(workspace.plans_file, f"run: nnUNetv2_plan_and_preprocess -d {number} -c 3d_fullres")
    known = ", ".join(name for name in content.get("configurations", {}) if not name.startswith("2d"))
    try:
        plans = PlansManager(content)
        configuration = plans.get_configuration(workspace.configuration)
        found = len(configuration.patch_size)
    except (KeyError, ValueError, RuntimeError) as error:
        raise DiffaugError(
            f"{workspace.plans_file}: no configuration {workspace.configuration}, expected one of {known}; fix "
            "--configuration, or add it with diffaug plan"
        ) from error
    if found != 3:
        raise DiffaugError(
            f"{workspace.plans_file}: configuration {workspace.configuration} is {found}D, expected one of {known}; fix "
            "--configuration"
        )
    if plans.plans_name != workspace.plans:
        raise DiffaugError(
            f"{workspace.plans_file}: calls itself plans_name {plans.plans_name}, and nnU-Net names its folders by that, "
            f"expected {workspace.plans}; fix plans_name in the file"
        )
    if configuration.previous_stage_name is not None:
        raise DiffaugError(
            f"{workspace.plans_file}: configuration {workspace.configuration} is a cascade's second stage, which also takes "
            f"masks, expected one of {known} that takes images alone; fix --configuration"
        )
    return plans, configuration


FOLDS = 5


def default_splits(labelled: Iterable[str]) -> list[dict[str, list[str]]]:
    """Split cases as nnU-Net will at the first training.

    Args:
        labelled: Ids of the labelled cases, at least five.

    Returns:
        For each fold the lists `train` and `val`.
    """
    splits = generate_crossval_split(sorted(labelled), seed=12345, n_splits=FOLDS)
    return [{part: [str(case) for case in split[part]] for part in ("train", "val")} for split in splits]


@dataclass(frozen=True)
class PlannedTask:
    """What nnU-Net has planned for a task, and the network that is pretrained for it.

    Attributes:
        workspace: The task's workspace.
        plans: nnU-Net's plans.
        configuration: The workspace's configuration.
        dataset_json: The task's `dataset.json`.
        network: The workspace's network.
    """

    workspace: Workspace
    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    network: Network

    @staticmethod
    def of(workspace: Workspace) -> PlannedTask:
        """Read it.

        Args:
            workspace: The task's workspace.

        Returns:
            The task.

        Raises:
            DiffaugError: If plans, configuration or network are not there or do not fit each other.
        """
        plans, configuration = read_plans(workspace)
        network = network_of(configuration.configuration, workspace.network)
        dataset_json = read_dataset_json(workspace.raw, labels=True)
        return PlannedTask(workspace, plans, configuration, dataset_json, network)

    @property
    def channels(self) -> int:
        """How many channels its scans have."""
        return len(self.dataset_json["channel_names"])
