"""Part 5: a generator fitted in earnest in the minutes there are, volumes of it beside scans, and their audit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.gpu import objectives
from benchmarks.gpu.context import Context
from benchmarks.gpu.datasets import data_set
from benchmarks.gpu.sizes import SMOKE
from benchmarks.gpu.steps import measure_steps
from diffaug.generator.plan import GeneratorPlan
from diffaug.scans.pictures import mosaic
from diffaug.stages.fit import open_cache
from diffaug.stages.pipeline import audit, fit, sample
from diffaug.stages.requests import FitRequest, SampleRequest
from diffaug.stages.sample import name
from diffaug.workspace import Workspace

FITTING = 0.4  # share of the part's time for training steps; the rest goes to reading, validation, copies and sampling
SHARES = {"autoencoder": 0.25, "refiner": 0.2, "denoiser": 0.55}  # of that
SHOWN = 12


def run(context: Context) -> None:
    """Fit and sample.

    Args:
        context: The part's surroundings.
    """
    sizes = context.sizes
    workspace = Workspace(data_set(sizes).pool)
    request = FitRequest(budget=sizes.generator_budget, exclude=("none",))
    file = fit(workspace, request, plan_only=True)
    plan = GeneratorPlan.load(file)
    steps = dict.fromkeys(SHARES, 30) if sizes == SMOKE else _steps_that_fit(context, plan)
    content = json.loads(file.read_text())
    for network, count in steps.items():
        training = content[f"{network}_training"]
        training |= {"steps": count, "warmup_steps": min(training["warmup_steps"], count // 10)}
    file.write_text(json.dumps(content, indent=2))
    fit(workspace, request)
    context.record(steps=steps, budget=sizes.generator_budget, seconds_left=round(context.left))
    # a set for pretraining, kept whole: the audit says how many are too like a scan
    sample(workspace, SampleRequest(count=sizes.samples, keep_copies=True))
    _draw(workspace, GeneratorPlan.load(file), context.out / "volumes.png")
    context.record(volumes=sizes.samples, seconds_left=round(context.left))


def _steps_that_fit(context: Context, plan: GeneratorPlan) -> dict[str, int]:
    """Measure how fast the networks train beside whatever else runs now, and share the time out."""
    few = replace(plan, cases=plan.cases[:8], held_out=plan.held_out[:2])
    extent, folder = plan.grid.shape, context.work / "rates"
    rates = {}
    for network in SHARES:
        objective, training = getattr(objectives, network)(few, extent, folder)
        seconds = context.sizes.step_seconds
        rates[network] = measure_steps(objective, training, context.device, seconds)
    seconds = FITTING * context.left
    context.record(rates={name: figures["steps_per_second"] for name, figures in rates.items()})
    return {
        network: min(
            plan.trainings[network].steps, max(100, round(seconds * share * rates[network]["steps_per_second"]))
        )
        for network, share in SHARES.items()
    }


def _draw(workspace: Workspace, plan: GeneratorPlan, file: Path) -> None:
    """Draw scans over synthetic volumes."""
    scans = open_cache(workspace, plan)
    images = workspace.synthetic / "imagesTr"
    (low, high), count = plan.grid.ranges[0], min(SHOWN, len(plan.cases))
    made = [
        sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
        for number in range(count)
        if (image := images / f"{name(number)}_0000.nii.gz").is_file()
    ]
    rows = {
        "scans": [np.asarray(scans[case][0], np.float32) for case in plan.cases[:count]],
        "synthetic": [(volume - low) / (high - low) * 2 - 1 for volume in made],
    }
    mosaic(rows, file, spacing=plan.grid.spacing, orientation=plan.grid.orientation)


def judge(context: Context) -> None:
    """Audit the volumes.

    Args:
        context: The part's surroundings.
    """
    workspace = Workspace(data_set(context.sizes).pool)
    report = audit(workspace)
    shutil.copy(report, context.out / "audit.html")
    manifest = json.loads((workspace.audit / "manifest.json").read_text())
    context.record(verdicts=manifest["verdicts"], defects=manifest["defects"])
