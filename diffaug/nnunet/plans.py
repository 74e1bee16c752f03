"""What nnU-Net has planned for a task, and the folds that it makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from diffaug.errors import DiffaugError
from diffaug.files import read_json
from diffaug.nnunet.dataset_json import read_dataset_json
from diffaug.nnunet.families import Network, network_of
from diffaug.shapes import require_shape
from diffaug.workspace import Workspace

Axis = Annotated[int, Field(ge=0, le=2)]

__all__ = ["ConfigurationManager", "PlansManager", "read_plans", "understood"]


PREPROCESSING = (  # of a configuration
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "preprocessor_name",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
)
BY_THEMSELVES = ("ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization")
REPAIR = "make the plans anew with nnUNetv2_plan_experiment"


class Plans(TypedDict):
    """What nnU-Net's plans hold, as far as anything is made of it."""

    plans_name: str
    image_reader_writer: str
    label_manager: NotRequired[str | None]
    transpose_forward: tuple[Axis, Axis, Axis]
    transpose_backward: tuple[Axis, Axis, Axis]
    foreground_intensity_properties_per_channel: NotRequired[dict[str, dict[str, float]]]
    foreground_intensity_properties_by_modality: NotRequired[dict[str, dict[str, float]]]  # its old name
    configurations: dict[str, dict[str, Any]]


class Configuration(TypedDict):
    """What a configuration of nnU-Net's plans holds, its inheritance resolved."""

    patch_size: list[Annotated[int, Field(gt=0, le=4096)]]
    spacing: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    batch_size: Annotated[int, Field(gt=0)]
    normalization_schemes: list[str]
    use_mask_for_norm: list[bool]
    preprocessor_name: str
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any]
    diffaug: NotRequired[dict[str, Any]]


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
    plans, configuration = understood(content, workspace.configuration, workspace.plans_file)
    known, found = _in_3d(content), len(configuration.patch_size)
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


def understood(content: Any, configuration: str, file: Path) -> tuple[PlansManager, ConfigurationManager]:
    """Have nnU-Net read plans, once they are found to be such.

    Args:
        content: Of the file.
        configuration: Name of the configuration.
        file: Where it was read, for the message.

    Returns:
        The plans and the configuration.

    Raises:
        DiffaugError: If they are none, or lack the configuration.
    """
    require_shape(content, Plans, file, REPAIR)
    if configuration not in content["configurations"]:
        raise DiffaugError(
            f"{file}: no configuration {configuration}, expected one of {_in_3d(content)}; fix --configuration, or add it "
            "with diffaug plan"
        )
    try:
        plans = PlansManager(content)
        found = plans.get_configuration(configuration)
        require_shape(found.configuration, Configuration, file, REPAIR)
        # nnU-Net looks these up by name, and only when they are used
        _ = (
            found.preprocessor_class,
            found.resampling_fn_data,
            plans.image_reader_writer_class,
            plans.label_manager_class,
        )
    except DiffaugError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DiffaugError(
            f"{file}: configuration {configuration} cannot be understood ({type(error).__name__} {error}), expected what "
            f"nnU-Net wrote; {REPAIR}"
        ) from error
    return plans, found


def _in_3d(content: dict[str, Any]) -> str:
    return ", ".join(name for name in content["configurations"] if not name.startswith("2d"))


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


def preprocessing_of(plans: PlansManager, configuration: ConfigurationManager) -> dict[str, Any]:
    """Tell what makes nnU-Net preprocess an image as it does: what a network has learnt holds for this alone.

    Args:
        plans: nnU-Net's plans.
        configuration: nnU-Net's configuration.

    Returns:
        Plain values. Intensities of the labelled cases are among them where a channel is normalised by them.
    """
    told = {key: configuration.configuration[key] for key in PREPROCESSING}
    told |= {key: plans.plans[key] for key in ("transpose_forward", "image_reader_writer")}
    intensities = plans.plans.get("foreground_intensity_properties_per_channel") or plans.plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    used = {
        str(channel): intensities.get(str(channel))
        for channel, scheme in enumerate(configuration.normalization_schemes)
        if scheme not in BY_THEMSELVES
    }
    return told | {"foreground_intensity_properties": used}


def differences(before: Mapping[str, Any], now: Mapping[str, Any], of: str) -> list[str]:
    """Name in what plans differ from those that something was begun with.

    Args:
        before: What was told of those; empty where nothing was.
        now: The same of these.
        of: What is told.

    Returns:
        Texts such as `spacing of the preprocessing was [1, 1, 1] and is [2, 1, 1]`.
    """
    return [f"{key} of {of} was {before[key]} and is {now.get(key)}" for key in before if before[key] != now.get(key)]


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
    def preprocessing(self) -> dict[str, Any]:
        """What its images go through."""
        return preprocessing_of(self.plans, self.configuration)

    @property
    def channels(self) -> int:
        """How many channels its scans have."""
        return len(self.dataset_json["channel_names"])
