"""Where the encoder file lies."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

IMPORTED = "imported.json"  # beside an encoder file that came from elsewhere
ENCODER = "encoder.pt"


def encoder_path(results: str | PathLike[str], dataset: str, plans: str, configuration: str) -> Path:
    """Tell where `diffaug pretrain` leaves the encoder file and the trainer looks for it.

    Args:
        results: The folder `nnUNet_results`.
        dataset: Folder name of the dataset, `DatasetXXX_Name`.
        plans: Name of nnU-Net's plans.
        configuration: Name of nnU-Net's configuration.

    Returns:
        The path of the encoder file, which may not exist yet.
    """
    return Path(results) / dataset / f"diffaug__{plans}__{configuration}" / "encoder" / ENCODER
