"""The one training loop that all fits share: batches, steps, validation, the onset of overfitting, checkpoints, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from diffaug.budgets import Training
from diffaug.errors import DiffaugError
from diffaug.files import fingerprint
from diffaug.stopping import Stopped, at_a_step
from diffaug.training.batches import Example, StepBatches, loader
from diffaug.training.checkpoint import Checkpoint
from diffaug.training.log import Log, progress_bar
from diffaug.training.overfitting import Onset, find_onset
from diffaug.training.step import Objective, set_up, take_step

LOGS = 100  # lines in the log per run, and checkpoints at most
VALIDATIONS = 10  # per run; each costs about as much as ten steps
AGREEMENTS = 10  # steps between two looks of several processes at whether one of them was told to stop


def require_shares(training: Training, fabric: Fabric, name: str) -> None:
    """Require that every process gets an equal share of a batch.

    Args:
        training: The settings.
        fabric: The processes.
        name: Name of the fit.

    Raises:
        DiffaugError: If the batch does not divide among them.
    """
    if training.batch_size % fabric.world_size:
        raise DiffaugError(
            f"{name}: batch size {training.batch_size} does not divide among {fabric.world_size} processes, expected a "
            "multiple; change batch_size in the plan or the number of processes"
        )


def train(
    objective: Objective,
    example: Example,
    training: Training,
    *,
    fabric: Fabric,
    folder: Path,
    name: str,
    identity: Any,
) -> nn.Module | None:
    """Train to the end or to the onset of overfitting, going on where a stopped run left off.

    Args:
        objective: What to train; its networks hold the final weights afterwards.
        example: Draws one training example from a source of randomness.
        training: The settings.
        fabric: Device, precision, processes.
        folder: Where checkpoint, log and previews go.
        name: Name of the fit, part of the file names.
        identity: Everything the result depends on; a checkpoint with another identity is refused.

    Returns:
        The averaged network, or None. Where the objective watches for overfitting, its weights are the last before it.

    Raises:
        DiffaugError: If a loss is not finite, a checkpoint is broken or of other settings, or a batch does not divide.
        Stopped: If a signal told to; there is a checkpoint of the very step.
    """
    require_shares(training, fabric, name)
    optimizers, average = set_up(objective, training, fabric)
    state = Checkpoint(folder / f"{name}.state.pt", fingerprint([asdict(training), identity]))
    step = state.load(objective, optimizers, average)
    log = Log(folder / "log.jsonl", name, step, fabric)
    onset = find_onset(state.history, objective.watch) if objective.watch and state.history else Onset(0, False, "")
    every, data = max(1, training.steps // LOGS), _batches(example, training, fabric, step)
    finite = torch.ones((), dtype=torch.bool, device=fabric.device)
    with progress_bar(name, step, training.steps, enabled=fabric.is_global_zero) as bar, at_a_step() as received:
        for step, batch in enumerate(data, start=step):  # noqa: B020 (goes on counting from the resumed step)
            if onset.stop:
                break
            norms = take_step(objective, fabric.to_device(batch), step, training, fabric, optimizers, average, log.add)
            finite &= torch.stack(norms).isfinite().all()  # of all processes together
            bar.update()
            done = step + 1
            if done % every == 0 or done == training.steps:
                _require_finite(finite, folder, name, done)  # looked at here alone: every look waits for the GPU
                if done % (every * (LOGS // VALIDATIONS)) == 0 or done == training.steps:
                    measured = _measured(objective, average, fabric, folder / f"{name}.png")
                    log.add(measured)
                    if objective.watch:
                        onset = state.remember({"step": done, **measured}, objective.watch, average)
                bar.set_postfix_str(log.write(done), refresh=False)
                if fabric.is_global_zero and (state.due() or onset.stop or done == training.steps):
                    state.save(done, objective, optimizers, average)
            _stop_if_told(received(), finite, done, fabric, partial(state.save, done, objective, optimizers, average))
    if objective.watch and average is not None:
        average.load_state_dict(state.best)
        fabric.print(f"{name}: {_kept(onset, state, training)}")
    return average


def _agreed(number: int | None, step: int, fabric: Fabric) -> int | None:
    """Tell a signal that has come to any of the processes, so that all of them stop at one step."""
    if fabric.world_size == 1:
        return number
    if step % AGREEMENTS:
        return None
    told = fabric.all_reduce(torch.tensor(float(number or 0), device=fabric.device), reduce_op="max")
    return int(told) or None  # type: ignore[arg-type]


def _measured(objective: Objective, average: nn.Module | None, fabric: Fabric, picture: Path) -> dict[str, float]:
    # of one process: an onset must be seen by all of them or by none
    measured: dict[str, float] = fabric.broadcast(objective.validate(average))
    if fabric.is_global_zero:
        objective.preview(picture, average)
    return measured


def _stop_if_told(
    received: int | None, finite: torch.Tensor, step: int, fabric: Fabric, save: Callable[[], None]
) -> None:
    number = _agreed(received, step, fabric)
    if number is None:
        return
    if fabric.is_global_zero and finite:  # else the checkpoint before it is the better one
        save()
    fabric.barrier()
    raise Stopped(number)


def _kept(onset: Onset, state: Checkpoint, training: Training) -> str:
    why = f", stopped because {onset.why} got worse" if onset.stop else ""
    return f"weights of step {state.history[onset.best]['step']} of {training.steps} kept{why}"


def _batches(example: Example, training: Training, fabric: Fabric, start: int) -> Iterable[Any]:
    """Give this process' share of every batch from a step on."""
    batches = StepBatches(
        example,
        steps=training.steps,
        batch_size=training.batch_size,
        seed=training.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    return loader(batches, start=start, workers=training.workers, pin=fabric.device.type == "cuda")


def _require_finite(finite: torch.Tensor, folder: Path, name: str, step: int) -> None:
    if not finite:
        raise DiffaugError(
            f"{folder}: loss or gradient of the {name} is not finite at step {step}, expected numbers; the checkpoint before "
            "it is kept; lower learning_rate in the plan and start anew with --fresh"
        )
