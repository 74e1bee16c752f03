"""Part 4, first half: the same steps from the same seed in bfloat16 and in single precision, losses side by side."""

from __future__ import annotations

from lightning_fabric import Fabric

from benchmarks.gpu import objectives
from benchmarks.gpu.context import Context
from benchmarks.gpu.steps import losses
from benchmarks.gpu.volume import HALF, SINGLE


def run(context: Context) -> None:
    """Train each network twice and record the losses.

    Args:
        context: The part's surroundings.
    """
    sizes, folder = context.sizes, context.work / "precision"
    workspace = objectives.plan_typical(sizes.planners[0], sizes.phantom)
    budget = sizes.budgets[0]
    plan = objectives.typical_plan(budget, sizes.phantom, None)
    makers = {
        "autoencoder": lambda: objectives.autoencoder(plan, sizes.phantom, folder),
        "refiner": lambda: objectives.refiner(plan, sizes.phantom, folder),
        "denoiser": lambda: objectives.denoiser(plan, sizes.phantom, folder),
        "pretraining": lambda: objectives.pretext(workspace, budget, sizes.phantom, folder),
    }
    for kind, make in makers.items():
        for precision in (SINGLE, HALF):
            fabric = Fabric(accelerator=context.device.type, devices=1, precision=precision)  # type: ignore[arg-type]
            objective, training = make()
            found = losses(objective, training, fabric, sizes.equal_steps)
            context.record(kind=kind, precision=precision, losses=found)
