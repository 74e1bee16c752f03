"""One volume of 256 x 256 x 128 voxels: seconds and peak memory, with untrained networks of a budget.

    python -m benchmarks.large_volume --budget cpu-small

Weights do not change what sampling costs. Peak memory is of the whole process, torch and all.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

from diffaug.budgets import BUDGETS
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.condition import Condition
from diffaug.generator.model import Generator
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.planning import plan_strides
from diffaug.generator.samplers import SAMPLERS
from diffaug.scans.grid import Grid

SHAPE = (128, 256, 256)


def untrained(budget: str, shape: tuple[int, ...]) -> Generator:
    """Build a generator of a budget's size.

    Args:
        budget: A key of `BUDGETS`.
        shape: Voxels (Z, Y, X).

    Returns:
        The generator, with random weights.
    """
    torch.manual_seed(0)
    size = BUDGETS[budget]
    grid = Grid("whole", "LPS", (1.0, 1.0, 1.0), shape, ((0.0, 1.0),), (0.5,), (0.2,))
    plan = GeneratorPlan(
        budget=budget,
        channels=("MR",),
        grid=grid,
        cases=("a",),
        held_out=("b",),
        autoencoder={"image_channels": 1, "strides": plan_strides(grid.spacing, size.factor), **size.autoencoder},
        autoencoder_crop=(size.crop,) * 3,
        denoiser={"latent_channels": size.autoencoder["latent_channels"], **size.denoiser},
        refiner=size.refiner,
        views=size.views,
        autoencoder_training=size.autoencoder_training,
        refiner_training=size.refiner_training,
        denoiser_training=size.denoiser_training,
    )
    autoencoder, denoiser = Autoencoder(**plan.autoencoder), plan.make_denoiser()
    channels = size.autoencoder["latent_channels"]
    mean, std = torch.zeros(1, channels, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)
    return Generator(plan, autoencoder, denoiser, mean, std, [shape], [Condition()], plan.make_refiner())


def main() -> None:
    """Sample one volume and print a line of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=BUDGETS, default="cpu-small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=SAMPLERS["dpmpp"].steps)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    generator = untrained(arguments.budget, SHAPE).to(device)
    runs = 1 if device.type == "cpu" else 3  # the first ones warm a GPU up
    for run in range(runs):
        started = time.perf_counter()
        volumes, *_ = generator.synthesise(0, [run], sampler="dpmpp", steps=arguments.steps)
        seconds = time.perf_counter() - started
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"| {arguments.budget} | {tuple(volumes.shape[2:])} | dpmpp, {arguments.steps} steps | {device.type}, "
        f"{torch.get_num_threads()} threads | {seconds:.1f} s | {peak:.2f} GB |"
    )


if __name__ == "__main__":
    main()
