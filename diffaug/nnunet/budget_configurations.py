"""nnU-Net's plans: make them where there are none, and add the configurations of diffaug's budgets to them."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
    nnUNetPlannerResEncXL,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from diffaug.budgets import BUDGETS
from diffaug.errors import DiffaugError
from diffaug.workspace import Workspace, read_json, write_json

PLANNERS = {
    "nnUNetPlans": ExperimentPlanner,
    "nnUNetResEncUNetMPlans": nnUNetPlannerResEncM,
    "nnUNetResEncUNetLPlans": nnUNetPlannerResEncL,
    "nnUNetResEncUNetXLPlans": nnUNetPlannerResEncXL,
}

# Forward and backward of the plain network, one thread beside another job, a batch of 2 with 24 x 32 x 48 voxels: 0.19 s,
# with twice the features 0.43 s. The patch is a whole phantom of the benchmark: parts of it teach less in as many steps.
CPU_FEATURES = (8, 16, 32, 64)
CPU_PATCH_VOXELS = 24 * 32 * 48
CPU_BATCH_SIZE = 2


def add_budget_configuration(
    plans_file: Path, *, budget: str, base: str = "3d_fullres", epochs: int | None = None
) -> str:
    """Add a configuration to nnU-Net's plans that stock commands can train within a budget.

    The new configuration inherits from the base, and shares its preprocessed cases. `cpu-small` has a smaller patch and
    network; the GPU budgets keep nnU-Net's own, which its planner has fitted to the memory, and set the schedule alone.
    An existing configuration of that name stays as it is, for a person may have edited it.

    Args:
        plans_file: nnU-Net's plans.
        budget: `cpu-small`, `gpu-24g` or `gpu-80g`.
        base: The configuration to inherit from.
        epochs: Of the trainers; the budget's own by default.

    Returns:
        The configuration's name, for example `3d_cpu_small`.

    Raises:
        DiffaugError: If the plans are missing, or know no such base, or the budget is unknown, or there is no epoch.
    """
    if budget not in BUDGETS:
        raise DiffaugError(f"budget {budget}: unknown, expected one of {', '.join(BUDGETS)}")
    if epochs is not None and epochs < 1:
        raise DiffaugError(f"--epochs: found {epochs}, expected a positive number; mend the option")
    plans = read_json(
        plans_file, f"run: nnUNetv2_plan_and_preprocess -d {_number(plans_file.parent.name)} -c 3d_fullres"
    )
    configurations = plans["configurations"]
    if base not in configurations:
        raise DiffaugError(f"{plans_file}: no configuration {base}, expected one of {', '.join(configurations)}")
    name = f"{base.removesuffix('_fullres')}_{budget.replace('-', '_')}"
    if name in configurations:
        print(f"{plans_file}: configuration {name} is there already, left as it is")
        return name
    resolved = PlansManager(plans).get_configuration(base).configuration
    added = {"inherits_from": base, "diffaug": {**BUDGETS[budget].nnunet, **({"epochs": epochs} if epochs else {})}}
    if budget == "cpu-small":
        added |= _for_cpu(resolved, f"{plans_file}, configuration {base}")
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
    read_json(workspace.raw / "dataset.json", "every nnU-Net dataset has one: write it")
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


def _for_cpu(base: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Shrink patch, batch and network: the stages of highest resolution stay, one convolution or block in each."""
    architecture = base["architecture"]
    kwargs = dict(architecture["arch_kwargs"])
    per_stage = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
    network = architecture["network_class_name"].rpartition(".")[2]
    if network not in per_stage or len(base["patch_size"]) != 3:
        raise DiffaugError(
            f"{place}: a {len(base['patch_size'])}D {network}, expected a 3D {' or '.join(per_stage)}; "
            "choose another base"
        )
    stages = min(kwargs["n_stages"], len(CPU_FEATURES))
    kwargs |= {
        "n_stages": stages,
        "features_per_stage": [min(pair) for pair in zip(kwargs["features_per_stage"], CPU_FEATURES, strict=False)],
        "kernel_sizes": kwargs["kernel_sizes"][:stages],
        "strides": kwargs["strides"][:stages],
        per_stage[network]: [1] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }
    return {
        "patch_size": _small_patch(base["patch_size"], kwargs["strides"]),
        "batch_size": CPU_BATCH_SIZE,
        "architecture": {**architecture, "arch_kwargs": kwargs},
    }


def _small_patch(patch: list[int], strides: list[list[int]]) -> list[int]:
    """Grow a patch from its smallest size, the axis that lags behind the base's shape first, up to the voxel budget."""
    steps = [math.prod(axis) for axis in zip(*strides, strict=True)]
    small = list(steps)
    while True:
        grown = [
            (small[axis] / patch[axis], axis)
            for axis, step in enumerate(steps)
            if small[axis] + step <= patch[axis]
            and math.prod(small) // small[axis] * (small[axis] + step) <= CPU_PATCH_VOXELS
        ]
        if not grown:
            return small
        axis = min(grown)[1]
        small[axis] += steps[axis]
