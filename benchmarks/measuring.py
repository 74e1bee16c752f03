"""Timing side by side: interleaved runs, paired ratios, a stopwatch for the parts of a step, and the report's tables."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest import mock

import torch

PACKAGES = ("diffaug", "torch", "monai", "nnunetv2", "lightning-fabric", "numpy")


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time every contender once per round, A B C A B C, after one run of each that does not count.

    Whatever else the machine does then falls on all of them alike.

    Args:
        runs: What to time, by name.
        rounds: How often.

    Returns:
        Seconds of each round, by name.
    """
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Compare two contenders round by round.

    Args:
        slow: Figures of the one.
        fast: Figures of the other, of the same rounds.

    Returns:
        Median, smallest and largest of the rounds' ratios.
    """
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return statistics.median(each), min(each), max(each)


def times(value: tuple[float, float, float]) -> str:
    """Write a ratio.

    Args:
        value: Median, smallest, largest.

    Returns:
        For example `12.3x (11.9 to 12.8)`.
    """
    return "{:.3g}x ({:.3g} to {:.3g})".format(*value)


class Stopwatch:
    """Seconds of the parts of a run. What is measured inside another part counts for the inner one only."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)
        self._inside: list[float] = []
        self._closed = False

    @contextmanager
    def measure(self, part: str, *, closed: bool = False) -> Iterator[None]:
        """Measure a block of code.

        Args:
            part: Its name.
            closed: Whether nothing inside counts for another part.

        Yields:
            Nothing.
        """
        if self._closed:
            yield
            return
        self._closed = closed
        self._inside.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.times[part].append(spent - self._inside.pop())
            self._closed = False
            if self._inside:
                self._inside[-1] += spent

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function that is measured at every call.

        Args:
            part: Its name.
            function: The function.

        Returns:
            One that does the same.
        """

        def measured(*arguments: Any, **options: Any) -> Any:
            with self.measure(part):
                return function(*arguments, **options)

        return measured

    @contextmanager
    def attached(self, seams: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
        """Measure functions of other modules for a while.

        Args:
            seams: Each the owner, the function's name there, and the part it counts for.

        Yields:
            Nothing.
        """
        with ExitStack() as stack:
            for owner, attribute, part in seams:
                stack.enter_context(mock.patch.object(owner, attribute, self.wrapped(part, getattr(owner, attribute))))
            yield


def machine() -> dict[str, Any]:
    """Say what this ran on, without names or paths.

    Returns:
        Processor, GPU where there is one, cores, threads, date and versions.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "processor": models[0] if models else platform.machine(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        **({"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load before": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # imported from a folder
        return "not installed"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a Markdown table.

    Args:
        rows: Cells by column; the first row's columns are the table's.

    Returns:
        The text.
    """
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_report(file: Path, title: str, about: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the report as Markdown, and all figures into `figures.json` beside it.

    Args:
        file: The Markdown file.
        title: Its heading.
        about: Command, machine, versions.
        sections: By heading: `text`, `rows` for the table and `figures` for the JSON.
    """
    parts = [f"# {title}", "\n".join(f"* {key}: {value}" for key, value in about.items())]
    for heading, section in sections.items():
        parts += [f"## {heading}", section["text"], table(section["rows"])]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join(parts) + "\n")
    content = {"about": dict(about), **{heading: dict(section) for heading, section in sections.items()}}
    keep_figures(file, content)


def keep_figures(file: Path, content: Any) -> None:
    """Put a report's figures into `figures.json` beside it, which holds those of all reports there by name.

    Args:
        file: The report.
        content: Anything `json` can write.
    """
    kept = file.with_name("figures.json")
    figures = json.loads(kept.read_text()) if kept.is_file() else {}
    kept.write_text(json.dumps({**figures, file.stem: content}, indent=1, sort_keys=True) + "\n")
