"""Candidates for a synthetic set: batches of volumes, each held against the training scans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diffaug.copies.detector import CopyDetector
from diffaug.generator.condition import Condition
from diffaug.generator.model import Generator
from diffaug.scans.windows import paste_extent, refill

BATCH = 4  # volumes made together; part of what a seed means, so it never depends on the machine


@dataclass(frozen=True)
class Candidate:
    """A volume before it is known whether it may pass.

    Attributes:
        number: Its number among the candidates of its seed.
        volume: `(C, z, y, x)` in [-1, 1], the part of the window that lies in its scan.
        copy: Whether it is too like a training scan.
        entry: What a manifest says of it: but not whose copy it is, for manifests go where the volumes go.
    """

    number: int
    volume: np.ndarray
    copy: bool
    entry: dict[str, Any]


def candidates(
    generator: Generator,
    detector: CopyDetector | None,
    seed: int,
    first: int,
    *,
    sampler: str,
    steps: int | None,
    condition: Condition,
    guidance: float,
    residual_noise: bool,
) -> Iterator[Candidate]:
    """Make volumes without end, whole batches at a time, so that a volume does not depend on how many are asked for.

    Args:
        generator: The generator.
        detector: Knows the training scans; None where they are not at hand, and no volume is taken for a copy.
        seed: Of the set.
        first: Number of the first one that is wanted.
        sampler: A key of `diffaug.generator.samplers.SAMPLERS`.
        steps: Number of steps; None for the sampler's default.
        condition: What all volumes shall be alike in.
        guidance: Weight of the conditions.
        residual_noise: Whether volumes get the residual noise of scans.

    Yields:
        The candidates in order.
    """
    start = first // BATCH * BATCH
    while True:
        numbers = range(start, start + BATCH)
        volumes, windows, conditions = generator.synthesise(
            seed,
            numbers,
            sampler=sampler,
            steps=steps,
            wanted=condition,
            guidance=guidance,
            residual_noise=residual_noise,
        )
        insides = [paste_extent(volume, window) for volume, window in zip(volumes.numpy(), windows, strict=True)]
        # judged as the audit will see them, who has but the files
        shape = generator.plan.grid.shape
        shown = [refill(inside, window, shape) for inside, window in zip(insides, windows, strict=True)]
        judged = detector.judge(torch.from_numpy(np.stack(shown))) if detector else []
        copies = [nearest.copy for nearest in judged] or [False] * BATCH
        for number, inside, window, known, copy in zip(numbers, insides, windows, conditions, copies, strict=True):
            entry = {
                "candidate": number,
                "offset": window.offset,
                "extent": window.extent,
                "condition": known.known(),
                "copy": copy,
            }
            if number >= first:
                yield Candidate(number, inside, copy, entry)
        start += BATCH
