"""The verb `doctor`: what keeps diffaug and nnU-Net from working here, and how to mend it."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from diffaug.errors import DiffaugError
from diffaug.workspace import NNUNET_FOLDERS, nnunet_folder

TRAINER_VARIABLE = "nnUNet_extTrainer"
ROOM = 10  # GB; caches and checkpoints of a common task


def examine() -> None:
    """Print a line per check.

    Raises:
        DiffaugError: If a check failed.
    """
    failed = 0
    for name, check in _checks():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net's lookups are chatty
                finding = check()
            print(f"ok    {name}: {finding}")
        except Exception as error:  # whatever it is, the user must see it beside the other checks
            failed += 1
            print(f"MEND  {name}: {error}")
    if failed:
        raise DiffaugError(f"doctor: {failed} checks failed, expected none; mend the lines above")


def _checks() -> Iterator[tuple[str, Callable[[], str]]]:
    for variable in NNUNET_FOLDERS:
        yield variable, lambda variable=variable: str(nnunet_folder(variable))  # type: ignore[misc]
    yield "torch and torchvision", _torch
    yield "packages", lambda: ", ".join(f"{name} {version(name)}" for name in ("nnunetv2", "monai", "lightning-fabric"))
    yield "device", _device
    yield "disk", _disk
    yield "trainer", _trainer


def _torch() -> str:
    import torch

    try:
        importlib.import_module("torchvision")
    except Exception as error:
        raise DiffaugError(
            f"torchvision cannot be imported beside torch {torch.__version__} ({str(error).splitlines()[0]}), which breaks "
            "nnU-Net's trainer lookup; install both from the same place"
        ) from error
    return f"{torch.__version__} and {version('torchvision')}"


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"no GPU, {os.cpu_count()} CPU cores: use --budget cpu-small"
    properties = torch.cuda.get_device_properties(0)
    memory = properties.total_memory / 2**30
    budget = "gpu-80g" if memory > 70 else "gpu-24g"
    return f"{properties.name} with {memory:.0f} GB: use --budget {budget}"


def _disk() -> str:
    folder = nnunet_folder("nnUNet_results")
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    if free < ROOM:
        raise DiffaugError(f"{folder}: {free:.1f} GB free, expected {ROOM} GB; free space or move nnUNet_results")
    return f"{free:.0f} GB free for nnUNet_results"


def _trainer() -> str:
    value = os.environ.get(TRAINER_VARIABLE, "")
    if not any((Path(p) / "nnunet_trainer_diffaug.py").is_file() for p in value.split(os.pathsep) if p):
        raise DiffaugError(
            f"nnUNet_extTrainer is '{value}', expected the folder of diffaug's trainers; "
            'run: export nnUNet_extTrainer="$(diffaug trainer-path)"'
        )
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    found = recursive_find_trainer_class_by_name("nnUNetTrainerDiffAug")
    return f"nnU-Net finds {found.__name__}"
