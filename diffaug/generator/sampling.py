"""Candidates for a synthetic set: batches of volumes, each held against the training scans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor

from diffaug.copies.detector import CopyDetector
from diffaug.generator.condition import Condition
from diffaug.scans.windows import Window, paste_extent, refill

Made = tuple[Tensor, list[Window], list[Condition]]

BATCH = 4  # volumes made together; part of what a seed means, so it never depends on the machine


@dataclass(frozen=True)
class Candidate:
    """A volume before it is known whether it may pass.

    Attributes:
        number: Its number among the candidates of its seed.
        volume: `(C, z, y, x)` in [-1, 1], the part of the window that lies in its scan; None where another process has it.
        copy: Whether it is too like a training scan.
        entry: What a manifest says of it: but not whose copy it is, for manifests go where the volumes go.
    """

    number: int
    volume: np.ndarray | None
    copy: bool
    entry: dict[str, Any]


def rounds(
    make: Callable[[Sequence[int]], Made], detector: CopyDetector | None, first: int, fabric: Fabric
) -> Iterator[list[Candidate]]:
    """Make volumes without end, a whole batch in each process at a time.

    A volume depends neither on how many are asked for nor on how many processes share the work.

    Args:
        make: Makes the volumes of some numbers, see `Generator.synthesise`.
        detector: Knows the training scans; None where they are not at hand, and no volume is taken for a copy.
        first: Number of the first one that is wanted.
        fabric: The processes.

    Yields:
        The candidates of a round, in order, in all processes alike; each holds the volumes that it has made.
    """
    start = first // BATCH * BATCH
    while True:
        mine = start + fabric.global_rank * BATCH
        own = _batch(make, detector, range(mine, mine + BATCH))
        told: list[list[Candidate]] = [own] * fabric.world_size
        if fabric.world_size > 1:
            dist.all_gather_object(told, [replace(candidate, volume=None) for candidate in own])
            told[fabric.global_rank] = own
        yield [candidate for each in told for candidate in each if candidate.number >= first]
        start += fabric.world_size * BATCH


def _batch(
    make: Callable[[Sequence[int]], Made], detector: CopyDetector | None, numbers: Sequence[int]
) -> list[Candidate]:
    volumes, windows, conditions = make(numbers)
    insides = [paste_extent(volume, window) for volume, window in zip(volumes.numpy(), windows, strict=True)]
    # judged as the audit will see them, who has but the files
    shown = [refill(inside, window, volumes.shape[2:]) for inside, window in zip(insides, windows, strict=True)]
    judged = detector.judge(torch.from_numpy(np.stack(shown))) if detector else []
    copies = [nearest.copy for nearest in judged] or [False] * len(numbers)
    candidates = []
    for number, inside, window, known, copy in zip(numbers, insides, windows, conditions, copies, strict=True):
        entry = {
            "candidate": number,
            "offset": window.offset,
            "extent": window.extent,
            "condition": known.known(),
            "copy": copy,
        }
        candidates.append(Candidate(number, inside, copy, entry))
    return candidates
