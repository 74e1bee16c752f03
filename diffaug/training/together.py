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

# rank, number of processes and seed of a step while it is made; whatever is done beside steps, each process does alone
_share: ContextVar[tuple[int, int, int | None]] = ContextVar("share", default=(0, 1, None))
_generators: ContextVar[dict[str, torch.Generator]] = ContextVar("generators")


@contextmanager
def step_of(fabric: Fabric, seed: int, step: int) -> Iterator[None]:
    """Seed a step's chance: noise and masks in all processes alike, each keeping the part of its own examples.

    What layers draw for themselves (dropout, dropped paths) comes from torch's own generator, seeded for each process.

    Args:
        fabric: The processes.
        seed: The run's seed.
        step: The step.

    Yields:
        Nothing.
    """
    # zeros at the end make no other sequence
    own, shared = (
        int(np.random.SeedSequence((seed, step, n)).generate_state(1)[0]) for n in (1 + fabric.global_rank, 0)
    )
    torch.manual_seed(own)
    tokens = _share.set((fabric.global_rank, fabric.world_size, shared)), _generators.set({})
    try:
        yield
    finally:
        _share.reset(tokens[0])
        _generators.reset(tokens[1])


def chance(device: torch.device) -> torch.Generator | None:
    """Give what all processes of a step draw from alike.

    Args:
        device: Where.

    Returns:
        The generator; None, for torch's own, beside steps.
    """
    _, _, seed = _share.get()
    if seed is None:
        return None
    generators = _generators.get()
    if str(device) not in generators:
        generators[str(device)] = torch.Generator(device).manual_seed(seed)
    return generators[str(device)]


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
    rank, world, _ = _share.get()
    whole = draw((shape[0] * world, *shape[1:]), device=device, generator=chance(device))
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
