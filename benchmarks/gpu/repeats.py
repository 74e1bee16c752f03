"""Part 4, second half: a fit repeated, killed and resumed, and started by torchrun ends in how nearly the same weights."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.gpu.context import Context
from benchmarks.gpu.datasets import REPEATED
from benchmarks.gpu.sizes import WAYS
from diffaug.files import write_json
from diffaug.generator.plan import FITS
from diffaug.stages.pipeline import fit
from diffaug.stages.requests import FitRequest
from diffaug.training.log import read_log
from diffaug.workspace import Workspace, dataset_name

PYTHON = [sys.executable, "-m"]
TORCHRUN = [*PYTHON, "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m"]


def run(context: Context, way: str) -> None:
    """Fit a small generator.

    Args:
        context: The part's surroundings.
        way: One of `WAYS`.
    """
    results = context.work / "repeats" / way
    results.mkdir(parents=True)
    os.environ |= {"nnUNet_results": str(results)}
    workspace = Workspace(dataset_name(REPEATED))
    _plan(workspace, context.sizes.kill_steps)
    device = context.device.type
    words = [
        "diffaug",
        "fit",
        "--task",
        str(REPEATED),
        "--budget",
        "cpu-small",
        "--exclude",
        "none",
        "--device",
        device,
    ]
    killed = _kill_half_way([*PYTHON, *words], workspace, context.sizes.kill_steps) if way == "killed" else None
    subprocess.run([*(TORCHRUN if way == "torchrun" else PYTHON), *words], check=True)
    log = [line for line in read_log(workspace.generator / "log.jsonl") if "held_out" in line]
    context.record(way=way, held_out=log[-1]["held_out"], **({"killed_at_step": killed} if killed else {}))


def _plan(workspace: Workspace, steps: int) -> None:
    file = fit(workspace, FitRequest(budget="cpu-small", exclude=("none",)), plan_only=True)
    plan = json.loads(file.read_text())
    for name in FITS:
        plan[name] |= {"steps": steps, "warmup_steps": max(1, steps // 10)}
    write_json(file, plan)


def _kill_half_way(command: list[str], workspace: Workspace, steps: int) -> int:
    """Kill a fit with `kill -9` once half of the denoiser's steps are done and a checkpoint is there."""
    folder = workspace.generator
    process = subprocess.Popen(command)
    while process.poll() is None:
        lines = read_log(folder / "log.jsonl") if (folder / "log.jsonl").is_file() else []
        done = max((line["step"] for line in lines if line["fit"] == "denoiser"), default=0)
        if done >= steps // 2 and (folder / "denoiser.state.pt").is_file():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return done
        time.sleep(0.01)
    raise RuntimeError(f"the fit ended with exit code {process.returncode} before it could be killed")


def compare(context: Context) -> None:
    """Hold the weights of all ways against each other.

    Args:
        context: The part's surroundings.
    """
    found = {way: _weights(context.work / "repeats" / way) for way in WAYS}
    for one, other in itertools.combinations(WAYS, 2):
        a, b = found[one], found[other]
        apart = float((a - b).norm() / a.norm())
        context.record(pair=[one, other], equal=bool(torch.equal(a, b)), relative_difference=float(f"{apart:.3g}"))


def _weights(results: Path) -> torch.Tensor:
    (file,) = results.rglob("generator.safetensors")
    return torch.cat([tensor.flatten().double() for _, tensor in sorted(load_file(file).items())])
