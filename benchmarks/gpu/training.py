"""Part 3: steps per second and memory of everything that is trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from benchmarks.gpu import objectives
from benchmarks.gpu.context import Context
from benchmarks.gpu.objectives import Measured
from benchmarks.gpu.steps import measure_steps
from diffaug.nnunet.plans import read_plans


def run(context: Context) -> None:
    """Measure as many kinds of steps as time allows: plain ones first, then compiled ones.

    Args:
        context: The part's surroundings.
    """
    sizes, folder = context.sizes, context.work / "training"
    spaces = {name: objectives.plan_typical(name, sizes.scan) for name in sizes.planners}
    for name, workspace in spaces.items():
        _, configuration = read_plans(workspace)
        context.record(plans=name, patch_size=configuration.patch_size, batch_size=configuration.batch_size)
    _, first = read_plans(spaces[sizes.planners[0]])

    @cache
    def plan(budget: str) -> objectives.GeneratorPlan:
        return objectives.typical_plan(budget, sizes.scan, first.patch_size)

    kinds: dict[str, Callable[[str], Measured]] = {
        "autoencoder": lambda budget: objectives.autoencoder(plan(budget), sizes.scan, folder),
        "refiner": lambda budget: objectives.refiner(plan(budget), sizes.scan, folder),
        "denoiser": lambda budget: objectives.denoiser(plan(budget), sizes.scan, folder),
    }
    for name, workspace in spaces.items():
        make = lambda budget, space=workspace: objectives.pretext(space, budget, sizes.scan, folder)  # noqa: E731
        kinds[f"pretraining {name}"] = make
    wanted = [(budget, kind, False) for budget in sizes.budgets for kind in kinds]
    if sizes.compiled:  # last, for compiling takes long and may hang
        wanted += [(budget, kind, True) for budget in sizes.budgets for kind in reversed(kinds)]
    for budget, kind, compiled in wanted:
        if context.left < 0:
            break
        case = {"budget": budget, "kind": kind, "compiled": compiled}
        try:
            objective, training = kinds[kind](budget)
            figures = measure_steps(objective, training, context.device, sizes.step_seconds, compiled=compiled)
            context.record(**case, steps=training.steps, **figures)
        except torch.OutOfMemoryError:
            context.record(**case, failed="out of memory")
        except Exception as error:  # a compiler's, most likely; the next kind may well be measured
            context.record(**case, failed=f"{type(error).__name__}: {str(error)[:200]}")
