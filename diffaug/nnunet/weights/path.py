"""Where the encoder file lies."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from diffaug.workspace import PLAN, encoder_folder

IMPORTED = "imported.json"  # beside an encoder file that came from elsewhere
ENCODER = "encoder.pt"


def encoder_path(
    results: str | PathLike[str], dataset: str, plans: str, configuration: str, network: str = PLAN
) -> Path:
    """Tell where `diffaug pretrain` leaves the encoder file and the trainer looks for it.

    Args:
        results: The folder `nnUNet_results`.
        dataset: Folder name of the dataset, `DatasetXXX_Name`.
        plans: Name of nnU-Net's plans.
        configuration: Name of nnU-Net's configuration.
        network: A key of `diffaug.nnunet.families.NETWORKS`.

    Returns:
        The path of the encoder file, which may not exist yet.
    """
    return Path(results) / dataset / f"diffaug__{plans}__{configuration}" / encoder_folder(network) / ENCODER
