"""nnU-Net's plans: make them where there are none, and add the configurations of diffaug's budgets to them."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
    nnUNetPlannerResEncXL,
)

from diffaug.budgets import BUDGETS
from diffaug.errors import DiffaugError
from diffaug.files import read_json, write_json
from diffaug.nnunet.dataset_json import read_dataset_json
from diffaug.nnunet.families import PLAN, Network, network_of
from diffaug.nnunet.plans import REPAIR, Plans, understood
from diffaug.shapes import require_shape
from diffaug.workspace import Workspace

PLANNERS = {
    "nnUNetPlans": ExperimentPlanner,
    "nnUNetResEncUNetMPlans": nnUNetPlannerResEncM,
    "nnUNetResEncUNetLPlans": nnUNetPlannerResEncL,
    "nnUNetResEncUNetXLPlans": nnUNetPlannerResEncXL,
}

# The patch is a whole phantom of the benchmark: parts of it teach less in as many steps.
CPU_PATCH_VOXELS = 24 * 32 * 48
CPU_BATCH_SIZE = 2


def add_budget_configuration(
    plans_file: Path, *, budget: str, base: str = "3d_fullres", epochs: int | None = None, network: str = PLAN
) -> str:
    """Add a configuration to nnU-Net's plans that stock commands can train within a budget.

    The new configuration inherits from the base, and shares its preprocessed cases. `cpu-small` has a smaller patch and
    network; the GPU budgets keep nnU-Net's own, which its planner has fitted to the memory, and set the schedule alone. A
    network that a trainer brings along may need another patch: the nearest that it takes. An existing configuration of
    that name stays as it is, for a person may have edited it.

    Args:
        plans_file: nnU-Net's plans.
        budget: `cpu-small`, `gpu-24g` or `gpu-80g`.
        base: The configuration to inherit from.
        epochs: Of the trainers; the budget's own by default.
        network: A key of `diffaug.nnunet.families.NETWORKS`.

    Returns:
        The configuration's name, for example `3d_cpu_small`.

    Raises:
        DiffaugError: If the plans are missing, or know no such base, or the budget is unknown, or there is no epoch.
    """
    if budget not in BUDGETS:
        raise DiffaugError(f"budget {budget}: unknown, expected one of {', '.join(BUDGETS)}")
    if epochs is not None and epochs < 1:
        raise DiffaugError(f"--epochs: found {epochs}, expected a positive number; fix the option")
    plans = read_json(
        plans_file, f"run: nnUNetv2_plan_and_preprocess -d {_number(plans_file.parent.name)} -c 3d_fullres"
    )
    require_shape(plans, Plans, plans_file, REPAIR)
    configurations = plans["configurations"]
    if base not in configurations:
        raise DiffaugError(f"{plans_file}: no configuration {base}, expected one of {', '.join(configurations)}")
    name = f"{base.removesuffix('_fullres')}_{budget.replace('-', '_')}{'' if network == PLAN else f'_{network}'}"
    if name in configurations:
        print(f"{plans_file}: configuration {name} is there already, left as it is")
        return name
    resolved = understood(plans, base, plans_file)[1].configuration
    if len(resolved["patch_size"]) != 3 and (budget == "cpu-small" or network != PLAN):
        raise DiffaugError(
            f"{plans_file}: configuration {base} is {len(resolved['patch_size'])}D, expected a 3D one; choose another base"
        )
    added: dict[str, Any] = {
        "inherits_from": base,
        "diffaug": {**BUDGETS[budget].nnunet, **({"epochs": epochs} if epochs else {})},
    }
    if budget == "cpu-small":
        added |= _for_cpu(resolved, added["diffaug"], network)
    elif network != PLAN:
        added["patch_size"] = _nearest_patch(network_of(resolved, network, any_patch=True))
    configurations[name] = added
    write_json(plans_file, plans)
    print(f"{plans_file}: added configuration {name} ({', '.join(key for key in added if key != 'inherits_from')})")
    return name


def ensure_plans(dataset: str, plans: str = "nnUNetPlans", exclude: Collection[str] = ()) -> Path:
    """Have nnU-Net fingerprint and plan a dataset whose plans are missing; existing plans stay as they are.

    Args:
        dataset: Folder name of the dataset, `DatasetXXX_Name`.
        plans: Name of the plans, one of nnU-Net's own planners.
        exclude: Cases that must have no part in any choice of settings, such as a test set within `imagesTr`. An
            existing fingerprint is then made anew without them.

    Returns:
        The plans file.

    Raises:
        DiffaugError: If nnU-Net has no such planner, or the dataset has no labelled case.
    """
    workspace = Workspace(dataset, plans)
    if workspace.plans_file.is_file():
        return workspace.plans_file
    if plans not in PLANNERS:
        raise DiffaugError(
            f"{workspace.plans_file}: no such file, and none of nnU-Net's planners writes it ({', '.join(PLANNERS)}); "
            f"run nnUNetv2_plan_and_preprocess -d {_number(dataset)} with the planner that does, or choose other plans"
        )
    read_dataset_json(workspace.raw, labels=True)
    with _quietly():
        extractor = DatasetFingerprintExtractor(dataset, num_processes=1)
        extractor.dataset = {
            case: files
            for case, files in extractor.dataset.items()
            if case not in exclude and Path(files["label"]).is_file()
        }
        if not extractor.dataset:
            raise DiffaugError(
                f"{workspace.raw}: no labelled case{' outside the excluded ones' if exclude else ''}, expected some in "
                "labelsTr; nnU-Net plans from labelled cases: add labels, or copy plans of a similar dataset to "
                f"{workspace.plans_file}"
            )
        extractor.run(overwrite_existing=bool(exclude))
    run_planner(dataset, plans, len(extractor.dataset))
    print(f"{workspace.plans_file}: planned by nnU-Net from {len(extractor.dataset)} labelled cases")
    return workspace.plans_file


def _number(dataset: str) -> str:
    return dataset.removeprefix("Dataset").partition("_")[0]


def run_planner(dataset: str, plans: str, cases: int) -> None:
    """Have nnU-Net plan a dataset from its fingerprint.

    Args:
        dataset: Folder name of the dataset, `DatasetXXX_Name`.
        plans: A key of `PLANNERS`.
        cases: How many are labelled.
    """
    with _quietly():
        planner = PLANNERS[plans](dataset)
        planner.dataset_json["numTraining"] = cases
        planner.plan_experiment()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep nnU-Net's tables from burying the lines that matter here, and lift `nnUNet_n_proc_DA=0` meanwhile.

    It means "no workers", but the planner takes it for a number of threads.
    """
    variable = "nnUNet_n_proc_DA"
    none = os.environ.get(variable) == "0"
    if none:
        os.environ[variable] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if none:
            os.environ[variable] = "0"


