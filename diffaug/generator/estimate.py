"""How long fitting is likely to take here: operations of a step, over what this machine does of them in a second."""

from __future__ import annotations

import time

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from diffaug.budgets import BUDGETS
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.planning import make_plan
from diffaug.scans.readings import Reading

# Share of the convolutions' speed that training steps reach (benchmarks/results/speed.md, bare steps)
REACHED = {"autoencoder": 0.28, "refiner": 0.5, "denoiser": 0.68}
BOTH_WAYS = 3  # forward, and twice as much backward
TIMED_EDGE, WIDTH, TIMED_BATCH = 24, 64, 2  # of the convolution that is timed
SECONDS = 0.2  # that this takes


def likely_seconds(plan: GeneratorPlan, device: torch.device) -> float:
    """Estimate how long the fits take, without reading, validation and calibration.

    Args:
        plan: The plan.
        device: Where to train.

    Returns:
        Seconds, right within a factor of two or three.
    """
    with FakeTensorMode():
        autoencoder = Autoencoder(**plan.autoencoder)
        autoencoder.codebook.eval()  # its codes move by what the values are, and here there are none
        pieces = torch.zeros(plan.autoencoder_training.batch_size, len(plan.channels), *plan.autoencoder_crop)
        batch, channels = plan.denoiser_training.batch_size, plan.autoencoder["latent_channels"]
        latent, positions = (torch.zeros(batch, count, *plan.latent_shape) for count in (channels, 3))
        denoiser = plan.make_denoiser()
        work = {
            "autoencoder": BOTH_WAYS * _operations(autoencoder, pieces),
            "denoiser": BOTH_WAYS * _operations(denoiser, latent, torch.ones(batch), positions),
        }
        if refiner := plan.make_refiner():
            batch = plan.refiner_training.batch_size
            pieces = torch.ones(batch, len(plan.channels), *plan.autoencoder_crop)
            made = _operations(autoencoder, pieces)  # that it learns from: one way
            work["refiner"] = made + BOTH_WAYS * _operations(refiner, pieces, torch.ones(batch), pieces, pieces)
    rate = _speed(device)
    return sum(work[name] * training.steps / (rate * REACHED[name]) for name, training in plan.trainings.items())


def in_short(plan: GeneratorPlan, device: torch.device) -> str:
    """Say how long a fit is, in steps and in time.

    Args:
        plan: The plan.
        device: Where to train.

    Returns:
        For example `cpu-small, 1,500, 2,500 and 9,000 steps, likely 27 minutes here`.
    """
    *first, last = (f"{training.steps:,}" for training in plan.trainings.values())
    return f"{plan.budget}, {', '.join(first)} and {last} steps, likely {in_words(likely_seconds(plan, device))} here"


def largest_plan(budget: str) -> GeneratorPlan:
    """Plan for scans that fill a budget, where nothing is known of the scans yet.

    Args:
        budget: A key of `BUDGETS`.

    Returns:
        The plan.
    """
    edge = round(BUDGETS[budget].voxels ** (1 / 3))
    reading = {"size": (edge,) * 3, "spacing": (1.0,) * 3, "orientation": "LPS", "ranges": ((0.0, 1.0),)}
    return make_plan(
        [Reading(case=f"scan_{n}", mean=(0.0,), std=(1.0,), **reading) for n in range(10)],  # type: ignore[arg-type]
        ["any"],
        budget=budget,
    )


def in_words(seconds: float) -> str:
    """Write a time as people say it.

    Args:
        seconds: The time.

    Returns:
        For example `12 minutes`.
    """
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return "two minutes or less"


def _operations(network: nn.Module, *arguments: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*arguments)
    return counter.get_total_flops()


def _speed(device: torch.device) -> float:
    """Time a 3D convolution, in operations per second."""
    layer = nn.Conv3d(WIDTH, WIDTH, 3, padding=1).to(device)
    volume = torch.zeros(TIMED_BATCH, WIDTH, TIMED_EDGE, TIMED_EDGE, TIMED_EDGE, device=device)
    work = 2 * TIMED_BATCH * TIMED_EDGE**3 * WIDTH**2 * 27
    count = 0
    with torch.no_grad():
        layer(volume)
        started = _now(device)
        while _now(device) - started < SECONDS:
            layer(volume)
            count += 1
        return work * count / (_now(device) - started)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
