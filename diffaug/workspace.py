"""Where every artefact of a task lives: nnU-Net's folders and diffaug's run folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from diffaug.errors import DiffaugError

PLAN = "plan"  # the network of nnU-Net's plan, beside those that a trainer brings along
NNUNET_FOLDERS = {
    "nnUNet_raw": "the raw datasets (DatasetXXX_Name/imagesTr ...)",
    "nnUNet_preprocessed": "nnU-Net's plans and preprocessed cases",
    "nnUNet_results": "trained models and diffaug's run folders",
}


def nnunet_folder(variable: str) -> Path:
    """Read one of nnU-Net's three folders from its environment variable.

    Args:
        variable: `nnUNet_raw`, `nnUNet_preprocessed` or `nnUNet_results`.

    Returns:
        The folder, which may not exist yet.

    Raises:
        DiffaugError: If the variable is unset, begins with `~` or, for `nnUNet_raw`, no such folder exists.
    """
    value = os.environ.get(variable)
    if not value:
        raise DiffaugError(
            f"{variable}: environment variable is not set, expected the folder of {NNUNET_FOLDERS[variable]}; "
            f"run: export {variable}=/path/to/{variable}"
        )
    if value.startswith("~"):
        raise DiffaugError(
            f"{variable}: found '{value}', which nnU-Net takes for a folder called ~, expected a whole path; run: "
            f'export {variable}="$HOME{value[1:]}"'
        )
    folder = Path(value)
    if variable == "nnUNet_raw" and not folder.is_dir():
        raise DiffaugError(f"{folder}: no such folder, expected {NNUNET_FOLDERS[variable]}; fix {variable}")
    return folder


def dataset_name(task: str | int) -> str:
    """Turn what nnU-Net's `-d` takes (`101` or `Dataset101_Breast`) into the dataset's folder name.

    Args:
        task: Number or full name.

    Returns:
        The folder name, for example `Dataset101_Breast`.

    Raises:
        DiffaugError: If no dataset, or more than one, has that number in nnU-Net's folders.
    """
    text = str(task)
    roots = [nnunet_folder("nnUNet_raw")]
    roots += [nnunet_folder(v) for v in ("nnUNet_preprocessed", "nnUNet_results") if os.environ.get(v)]
    names = {p.name for root in roots if root.is_dir() for p in root.glob("Dataset*") if p.is_dir()}
    if text in names:
        return text
    if text.isdigit():
        matches = sorted(name for name in names if name.startswith(f"Dataset{int(text):03d}_"))
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise DiffaugError(
                f"task {text}: {len(matches)} datasets have this number ({', '.join(matches)}), "
                "expected one; give the full name"
            )
    known = ", ".join(sorted(names)) or "none"
    raise DiffaugError(f"task {text}: no such dataset in {roots[0]}, found {known}; give its number or full name")


def encoder_folder(network: str) -> str:
    """Name the folder of the encoder of a network.

    Args:
        network: A key of `diffaug.nnunet.families.NETWORKS`.

    Returns:
        Its name within the run folder.
    """
    return "encoder" if network == PLAN else f"encoder_{network}"


@dataclass(frozen=True)
class Workspace:
    """The run folder of one dataset, plans and configuration: `diffaug__<plans>__<configuration>` and its four rooms.

    Attributes:
        dataset: Folder name of the dataset, `DatasetXXX_Name`.
        plans: Name of nnU-Net's plans, without `.json`.
        configuration: Name of nnU-Net's configuration, for example `3d_fullres`.
        network: Which network is pretrained, a key of `diffaug.nnunet.families.NETWORKS`; those of one configuration share a
            generator.
    """

    dataset: str
    plans: str = "nnUNetPlans"
    configuration: str = "3d_fullres"
    network: str = PLAN

    def command(self, verb: str) -> str:
        """Write diffaug's command for this workspace.

        Args:
            verb: Which.

        Returns:
            The command, without further options.
        """
        network = "" if self.network == PLAN or verb in ("fit", "sample", "audit") else f" --network {self.network}"
        where = f"--task {self.dataset} --plans {self.plans} --configuration {self.configuration}"
        return f"diffaug {verb} {where}{network}"

    @property
    def raw(self) -> Path:
        """The raw dataset, read only."""
        return nnunet_folder("nnUNet_raw") / self.dataset

    @property
    def preprocessed(self) -> Path:
        """nnU-Net's folder with plans, splits and preprocessed cases; diffaug adds no case to it."""
        return nnunet_folder("nnUNet_preprocessed") / self.dataset

    @property
    def plans_file(self) -> Path:
        """nnU-Net's plans."""
        return self.preprocessed / f"{self.plans}.json"

    @property
    def run(self) -> Path:
        """The run folder that holds the four stages."""
        return nnunet_folder("nnUNet_results") / self.dataset / f"diffaug__{self.plans}__{self.configuration}"

    @property
    def generator(self) -> Path:
        """Stage `fit`: grid plan, cache, autoencoder, denoiser."""
        return self.run / "generator"

    @property
    def synthetic(self) -> Path:
        """Stage `sample`: synthetic volumes in nnU-Net's raw layout."""
        return self.run / "synthetic"

    @property
    def audit(self) -> Path:
        """Stage `audit`: report and pictures."""
        return self.run / "audit"

    @property
    def encoder(self) -> Path:
        """Stage `pretrain`: the encoder file that the nnU-Net trainer loads."""
        return self.run / encoder_folder(self.network)