def _for_cpu(base: Mapping[str, Any], block: dict[str, Any], network: str) -> dict[str, Any]:
    """Shrink patch, batch and network."""
    whole = network_of(base, network, any_patch=True)
    entries = whole.family.small(whole.architecture)
    entries["diffaug"] = {**block, **entries.get("diffaug", {})}
    small = network_of({**base, **entries}, network, any_patch=True)
    return {**entries, "patch_size": _small_patch(small), "batch_size": CPU_BATCH_SIZE}


def _nearest_patch(network: Network) -> list[int]:
    """Round a patch to the nearest size that the network takes."""
    step = network.family.step(network.kwargs)
    patch = [max(1, math.floor(edge / each + 0.5)) * each for edge, each in zip(network.patch_size, step, strict=True)]
    while not network.family.takes(patch, network.kwargs):
        _grow(patch, network.patch_size, step, range(len(patch)))
    return patch


def _small_patch(network: Network) -> list[int]:
    """Grow a patch from its smallest size up to the voxel budget, and beyond it if the network needs that."""
    whole, step = network.patch_size, network.family.step(network.kwargs)
    patch = list(step)
    while True:
        fits = [
            axis
            for axis, each in enumerate(step)
            if patch[axis] + each <= whole[axis]
            and math.prod(patch) // patch[axis] * (patch[axis] + each) <= CPU_PATCH_VOXELS
        ]
        if not fits and network.family.takes(patch, network.kwargs):
            return patch
        _grow(patch, whole, step, fits or range(len(patch)))


def _grow(patch: list[int], whole: Sequence[int], step: Sequence[int], axes: Iterable[int]) -> None:
    """Grow a patch by one step along that one of some axes that lags most behind a larger patch's shape."""
    axis = min(axes, key=lambda each: patch[each] / whole[each])
    patch[axis] += step[axis]
