"""What the denoiser's Gaussian prior is worth: held-out loss with and without it, after equally many steps.

    python -m benchmarks.prior --task 4 --steps 400 --out benchmarks/results/prior_hippocampus.md

The task needs a generator that `diffaug fit` has finished: its plan, autoencoder and scans are used again.
Losses are those of `diffaug.generator.diffusion.denoising_error` on held-out scans, about 1 for a useless network. Without
components the prior is EDM's skip connection.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import machine, table
from diffaug.generator import fit_denoiser
from diffaug.generator.fit_denoiser import HELD_OUT_SIGMAS, DenoiserObjective
from diffaug.generator.model import Generator
from diffaug.generator.views import encode_views
from diffaug.scans.cache import VolumeCache
from diffaug.stages.fit import open_cache
from diffaug.training.devices import start_fabric
from diffaug.training.log import read_log
from diffaug.training.loop import train
from diffaug.workspace import Workspace, dataset_name


class SeesNothing:
    """A copy test that looks at nothing: here no samples are judged."""

    def judge(self, volumes: torch.Tensor) -> list[Any]:
        """Find no copies.

        Args:
            volumes: `(B, C, Z, Y, X)`.

        Returns:
            Nothing.
        """
        return []


def losses(task: str, components: list[int], steps: int, folder: Path) -> list[dict[str, Any]]:
    """Train a denoiser for each number of components, from the same latents, seeds and batches.

    Args:
        task: The task's id.
        components: Of the prior.
        steps: Of each training; the learning rate falls to zero within them.
        folder: Where the latents go.

    Returns:
        A row of the table for each, before and after training.
    """
    workspace = Workspace(dataset_name(task))
    fitted = Generator.load(workspace.generator / "generator.safetensors")
    plan, cpu = fitted.plan, torch.device("cpu")
    scans = open_cache(workspace, plan)
    # fit has deleted its own
    latents = VolumeCache(folder)
    views, held_out = (
        encode_views(fitted.autoencoder, plan, scans, cases, latents, cpu) for cases in (plan.cases, plan.held_out)
    )
    conditions = dict(zip(plan.cases, fitted.conditions, strict=True)) | dict.fromkeys(
        plan.held_out, fitted.conditions[0]
    )
    fit_denoiser.WATCHED = 1
    rows = []
    for count in components:
        training = replace(plan.denoiser_training, steps=steps)
        own = replace(plan, denoiser={**plan.denoiser, "components": count}, denoiser_training=training)
        torch.manual_seed(training.seed)
        parts = (own, fitted.autoencoder, views, held_out, conditions, SeesNothing(), fitted.residual_noise)
        objective = DenoiserObjective(*parts)  # type: ignore[arg-type]
        untrained = objective.validate(torch.optim.swa_utils.AveragedModel(objective.networks["denoiser"]))
        with tempfile.TemporaryDirectory() as logs:
            settings = {"fabric": start_fabric("cpu"), "folder": Path(logs), "name": "denoiser", "identity": count}
            train(objective, objective.example, training, **settings)
            trained = [line for line in read_log(Path(logs) / "log.jsonl") if "held_out" in line][-1]
        for when, found in (("untrained", untrained), (f"{steps} steps", trained)):
            levels = {f"at sigma {level:g}": f"{found[f'held_out_at_{level:g}']:.3f}" for level in HELD_OUT_SIGMAS}
            rows.append({"components": count, "": when, "held-out loss": f"{found['held_out']:.3f}", **levels})
    return rows


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--components", type=int, nargs="+", default=[0, 8, 32])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = losses(arguments.task, arguments.components, arguments.steps, Path(folder))
    about = json.dumps({**machine(), "dataset": dataset_name(arguments.task)})
    arguments.out.write_text(f"# The denoiser's prior\n\n```\n{__doc__}```\n\n{about}\n\n{table(rows)}")
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
