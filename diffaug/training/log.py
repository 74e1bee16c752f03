"""`log.jsonl`, a line of mean figures each interval, and the progress bar."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from diffaug.files import atomic_path


class Log:
    """`log.jsonl`: one line of mean figures each interval; a resumed run first drops lines beyond its checkpoint."""

    def __init__(self, file: Path, name: str, step: int, fabric: Fabric) -> None:
        self.fabric, enabled = fabric, fabric.is_global_zero
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
        """Take figures into the means of this interval."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def write(self, step: int) -> str:
        """Write the interval's line, and give its first figures for the progress bar."""
        means = self._means()
        self.sums, self.counts = {}, {}
        if self.enabled:
            line = {"fit": self.name, "step": step, **means, "seconds": round(time.monotonic() - self.started, 1)}
            with self.file.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return " ".join(f"{name}={value:.3g}" for name, value in list(means.items())[:4])

    def _means(self) -> dict[str, float]:
        """Take the means of all processes, whose parts of a batch are equally large."""
        mine = torch.tensor(
            [float(value) / self.counts[name] for name, value in self.sums.items()], dtype=torch.float64
        )
        means = self.fabric.all_reduce(mine.to(self.fabric.device), reduce_op="mean")
        assert isinstance(means, Tensor)
        return {name: round(value, 6) for name, value in zip(self.sums, means.tolist(), strict=True)}


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


def progress_bar(name: str, step: int, steps: int, *, enabled: bool) -> tqdm[Any]:
    """Show progress with the time that is left.

    Args:
        name: Of the fit.
        step: Where it begins.
        steps: Where it ends.
        enabled: Whether this process shows it.

    Returns:
        The bar.
    """
    # on a terminal a live bar, in a file a line now and then; both with the time that is left
    quiet = 0.5 if sys.stderr.isatty() else 20
    return tqdm(total=steps, initial=step, desc=name, unit="step", mininterval=quiet, disable=not enabled, ascii=True)
