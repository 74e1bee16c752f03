"""diffaug's own generator and objectives on phantoms, put together by its own `fit`, for benchmarks to time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from diffaug.budgets import Training
from diffaug.files import write_json
from diffaug.generator.model import Generator
from diffaug.generator.plan import GeneratorPlan
from diffaug.phantom.dataset import case_parameters, render
from diffaug.scans.scan import Geometry, Scan, write_scan
from diffaug.stages.pipeline import fit
from diffaug.stages.requests import FitRequest
from diffaug.training import loop
from diffaug.training.step import Objective
from diffaug.workspace import Workspace

TASK = "Dataset901_Benchmark"
SPACING = (2.0, 2.0, 2.0)  # mm; the same for all phantoms, so that the grid is their own and nothing is resampled
FIRST_STEPS = 2  # of every network: enough for a whole generator, which nobody looks at


@dataclass(frozen=True)
class Assembled:
    """What `fit` put together.

    Attributes:
        generator: The generator, on the CPU.
        fits: By name (`autoencoder`, `denoiser`) what is trained, with its method `example`, and for how long.
    """

    generator: Generator
    fits: dict[str, tuple[Any, Training]]


def write_phantoms(folder: Path, shape: tuple[int, int, int], *, cases: int, unseen: int = 0) -> Path:
    """Write phantoms as a raw dataset without labels; those that are there are kept.

    Args:
        folder: The dataset's folder.
        shape: Voxels (Z, Y, X).
        cases: How many go to `imagesTr`.
        unseen: How many others go to `imagesTs`.

    Returns:
        The folder.
    """
    for part, count, test in (("imagesTr", cases, False), ("imagesTs", unseen, True)):
        for index in range(count):
            case = f"phantom_{part[-2:]}_{index:03d}"
            if not (folder / part / f"{case}_0000.nii.gz").is_file():
                image, _ = render(case_parameters(0, "A", index, test=test), shape)
                write_scan(Scan(image[None], Geometry(SPACING)), folder / part, case)
    about = {"channel_names": {"0": "MRI"}, "labels": {"background": 0}, "numTraining": cases, "file_ending": ".nii.gz"}
    write_json(folder / "dataset.json", about)
    return folder


def set_folders(work: Path) -> Path:
    """Point nnU-Net's variables into a folder.

    Args:
        work: The folder.

    Returns:
        The folder of the raw dataset.
    """
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str((work / name).resolve())
    return work / "raw" / TASK


def assemble(
    work: Path,
    shape: tuple[int, int, int],
    edit: Callable[[GeneratorPlan], GeneratorPlan] = lambda plan: plan,
    *,
    cases: int = 20,
) -> Assembled:
    """Fit a generator of the budget `cpu-small` for two steps, and keep the objectives.

    Args:
        work: Where everything goes.
        shape: Voxels (Z, Y, X) of the phantoms.
        edit: What is changed in the plan.
        cases: Number of phantoms.

    Returns:
        What `fit` put together.
    """
    write_phantoms(set_folders(work), shape, cases=cases)
    request = FitRequest(budget="cpu-small", field_of_view="whole", exclude=("none",))
    file = fit(Workspace(TASK), request, device="cpu", plan_only=True)
    write_json(file, asdict(edit(GeneratorPlan.load(file))))
    fits: dict[str, tuple[Any, Training]] = {}

    def begin(objective: Objective, example: Any, training: Training, *, name: str, **options: Any) -> Any:
        fits[name] = (objective, training)
        return loop.train(objective, example, replace(training, steps=FIRST_STEPS), name=name, **options)

    users = [module for key, module in sys.modules.items() if key.startswith("diffaug.") and module is not loop]
    with ExitStack() as stack:
        for module in users:
            if getattr(module, "train", None) is loop.train:
                stack.enter_context(mock.patch.object(module, "train", begin))
        model = fit(Workspace(TASK), request, device="cpu")
    kept = {name: fits[name] for name in ("autoencoder", "refiner", "denoiser")}
    return Assembled(Generator.load(model).to(torch.device("cpu")), kept)
