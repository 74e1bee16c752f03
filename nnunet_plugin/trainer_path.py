"""The value of `nnUNet_extTrainer` with which nnU-Net finds diffaug's trainers."""

import os
from pathlib import Path

VARIABLE = "nnUNet_extTrainer"


def trainer_path() -> str:
    """Add the folder of diffaug's trainers to the paths that `nnUNet_extTrainer` already names.

    Returns:
        The value for `nnUNet_extTrainer`.
    """
    ours = Path(__file__).resolve().parent / "ext"
    paths = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path.strip()]
    if ours not in [Path(path).resolve() for path in paths]:
        paths.append(str(ours))
    return os.pathsep.join(paths)
