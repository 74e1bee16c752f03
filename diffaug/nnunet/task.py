"""A task as nnU-Net sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffaug.files import read_json
from diffaug.nnunet.families import Network, network_of
from diffaug.nnunet.plans import ConfigurationManager, PlansManager, read_plans
from diffaug.workspace import Workspace


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
        dataset_json = read_json(workspace.raw / "dataset.json", "restore it")
        return PlannedTask(workspace, plans, configuration, dataset_json, network)

    @property
    def channels(self) -> int:
        """How many channels its scans have."""
        return len(self.dataset_json["channel_names"])
