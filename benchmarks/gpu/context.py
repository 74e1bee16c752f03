"""What every part is given: where its results go, how large it is, how long it has."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.record import record
from benchmarks.gpu.sizes import Sizes


@dataclass(frozen=True)
class Context:
    """A part's surroundings.

    Attributes:
        part: Its name.
        out: The folder of results.
        work: A folder that all parts share and that is gone afterwards.
        sizes: How large the parts are.
        seconds: The part's share of the time.
        started: When it began.
    """

    part: str
    out: Path
    work: Path
    sizes: Sizes
    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> torch.device:
        """The GPU, where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def left(self) -> float:
        """Seconds that are left of its share."""
        return self.started + self.seconds - time.monotonic()

    def record(self, **figures: Any) -> None:
        """Put figures on disk."""
        record(self.out, self.part, **figures)
        print(figures, flush=True)


def finish(device: torch.device) -> float:
    """Wait until the GPU has done what it was asked for, and tell the time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forget_peak(device: torch.device) -> None:
    """Free what nobody uses, and begin to look for the peak of memory anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> dict[str, float]:
    """Tell the peak of GPU memory.

    Args:
        device: Where it was measured.

    Returns:
        In GB (2^30 bytes) `allocated`, what tensors took, and `reserved`, what torch held; empty on a CPU.
    """
    if device.type != "cuda":
        return {}
    counts = {"allocated": torch.cuda.max_memory_allocated(device), "reserved": torch.cuda.max_memory_reserved(device)}
    return {f"{name}_gb": round(count / 2**30, 2) for name, count in counts.items()}
