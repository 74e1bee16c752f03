"""What nnU-Net has planned for a task."""

from __future__ import annotations

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from diffaug.errors import DiffaugError
from diffaug.files import read_json
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
