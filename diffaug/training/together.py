"""What processes share: a step's chance and means, which are of the whole batch, and work that falls into items.

So their number changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

# rank and number of processes while a step is made; whatever is done beside steps, each process does alone
_share: ContextVar[tuple[int, int]] = ContextVar("share", default=(0, 1))


@contextmanager
def step_of(fabric: Fabric, seed: int, step: int) -> Iterator[None]:
    """Seed a step's chance (noise, masks), in all processes alike; each then keeps the part of its own examples.

    Args:
        fabric: The processes.
        seed: The run's seed.
        step: The step.

    Yields:
        Nothing.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step, 0)).generate_state(1)[0]))
    token = _share.set((fabric.global_rank, fabric.world_size))
    try:
        yield
    finally:
        _share.reset(token)


def normal(shape: Sequence[int], device: torch.device) -> Tensor:
    """Draw from the unit normal distribution.

    Args:
        shape: Of this process' share of the batch: examples first.
        device: Where.

    Returns:
        As large.
    """
    return _own(torch.randn, shape, device)


def uniform(shape: Sequence[int], device: torch.device) -> Tensor:
    """Draw between 0 and 1.

    Args:
        shape: Of this process' share of the batch: examples first.
        device: Where.

    Returns:
        As large.
    """
    return _own(torch.rand, shape, device)


def _own(draw: Callable[..., Tensor], shape: Sequence[int], device: torch.device) -> Tensor:
    rank, world = _share.get()
    whole = draw((shape[0] * world, *shape[1:]), device=device)
    return whole[rank * shape[0] : (rank + 1) * shape[0]]


def changed_each(volumes: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change volumes one by one, each by chance of its own, however much of it a change may need.

    Args:
        volumes: This process' share of the batch, `(B, C, Z, Y, X)`.
        change: From `(C, Z, Y, X)` to the same; draws with torch.

    Returns:
        As many.
    """
    seeds = (uniform((len(volumes),), torch.device("cpu")) * 2**24).long().tolist()
    cuda = [volumes.device] if volumes.device.type == "cuda" else []
    changed = []
    with torch.random.fork_rng(cuda):
        for volume, seed in zip(volumes, seeds, strict=True):
            torch.manual_seed(seed)
            changed.append(change(volume))
    return torch.stack(changed)


def total(tensor: Tensor) -> Tensor:
    """Add up over the processes of a step.

    Args:
        tensor: This process' part; no gradient flows.

    Returns:
        The sum.
    """
    tensor = tensor.detach().clone()
    if _share.get()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def own_places(count: int) -> range:
    """Tell where this process' share lies in what all processes have.

    Args:
        count: Of each process.

    Returns:
        The places.
    """
    rank = _share.get()[0]
    return range(rank * count, (rank + 1) * count)


def processes() -> int:
    """Tell how many processes make this step."""
    return _share.get()[1]


def shared_out(items: Sequence[Item], do: Callable[[Sequence[Item]], Sequence[Result]], fabric: Fabric) -> list[Result]:
    """Share items out among processes.

    Args:
        items: The items, the same in all processes.
        do: Gives the results of some of them.
        fabric: The processes.

    Returns:
        The results of all items, in order, in all processes.
    """
    world = fabric.world_size
    own = list(do(items[fabric.global_rank :: world]))
    if world == 1:
        return own
    told: list[list[Result]] = [[]] * world
    dist.all_gather_object(told, own)
    return [told[place % world][place // world] for place in range(len(items))]
