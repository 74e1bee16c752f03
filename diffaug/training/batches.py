"""Training examples as pure functions of seed and step: what makes a resumed run equal an unbroken one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, default_collate

from diffaug.errors import DiffaugError

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


class _Told(Dataset[Any]):
    """The same batches; complaints are handed over, for one raised in another process arrives with a traceback in it."""

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Any:
        try:
            return self.batches[step]
        except DiffaugError as error:
            return error


def loader(batches: StepBatches, *, start: int, workers: int, pin: bool) -> Iterator[Any]:
    """Go through the batches from a given step on.

    Args:
        batches: The batches.
        start: First step.
        workers: Number of loading processes; 0 loads in this one.
        pin: Whether to pin memory for the copy to a GPU.

    Yields:
        One batch per step.

    Raises:
        DiffaugError: As the example raised it, in whichever process, or if one of these was killed.
    """
    data = DataLoader(
        _Told(batches),
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        # Python 3.14 would pickle the example instead, and with it networks that cannot be pickled
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )
    try:
        for batch in data:
            if isinstance(batch, DiffaugError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DiffaugError(
            f"a data loading process was killed ({str(error).splitlines()[0]}), expected {workers} of them to have memory; "
            "free some, or give a container more shared memory (docker run --ipc=host), and run the same command again"
        ) from error
