"""Where the time of a training step goes, and how much of the machine's arithmetic it reaches."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.data.dataloader import _BaseDataLoaderIter
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import Stopwatch, interleaved
from diffaug.budgets import Training
from diffaug.training import loop
from diffaug.training.batches import StepBatches
from diffaug.training.devices import start_fabric
from diffaug.training.step import Objective

NETWORK = ("forward and loss", "backward", "optimiser")
PARTS = (*NETWORK, "data", "EMA", "clipping", "validation", "preview", "checkpoint")
PEAK_SHAPES = ((2, 32, 32), (2, 64, 24), (2, 128, 16), (2, 256, 12))  # batch, channels, edge
NATIVE_BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # emulated, a step takes minutes
LEARNING_RATE = 1e-4  # of steps whose result nobody uses
Step = Callable[[Any, float], object]


@dataclass(frozen=True)
class Profile:
    """What was measured of a fit.

    Attributes:
        steps: Steps made.
        seconds: Of the whole fit, without what ran beside it.
        parts: Seconds of each part; the rest is logging, progress and moving data.
        beside: Seconds of every run of what ran beside it, by name.
    """

    steps: int
    seconds: float
    parts: dict[str, float]
    beside: dict[str, list[float]]

    @property
    def step(self) -> float:
        """Seconds per step, all that belongs to a fit included."""
        return self.seconds / self.steps

    @property
    def overhead(self) -> float:
        """Share of a step that is not network: neither forward, loss, backward nor optimiser."""
        return 1 - sum(self.parts[part] for part in NETWORK) / self.seconds


class _Watched:
    """An objective whose parts are measured; between its steps other things run."""

    watch = None  # the fit has all of its steps

    def __init__(self, objective: Objective, stopwatch: Stopwatch, beside: Mapping[str, Step], every: int) -> None:
        self.objective = objective
        self.stopwatch = stopwatch
        self.beside = beside
        self.every = every
        self.step = 0
        self.networks = objective.networks
        self.averaged = objective.averaged

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        made = self.objective.optimizers(learning_rate)
        for optimizer in made.values():
            optimizer.step = self.stopwatch.wrapped("optimiser", optimizer.step)  # type: ignore[method-assign]
        return made

    def losses(self, batch: Any, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        if self.step % self.every == 0:
            for name, run in self.beside.items():
                with self.stopwatch.measure(name, closed=True):
                    run(batch, progress)
        self.step += 1
        items = self.objective.losses(batch, progress)
        while True:
            with self.stopwatch.measure("forward and loss"):
                item = next(items, None)
            if item is None:
                return
            yield item

    def validate(self, average: nn.Module | None) -> dict[str, float]:
        with self.stopwatch.measure("validation"):
            return self.objective.validate(average)

    def preview(self, file: Path, average: nn.Module | None) -> None:
        with self.stopwatch.measure("preview"):
            self.objective.preview(file, average)


def bare_step(
    objective: Objective, *, layout: torch.memory_format = torch.channels_last_3d, compiled: bool = False
) -> Step:
    """Make the step of the bare network: forward, loss, backward, optimiser, on a copy of the objective.

    Args:
        objective: The objective.
        layout: Of the weights in memory; the library's loop uses `channels_last_3d`.
        compiled: Whether to use `torch.compile`.

    Returns:
        A function of batch and progress.
    """
    twin = copy.deepcopy(objective)
    for network in twin.networks.values():
        network.train().to(memory_format=layout)  # type: ignore[call-overload]
        if compiled:
            network.compile()
    optimizers = twin.optimizers(LEARNING_RATE)

    def step(batch: Any, progress: float) -> None:
        for name, loss, _ in twin.losses(batch, progress):
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()

    return step


def profile_fit(
    objective: Objective,
    training: Training,
    folder: Path,
    beside: Mapping[str, Step],
    *,
    every: int = 1,
    whole: int | None = None,
) -> Profile:
    """Fit through the library's own loop and measure its parts, other steps in between.

    Args:
        objective: What to fit, with the method `example`.
        training: For how long.
        folder: Where its files go.
        beside: What runs before a step, given its batch and progress, by name; its time does not count for the fit.
        every: How many steps lie between two of these.
        whole: Steps of a whole fit, where this one is shorter: validations, previews and checkpoints then come after as
            many steps as in a whole one.

    Returns:
        What was measured.
    """
    stopwatch = Stopwatch()
    seams = [
        (_BaseDataLoaderIter, "__next__", "data"),
        (AveragedModel, "update_parameters", "EMA"),
        (nn.utils, "clip_grad_norm_", "clipping"),
        (Tensor, "backward", "backward"),
        (torch, "save", "checkpoint"),
    ]
    draw = objective.example  # type: ignore[attr-defined]
    batch = StepBatches(draw, steps=1, batch_size=training.batch_size, seed=0, rank=0, world_size=1)[0]
    for run in beside.values():
        run(batch, 0.0)
    watched = _Watched(objective, stopwatch, beside, every)
    fabric = start_fabric("cpu")
    start = time.perf_counter()
    share = training.steps / (whole or training.steps)
    often = {name: max(1, round(getattr(loop, name) * share)) for name in ("LOGS", "VALIDATIONS")}
    with stopwatch.attached(seams), mock.patch.multiple(loop, **often):
        loop.train(
            watched,
            draw,
            training,
            fabric=fabric,
            folder=folder,
            name="profiled",
            identity=None,
        )
    spent = time.perf_counter() - start
    others = {name: stopwatch.times[name] for name in beside}
    parts = {part: sum(stopwatch.times[part]) for part in PARTS}
    return Profile(training.steps, spent - sum(map(sum, others.values())), parts, others)


def peaks(rounds: int) -> dict[str, float]:
    """Measure what this machine can compute at best.

    Args:
        rounds: How often; the best counts.

    Returns:
        GFLOP/s of 3D convolutions and of matrix products, in float32, and in bfloat16 where the processor has it.
    """
    found = {}
    for kind in (torch.float32, torch.bfloat16) if NATIVE_BFLOAT16 else (torch.float32,):
        matrix = torch.randn(1536, 1536, dtype=kind)
        runs: dict[str, Callable[[], object]] = {"matrix": partial(torch.matmul, matrix, matrix)}
        for batch, channels, edge in PEAK_SHAPES:
            convolution = nn.Conv3d(channels, channels, 3, padding=1, dtype=kind)
            volume = torch.randn(batch, channels, edge, edge, edge, dtype=kind)
            runs[f"convolution {channels} x {edge}^3"] = partial(convolution, volume)
        with torch.no_grad():
            work = {name: flops(run) for name, run in runs.items()}
            seconds = interleaved(runs, rounds)
        rates = {name: work[name] / min(seconds[name]) / 1e9 for name in runs}
        label = str(kind).removeprefix("torch.")
        found[f"{label} matrix product"] = rates.pop("matrix")
        found[f"{label} 3D convolution"] = max(rates.values())
    return found


def flops(run: Callable[[], object]) -> int:
    """Count floating point operations of convolutions and matrix products, forward and backward.

    Args:
        run: What to count.

    Returns:
        The number.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def variants(objective: Objective, batch: Any, *, compiled: bool) -> dict[str, Callable[[], object]]:
    """Make bare steps in every way torch offers to make them faster.

    Args:
        objective: The objective.
        batch: What every step gets.
        compiled: Whether to try `torch.compile` too, which takes minutes on a CPU.

    Returns:
        Steps without arguments, by name; the first is the plain one.
    """

    def make(context: Callable[[], AbstractContextManager[Any]], **options: Any) -> Callable[[], object]:
        step = bare_step(objective, **options)

        def run() -> None:
            with context():
                step(batch, 0.0)

        return run

    def half() -> AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    plain, last = torch.contiguous_format, torch.channels_last_3d
    made = {
        "float32": make(nullcontext, layout=plain),
        "channels_last_3d": make(nullcontext, layout=last),
    }
    if NATIVE_BFLOAT16:
        made["bfloat16 autocast"] = make(half, layout=plain)
        made["bfloat16 autocast, channels_last_3d"] = make(half, layout=last)
    if compiled:
        made["torch.compile"] = make(nullcontext, layout=plain, compiled=True)
        if NATIVE_BFLOAT16:
            made["torch.compile, bfloat16 autocast"] = make(half, layout=plain, compiled=True)
    return made
