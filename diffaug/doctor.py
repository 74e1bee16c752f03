"""The verb `doctor`: what keeps diffaug and nnU-Net from working here, or on a task, and how to fix it."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from diffaug.errors import DiffaugError, times
from diffaug.workspace import NNUNET_FOLDERS, PLAN, Workspace, dataset_name, nnunet_folder

if TYPE_CHECKING:
    from diffaug.scans.dataset import RawDataset

TRAINER_VARIABLE = "nnUNet_extTrainer"
SHOWN = 3  # of whatever there may be hundreds of
ROOM = 10  # GB; caches and checkpoints of a common task
SHARED = Path("/dev/shm")  # where loading processes hand batches over; 64 MB in a container that was not given more
SHARED_ROOM = 1  # GB; four batches of each of eight processes


def examine(
    task: str | None = None, plans: str = "nnUNetPlans", configuration: str = "3d_fullres", network: str = PLAN
) -> None:
    """Print a line per check.

    Args:
        task: Whose folder to look at, too; as nnU-Net's `-d`.
        plans: Name of its nnU-Net plans.
        configuration: nnU-Net's configuration in them.
        network: Which network of it.

    Raises:
        DiffaugError: If a check failed.
    """
    failed = 0
    for name, check in (*_checks(), *(_task_checks(task, plans, configuration, network) if task else ())):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net's lookups are chatty
                finding = check()
            print(f"ok    {name}: {finding}")
        except Exception as error:  # whatever it is, the user must see it beside the other checks
            failed += 1
            print(f"FIX   {name}: {error}")
    if failed:
        raise DiffaugError(f"doctor: {failed} checks failed, expected none; fix the lines above")


def _checks() -> Iterator[tuple[str, Callable[[], str]]]:
    for variable in NNUNET_FOLDERS:
        yield variable, lambda variable=variable: str(nnunet_folder(variable))  # type: ignore[misc]
    yield "torch and torchvision", _torch
    yield "packages", lambda: ", ".join(f"{name} {version(name)}" for name in ("nnunetv2", "monai", "lightning-fabric"))
    yield "device", _device
    yield "disk", _disk
    if SHARED.is_dir():
        yield "shared memory", _shared_memory
    yield "trainer", _trainer


def _task_checks(task: str, plans: str, configuration: str, network: str) -> Iterator[tuple[str, Callable[[], str]]]:
    def workspace() -> Workspace:  # may fail, and then within a check
        return Workspace(dataset_name(task), plans, configuration, network)

    yield "dataset", lambda: _dataset(workspace())
    yield "names", lambda: _names(workspace())
    yield "scans", lambda: _scans(workspace())
    yield "folds", lambda: _folds(workspace())
    yield "plans", lambda: _plans(workspace())


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


def _shared_memory() -> str:
    size = shutil.disk_usage(SHARED).total / 2**30
    if size < SHARED_ROOM:
        raise DiffaugError(
            f"{SHARED}: {size:.2f} GB, expected {SHARED_ROOM} GB for loading processes; start the container with --ipc=host "
            "or --shm-size=8g"
        )
    return f"{size:.0f} GB"


def _trainer() -> str:
    value = os.environ.get(TRAINER_VARIABLE, "")
    if not any((Path(p) / "nnunet_trainer_diffaug.py").is_file() for p in value.split(os.pathsep) if p):
        raise DiffaugError(
            f"nnUNet_extTrainer is '{value}', expected the folder of diffaug's trainers; "
            'run: export nnUNet_extTrainer="$(diffaug trainer-path)"'
        )
    from diffaug.nnunet.networks import find_trainer

    return f"nnU-Net finds {find_trainer('nnUNetTrainerDiffAug').__name__}"


def _dataset(workspace: Workspace) -> str:
    from diffaug.generator.planning import FEWEST_TO_FIT
    from diffaug.scans.dataset import labelled_ids

    dataset = _opened(workspace)
    labelled = len(labelled_ids(workspace.raw, dataset.info))
    channels = ", ".join(dataset.channels)
    if len(dataset.cases) < FEWEST_TO_FIT:
        raise DiffaugError(
            f"{workspace.raw}: found {len(dataset.cases)} scans, expected at least {FEWEST_TO_FIT} (tens are useful); "
            "add scans"
        )
    told = f"{workspace.dataset}: {len(dataset.cases)} scans ({channels}), {labelled} of them labelled"
    return "\n      ".join([told, *(inventory.text for inventory in dataset.inventories if inventory.passed_over)])


def _opened(workspace: Workspace) -> RawDataset:
    from diffaug.scans.dataset import open_dataset

    return open_dataset(workspace.raw, plans=workspace.plans_file)


def _names(workspace: Workspace) -> str:
    """Find what diffaug takes and nnU-Net does not."""
    from diffaug.nnunet.dataset_json import read_dataset_json
    from diffaug.scans.dataset import labelled_ids

    dataset = _opened(workspace)
    info = dataset.info
    labelled = labelled_ids(workspace.raw, info)
    if labelled:
        read_dataset_json(workspace.raw, labels=True)
    bare = [
        case.files[0]
        for case in dataset.cases
        if case.id in set(labelled) and len(case.files) == 1 and case.files[0].name == f"{case.id}{info['file_ending']}"
    ]
    if bare and not info.get("dataset"):
        raise DiffaugError(
            f"{bare[0]}: {len(bare)} labelled images have no channel number, expected names such as "
            f"{bare[0].name.removesuffix(info['file_ending'])}_0000{info['file_ending']}, which nnU-Net needs; rename them"
        )
    return "as nnU-Net reads them"


def _scans(workspace: Workspace) -> str:
    """Look at all headers, and at the voxels of a few scans."""
    from diffaug.scans.headers import look_at_headers
    from diffaug.scans.hounsfield import windows_of
    from diffaug.scans.readings import read_off

    dataset = _opened(workspace)
    stopping, odd = look_at_headers(dataset)
    if stopping:
        told = "; ".join(f"{case}: {why}" for case, why in list(stopping.items())[:SHOWN])
        more = f", and {len(stopping) - SHOWN} more" if len(stopping) > SHOWN else ""
        raise DiffaugError(
            f"{len(stopping)} of {len(dataset.cases)} scans cannot be used ({told}{more}); mend them, "
            "or list them in a FILE: --exclude fold:0 --exclude FILE"
        )
    few = dataset.cases[:: max(1, len(dataset.cases) // SHOWN)][:SHOWN]
    readings = [read_off(case.id, dataset.read(case), dataset.channels) for case in few]
    notes = [*windows_of(readings, dataset.channels)[1], *odd.values()]
    shown = [*notes[:SHOWN], *([f"and {len(notes) - SHOWN} more"] if len(notes) > SHOWN else [])]
    return "\n      note: ".join([f"headers of {len(dataset.cases)} and voxels of {len(few)} are in order", *shown])


def _folds(workspace: Workspace) -> str:
    from diffaug.nnunet.dataset_json import read_dataset_json
    from diffaug.nnunet.plans import FOLDS
    from diffaug.scans.dataset import labelled_ids
    from diffaug.scans.exclusion import excluded_ids

    labelled = len(labelled_ids(workspace.raw, read_dataset_json(workspace.raw)))
    if labelled < FOLDS and not (workspace.preprocessed / "splits_final.json").is_file():
        told = f"none: nnU-Net splits no fewer than {FOLDS} labelled cases, here are {labelled}"
        return f"{told}; train all of them: nnUNetv2_train ... all" if labelled else told
    return f"{len(excluded_ids(workspace, ['fold:0']))} validation cases in fold 0"


def _plans(workspace: Workspace) -> str:
    from diffaug.nnunet.dataset_json import read_dataset_json
    from diffaug.nnunet.networks import build_downstream
    from diffaug.nnunet.plans import read_plans

    plans, configuration = read_plans(workspace)
    dataset_json = read_dataset_json(workspace.raw, labels=True)
    network = build_downstream(configuration, plans, dataset_json, network=workspace.network)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    patch = times(configuration.patch_size)
    return f"{workspace.configuration}: {type(network).__name__} of {millions:.1f} million weights, patches of {patch}"
