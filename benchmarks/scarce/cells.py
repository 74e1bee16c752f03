"""Cells: data set x arm x number of labels x seed, one JSON file each. A folder of them is a result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from diffaug.workspace import read_json, write_json

RESULTS = Path(__file__).parents[1] / "results" / "scarce_labels"


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        data: Name of the data set.
        arm: Name of the arm.
        labelled: Number of labelled cases.
        seed: Of the draw and of the training.
    """

    data: str
    arm: str
    labelled: int
    seed: int

    def file(self, folder: Path) -> Path:
        """Tell where its result lies."""
        return folder / self.data / self.arm / f"{self.labelled}_{self.seed}.json"


def unfinished(cells: Iterable[Cell], folder: Path) -> Iterator[Cell]:
    """Give the cells that nobody has finished or is at work on; each is locked while its turn lasts.

    Several processes may share a folder.

    Args:
        cells: What is wanted, in order.
        folder: Where results lie.

    Yields:
        A cell to run now.
    """
    for cell in cells:
        file = cell.file(folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file.with_suffix(".lock"))
        try:
            with lock.acquire(blocking=False):
                if not file.is_file():
                    yield cell
        except Timeout:
            continue


def save(cell: Cell, result: dict[str, Any], folder: Path) -> None:
    """Write a finished cell.

    Args:
        cell: The cell.
        result: Scores, settings, versions, machine, seconds.
        folder: Where results lie.
    """
    rounded = json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 5))
    write_json(cell.file(folder), {**vars(cell), **rounded})
    cell.file(folder).with_suffix(".lock").unlink(missing_ok=True)


def collect(folder: Path, data: str, figure: str = "dice") -> pd.DataFrame:
    """Read all finished cells of a data set.

    Args:
        folder: Where results lie; results of several machines may be copied into one.
        data: Name of the data set.
        figure: `dice`, `nsd` or `hd95`.

    Returns:
        Columns `arm`, `labelled`, `seed`, `case` and `value`, the mean over labels.
    """
    rows = []
    for file in sorted((folder / data).glob("*/*.json")):
        cell = read_json(file, "delete it, the cell is then run again")
        for case, labels in cell["scores"].items():
            values = [label[figure] for label in labels.values()]
            rows.append((cell["arm"], cell["labelled"], cell["seed"], case, sum(values) / len(values)))
    return pd.DataFrame(rows, columns=["arm", "labelled", "seed", "case", "value"])
