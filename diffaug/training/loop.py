"""The one training loop that all three fits share: devices, EMA, clipping, checkpoints, resume, progress, log."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from diffaug.budgets import Training
from diffaug.errors import DiffaugError
from diffaug.training.batches import Example, StepBatches, loader, seed_step
from diffaug.training.overfitting import Turn, Watch, find_turn
from diffaug.workspace import atomic_path, fingerprint

LOGS = 100  # lines in the log per run, and checkpoints at most
SAVING = 0.005  # share of the time that checkpoints may take
AVERAGING = (
    4  # steps between two blends of the averaged weights: they reach back hundreds, and a blend reads all weights
)
VALIDATIONS = 10  # per run; each costs about as much as ten steps


class Objective(Protocol):
    """What is trained, and towards what."""

    networks: dict[str, nn.Module]
    """All networks, by name; their weights and buffers are the state."""

    averaged: str | None
    """The network whose weights are averaged, if any."""

    watch: Watch | None
    """What ends the fit early; None where only the number of steps does."""

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimisers, by name."""

    def losses(self, batch: Any, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield (optimiser, loss, figures) one after another; each is stepped before the next is asked for.

        `progress` is the share of the training that is done, 0 to 1.
        """

    def validate(self, average: nn.Module | None) -> dict[str, float]:
        """Measure held-out data; `average` is the averaged network, if any."""

    def preview(self, file: Path, average: nn.Module | None) -> None:
        """Draw a picture of the state of things."""


def learning_rate_scale(step: int, training: Training) -> float:
    """Tell what share of the peak learning rate a step has: a pure function, so that resuming needs no scheduler state.

    Args:
        step: The step, from 0.
        training: The settings.

    Returns:
        A number in (0, 1].
    """
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    rest = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))


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
    """Train to the end or to the turn, going on where a stopped run left off.

    Args:
        objective: What to train; its networks hold the final weights afterwards.
        example: Draws one training example from a generator.
        training: The settings.
        fabric: Device, precision, processes.
        folder: Where checkpoint, log and previews go.
        name: Name of the fit, part of the file names.
        identity: Everything the result depends on; a checkpoint with another identity is refused.

    Returns:
        The averaged network, or None. Where the objective watches for a turn, its weights are the last before it.

    Raises:
        DiffaugError: If a loss is not finite, a checkpoint is broken or belongs to other settings, or the batch does
            not divide among the processes.
    """
    require_shares(training, fabric, name)
    optimizers, average = set_up(objective, training, fabric)
    state = _State(folder / f"{name}.state.pt", fingerprint([asdict(training), identity]))
    step = state.load(objective, optimizers, average)
    log = _Log(folder / "log.jsonl", name, step, enabled=fabric.is_global_zero)
    every = max(1, training.steps // LOGS)
    turn = find_turn(state.history, objective.watch) if objective.watch and state.history else Turn(0, False, "")
    batches = StepBatches(
        example,
        steps=training.steps,
        batch_size=training.batch_size,
        seed=training.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    data = loader(batches, start=step, workers=training.workers, pin=fabric.device.type == "cuda")
    finite = torch.ones((), dtype=torch.bool, device=fabric.device)
    with _progress(name, step, training.steps, enabled=fabric.is_global_zero) as bar:
        for step, batch in enumerate(data, start=step):  # noqa: B020 (goes on counting from the resumed step)
            if turn.stop:
                break
            norms = take_step(objective, fabric.to_device(batch), step, training, fabric, optimizers, average, log.add)
            finite &= torch.stack(norms).isfinite().all()  # of all processes together
            bar.update()
            done = step + 1
            if done % every == 0 or done == training.steps:
                if not finite:  # looked at here alone: every look waits for the GPU
                    raise DiffaugError(
                        f"{folder}: loss or gradient of the {name} is not finite at step {done}, expected numbers; the "
                        "checkpoint before it is kept; lower learning_rate in the plan and start anew with --fresh"
                    )
                if done % (every * (LOGS // VALIDATIONS)) == 0 or done == training.steps:
                    # of one process: a turn must be seen by all of them or by none
                    measured = fabric.broadcast(objective.validate(average))
                    log.add(measured)
                    if objective.watch:
                        turn = state.remember({"step": done, **measured}, objective.watch, average)
                    if fabric.is_global_zero:
                        objective.preview(folder / f"{name}.png", average)
                bar.set_postfix_str(log.write(done), refresh=False)
                if fabric.is_global_zero and (state.due() or turn.stop or done == training.steps):
                    state.save(done, objective, optimizers, average)
    if objective.watch and average is not None:
        average.load_state_dict(state.best)
        kept = state.history[turn.best]["step"]
        why = f", stopped because {turn.why} got worse" if turn.stop else ""
        fabric.print(f"{name}: weights of step {kept} of {training.steps} kept{why}")
    return average


def set_up(
    objective: Objective, training: Training, fabric: Fabric
) -> tuple[dict[str, Optimizer], AveragedModel | None]:
    """Bring an objective to where it is trained.

    Args:
        objective: What to train.
        training: The settings.
        fabric: Device, precision, processes.

    Returns:
        The optimisers by name, and the averaged network, if any.
    """
    for network in objective.networks.values():
        _share_weights(network.to(fabric.device))
        # channels last: a tenth to a fifth faster for the autoencoder on a CPU, nothing lost for the others there, and
        # what bfloat16 convolutions want on a GPU
        network.to(memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    return objective.optimizers(training.learning_rate), _average(objective, training)


def take_step(
    objective: Objective,
    batch: Any,
    step: int,
    training: Training,
    fabric: Fabric,
    optimizers: dict[str, Optimizer],
    average: AveragedModel | None,
    told: Callable[[dict[str, Tensor]], None],
) -> list[Tensor]:
    """Make one step with all optimisers.

    Args:
        objective: What is trained.
        batch: On the device.
        step: Number of the step, from 0.
        training: The settings.
        fabric: Device, precision, processes.
        optimizers: By name.
        average: The averaged network, if any.
        told: Is given the losses and figures.

    Returns:
        The norm of each optimiser's gradients, not finite where its loss is not.
    """
    seed_step(training.seed, step, fabric.global_rank)
    rate = learning_rate_scale(step, training) * training.learning_rate
    norms = []
    with fabric.autocast():
        for name, loss, figures in objective.losses(batch, step / training.steps):
            told({f"{name}_loss": loss.detach(), **figures})
            norms.append(_update(optimizers[name], loss, rate, training, fabric))
    if average is not None and step % AVERAGING == 0:
        average.update_parameters(objective.networks[objective.averaged or ""])
    return norms


def _update(optimizer: Optimizer, loss: Tensor, rate: float, training: Training, fabric: Fabric) -> Tensor:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad()
    with torch.autocast(fabric.device.type, enabled=False):  # the way back takes the way there's own precision
        loss.backward()
    if fabric.world_size > 1:
        _average_gradients(parameters, fabric)
    norm = nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return norm


def _average_gradients(parameters: list[nn.Parameter], fabric: Fabric) -> None:
    """Average over processes in one message. Plain modules stay plain, so objectives may call any of their methods."""
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = fabric.all_reduce(torch.cat([g.flatten() for g in grads]), reduce_op="mean")
    assert isinstance(flat, Tensor)
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def _share_weights(network: nn.Module) -> None:
    if dist.is_initialized():
        for tensor in (*network.parameters(), *network.buffers()):
            dist.broadcast(tensor.data, 0)


def _average(objective: Objective, training: Training) -> AveragedModel | None:
    if objective.averaged is None or training.ema_decay is None:
        return None
    most = training.ema_decay**AVERAGING

    def blend(averages: Any, currents: Any, count: Any) -> None:
        decay = min(most, (1 + int(count)) / (10 + int(count)))  # short memory at first, when weights move fast
        torch._foreach_lerp_(averages, currents, 1 - decay)

    return AveragedModel(objective.networks[objective.averaged], multi_avg_fn=blend)


class _State:
    """The resumable state: weights, buffers, optimisers, average, step. Randomness needs none, see `batches`."""

    def __init__(self, file: Path, identity: str) -> None:
        self.file = file
        self.identity = identity
        self.history: list[dict[str, float]] = []  # figures of every validation
        self.best: dict[str, Tensor] = {}  # averaged weights of the best of them
        self.saved, self.cost = 0.0, 0.0  # when the last checkpoint was written, and how many seconds it took

    def due(self) -> bool:
        """Tell whether enough time has gone by for another checkpoint to be cheap."""
        return self.cost <= SAVING * (time.monotonic() - self.saved)

    def remember(self, figures: dict[str, float], watch: Watch, average: nn.Module | None) -> Turn:
        """Add a validation, and keep the averaged weights if it is the best so far."""
        self.history.append(figures)
        turn = find_turn(self.history, watch)
        if turn.best == len(self.history) - 1 and average is not None:
            self.best = {key: value.detach().clone() for key, value in average.state_dict().items()}
        return turn

    def save(
        self, step: int, objective: Objective, optimizers: dict[str, Optimizer], average: nn.Module | None
    ) -> None:
        content = {
            "identity": self.identity,
            "step": step,
            "networks": {name: network.state_dict() for name, network in objective.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
            "average": average.state_dict() if average is not None else None,
            "history": self.history,
            "best": self.best,
        }
        begun = time.monotonic()
        with atomic_path(self.file) as temporary:
            torch.save(content, temporary)
        self.saved = time.monotonic()
        self.cost = self.saved - begun

    def load(self, objective: Objective, optimizers: dict[str, Optimizer], average: nn.Module | None) -> int:
        if not self.file.is_file():
            return 0
        try:
            content = torch.load(self.file, map_location="cpu", weights_only=True)
            identity = content["identity"]
        except Exception as error:  # torch raises many kinds for a broken file
            raise DiffaugError(
                f"{self.file}: not a whole checkpoint ({type(error).__name__}), expected one of diffaug's; delete it "
                "to start this fit anew"
            ) from error
        if identity != self.identity:
            raise DiffaugError(
                f"{self.file}: belongs to other settings or data, expected those of this run; run with --fresh to "
                "discard it, or restore the plan"
            )
        for name, network in objective.networks.items():
            network.load_state_dict(content["networks"][name])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(content["optimizers"][name])
        if average is not None:
            average.load_state_dict(content["average"])
        self.history, self.best = content["history"], content["best"]
        return int(content["step"])


class _Log:
    """`log.jsonl`: one line of mean figures each interval; a resumed run first drops lines beyond its checkpoint."""

    def __init__(self, file: Path, name: str, step: int, *, enabled: bool) -> None:
        self.file = file
        self.name = name
        self.enabled = enabled
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}
        self.started = time.monotonic()
        if enabled and file.is_file():
            kept = [line for line in read_log(file) if line["fit"] != name or line["step"] <= step]
            with atomic_path(file) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def add(self, figures: dict[str, Tensor] | dict[str, float]) -> None:
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def write(self, step: int) -> str:
        means = {name: round(float(value) / self.counts[name], 6) for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        if self.enabled:
            line = {"fit": self.name, "step": step, **means, "seconds": round(time.monotonic() - self.started, 1)}
            with self.file.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return " ".join(f"{name}={value:.3g}" for name, value in list(means.items())[:4])


def read_log(file: Path) -> list[dict[str, Any]]:
    """Read a `log.jsonl`; a line that a killed run left half-written is passed over.

    Args:
        file: The log.

    Returns:
        One dictionary per line: `fit`, `step`, figures, `seconds`.
    """
    lines = []
    for line in file.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def _progress(name: str, step: int, steps: int, *, enabled: bool) -> tqdm[Any]:
    # on a terminal a live bar, in a file a line now and then; both with the time that is left
    quiet = 0.5 if sys.stderr.isatty() else 20
    return tqdm(total=steps, initial=step, desc=name, unit="step", mininterval=quiet, disable=not enabled, ascii=True)
