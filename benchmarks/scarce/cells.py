"""Cells: data set x network x arm x number of labels x seed, one JSON file each while they come in, one table afterwards."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from diffaug.files import atomic_path, read_json, write_json

FIGURES = ("dice", "nsd", "hd95")
ABOUT = ("settings", "versions", "machine")
KEY = ("data", "network", "arm", "labelled", "seed")
PAUSE = 5.0  # seconds between two looks at what other processes make
COLUMNS = [*KEY, "case", "label", *FIGURES, "train", "test", "about"]
RESULTS = Path(__file__).parents[1] / "results" / "scarce_labels"


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        data: Name of the data set.
        network: Name of the network.
        arm: Name of the arm.
        labelled: Number of labelled cases.
        seed: Of the draw and of the training.
    """

    data: str
    network: str
    arm: str
    labelled: int
    seed: int

    def file(self, folder: Path) -> Path:
        """Tell where its result lies."""
        return folder / self.data / self.network / in_path(self.arm) / f"{self.labelled}_{self.seed}.json"


def unfinished(
    cells: Iterable[Cell], folder: Path, ready: Callable[[Cell], bool] = lambda cell: True
) -> Iterator[Cell]:
    """Give the cells that nobody has finished or is at work on; each is locked while its turn lasts.

    Several processes may share a folder.

    Args:
        cells: What is wanted, in order.
        folder: Where results lie.
        ready: Makes what a cell needs, or says that another process is at it: its turn then comes later.

    Yields:
        A cell to run now.
    """
    known = finished(folder)
    waiting = [cell for cell in cells if cell not in known]
    while waiting:
        later = []
        for cell in waiting:
            file = cell.file(folder)
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(file.with_suffix(".lock")).acquire(blocking=False):
                    if file.is_file():
                        continue
                    if ready(cell):
                        yield cell
                    else:
                        later.append(cell)
            except Timeout:  # who holds it may be killed
                later.append(cell)
        if later == waiting:
            time.sleep(PAUSE)
        waiting = later


def in_path(name: str) -> str:
    """Write an arm's name so that it can be part of a path."""
    return re.sub(r"[:/]", "-", name)


def finished(folder: Path) -> set[Cell]:
    """Tell which cells have a result.

    Args:
        folder: Where results lie.

    Returns:
        They.
    """
    kept = read_cells(folder)[list(KEY)].drop_duplicates()
    return {Cell(*row) for row in kept.itertuples(index=False)}


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


def table_of(folder: Path) -> Path:
    """Tell where a folder's cells are kept once they are finished: one table in place of hundreds of files.

    Args:
        folder: Of the cells.

    Returns:
        The table beside it.
    """
    return folder.with_name(f"{folder.name}.csv.gz")


def read_cells(folder: Path, files: Sequence[Path] | None = None) -> pd.DataFrame:
    """Read all finished cells: of the table, and those that lie in the folder.

    Args:
        folder: Of the cells; results of several machines may be copied into one.
        files: Which of these, beside the table; None for all.

    Returns:
        A row for each cell, test case and label: those of `KEY`, `case`, `label`, the figures, seconds of the cell (`train`,
        `test`), and `about`, JSON of its settings, versions and machine.
    """
    table = table_of(folder)
    kept = pd.read_csv(table, dtype={"case": str, "label": str}) if table.is_file() else pd.DataFrame(columns=COLUMNS)
    rows = []
    for file in sorted(folder.glob("*/*/*/*.json")) if files is None else files:
        cell = read_json(file, "delete it, the cell is then run again")
        about = json.dumps({key: cell.get(key, {}) for key in ABOUT})
        seconds = [cell.get("seconds", {}).get(part, 0.0) for part in ("train", "test")]
        for case, labels in cell["scores"].items():
            for label, figures in labels.items():
                known = [*(cell[key] for key in KEY), case, label]
                rows.append([*known, *(figures[name] for name in FIGURES), *seconds, about])
    new = pd.DataFrame(rows, columns=COLUMNS)
    both = pd.concat([kept, new], ignore_index=True) if len(kept) and len(new) else (new if len(new) else kept)
    return both.drop_duplicates([*KEY, "case", "label"], ignore_index=True)


def pack(folder: Path) -> Path:
    """Move a folder's cells into its table, while no run is at work on them.

    Args:
        folder: Of the cells.

    Returns:
        The table.
    """
    table = table_of(folder)
    files = sorted(folder.glob("*/*/*/*.json"))  # others may come in meanwhile
    text = read_cells(folder, files).to_csv(index=False)
    with atomic_path(table) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))  # the same cells are the same file
    for packed in files:
        packed.unlink()
    return table


def collect(folder: Path, data: str, figure: str = "dice") -> pd.DataFrame:
    """Read all finished cells of a data set.

    Args:
        folder: Where cells lie, or lay before they were packed.
        data: Name of the data set.
        figure: `dice`, `nsd` or `hd95`.

    Returns:
        Columns `network`, `arm`, `labelled`, `seed`, `case` and `value`, the mean over labels.
    """
    cells = read_cells(folder)
    cells = cells[cells["data"] == data]
    of_case = cells.groupby([*KEY[1:], "case"], sort=False)[figure].mean()
    return of_case.rename("value").reset_index()
