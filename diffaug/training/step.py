"""One training step of what is trained: losses, gradients of all processes, clipping, learning rate, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from diffaug.budgets import Training
from diffaug.training.overfitting import Watch
from diffaug.training.together import step_of

# steps between two blends of the averaged weights: they reach back hundreds, and a blend reads all weights
AVERAGING = 4
Network = TypeVar("Network", bound=nn.Module)


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
        network.to(fabric.device)
        if fabric.world_size > 1:
            _share_weights(network)
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
    report: Callable[[dict[str, Tensor]], None],
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
        report: Is given the losses and figures.

    Returns:
        The norm of each optimiser's gradients, not finite where its loss is not.
    """
    rate = learning_rate_scale(step, training) * training.learning_rate
    norms = []
    with step_of(fabric, training.seed, step), fabric.autocast():
        for name, loss, figures in objective.losses(batch, step / training.steps):
            report({f"{name}_loss": loss.detach(), **figures})
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


def averaged_network(average: nn.Module | None, kind: type[Network]) -> Network:
    """Take a network out of its running average, ready for use.

    Args:
        average: What objectives are given, and `train` returns.
        kind: What it is an average of.

    Returns:
        The network with averaged weights.
    """
    network = getattr(average, "module", None)
    assert isinstance(network, kind)
    return network.eval()


class Unwatched:
    """The part of an objective that is only trained: nothing is averaged, measured or drawn meanwhile."""

    averaged: str | None = None
    watch: Watch | None = None

    def validate(self, average: nn.Module | None) -> dict[str, float]:
        """Measure nothing.

        Args:
            average: Not used.

        Returns:
            Nothing.
        """
        return {}

    def preview(self, file: Path, average: nn.Module | None) -> None:
        """Draw nothing.

        Args:
            file: Not used.
            average: Not used.
        """


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
