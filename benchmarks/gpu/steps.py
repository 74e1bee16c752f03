"""How fast training steps are: the training loop's own step, with its data loading and without."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from benchmarks.gpu.context import finish, forget_peak, peak
from diffaug.budgets import Training
from diffaug.training.batches import StepBatches, loader
from diffaug.training.devices import start_fabric
from diffaug.training.step import set_up, take_step

WARM = 3  # steps that do not count: kernels are chosen, loading processes start
ENDLESS = 10**9


def measure_steps(
    objective: Any,
    training: Training,
    device: torch.device,
    seconds: float,
    *,
    progress: float = 0.5,
    compiled: bool = False,
) -> dict[str, float]:
    """Measure training steps.

    Args:
        objective: An objective with the method `example`.
        training: Its settings.
        device: Where to train.
        seconds: How long to measure, with data loading and again without.
        progress: Share of the training that is said to be done: the critic of a plan like the paper's begins half-way.
        compiled: Whether networks are compiled by torch first.

    Returns:
        `steps_per_second` with loading, `without_loading`, the share of time that loading takes (`loader_share`), peak
        memory, examples that one core makes in a second, and where compiled the seconds that this takes.
    """
    forget_peak(device)
    fabric = start_fabric(device.type)
    training = replace(training, workers=min(training.workers, max(1, (os.cpu_count() or 1) - 1)))
    pretended = replace(training, steps=ENDLESS)
    first = int(progress * ENDLESS)
    batches = StepBatches(
        objective.example, steps=ENDLESS, batch_size=training.batch_size, seed=0, rank=0, world_size=1
    )
    figures = {"examples_per_core_second": _examples(objective, min(1.0, seconds))}
    optimizers, average = set_up(objective, training, fabric)
    if compiled:
        # the autoencoder's loss is differentiated twice, to balance its critic (VQ-GAN): buffers must live that long
        torch._functorch.config.donated_buffer = False
        for network in objective.networks.values():
            network.compile()
    batch = fabric.to_device(batches[first])
    count = itertools.count(first)

    def step(batch: Any) -> None:
        take_step(objective, batch, next(count), pretended, fabric, optimizers, average, lambda _: None)

    started = finish(device)
    for _ in range(WARM):
        step(batch)
    if compiled:
        figures["compiling_seconds"] = finish(device) - started
    bare = _rate(lambda: step(batch), device, seconds)
    # begun now, and its first batches not counted: what was loaded ahead would look free
    data = loader(batches, start=first, workers=training.workers, pin=device.type == "cuda")
    for _ in range(1 + training.workers):
        next(data)
    loaded = _rate(lambda: step(fabric.to_device(next(data))), device, seconds)
    figures |= {"steps_per_second": loaded, "without_loading": bare, "loader_share": max(0.0, 1 - loaded / bare)}
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    return {**rounded, "batch_size": training.batch_size, "workers": training.workers, **peak(device)}


def _rate(step: Any, device: torch.device, seconds: float) -> float:
    """Count steps per second; the GPU is waited for at both ends alone, as training does it."""
    started = finish(device)
    count = 0
    while time.perf_counter() - started < seconds or count < 2:
        step()
        count += 1
    return count / (finish(device) - started)


def _examples(objective: Any, seconds: float) -> float:
    rng, count, started = np.random.default_rng(0), 0, time.perf_counter()
    while time.perf_counter() - started < seconds or count < 1:
        objective.example(rng)
        count += 1
    return count / (time.perf_counter() - started)


def losses(objective: Any, training: Training, fabric: Fabric, steps: int) -> list[float]:
    """Train for some steps, and tell the loss of each, those of all optimisers added.

    Args:
        objective: An objective with the method `example`.
        training: Its settings.
        fabric: Device and precision.
        steps: How many.

    Returns:
        The losses.
    """
    training = replace(training, steps=steps, warmup_steps=min(training.warmup_steps, max(1, steps // 4)), workers=0)
    optimizers, average = set_up(objective, training, fabric)
    draw = StepBatches(objective.example, steps=steps, batch_size=training.batch_size, seed=0, rank=0, world_size=1)
    found: list[Tensor] = []
    for number in range(steps):
        told: list[Tensor] = []

        def tell(figures: dict[str, Tensor], told: list[Tensor] = told) -> None:
            told.extend(value for name, value in figures.items() if name.endswith("_loss"))

        take_step(objective, fabric.to_device(draw[number]), number, training, fabric, optimizers, average, tell)
        found.append(torch.stack([value.float() for value in told]).sum())
    return [round(float(value), 5) for value in found]
