"""Training examples as pure functions of seed and step: what makes a resumed run equal an unbroken one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

Example = Callable[[np.random.Generator], Any]


class StepBatches(Dataset[Any]):
    """Batch number `step`, drawn from generators seeded with (seed, step, place in the batch) and nothing else.

    So neither the number of workers nor of processes nor an interruption changes what a step sees; each process makes
    only its own share of the batch.
    """

    def __init__(self, example: Example, *, steps: int, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.example = example
        self.steps = steps
        self.seed = seed
        share = batch_size // world_size
        self.places = range(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        return default_collate([self.example(np.random.default_rng((self.seed, step, place))) for place in self.places])


def loader(batches: StepBatches, *, start: int, workers: int, pin: bool) -> DataLoader[Any]:
    """Go through the batches from a given step on.

    Args:
        batches: The batches.
        start: First step.
        workers: Number of loading processes; 0 loads in this one.
        pin: Whether to pin memory for the copy to a GPU.

    Returns:
        A loader that yields one batch per step.
    """
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's own randomness (noise, masks, dropout) for one step.

    Args:
        seed: The run's seed.
        step: The step.
        rank: This process's rank.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))
