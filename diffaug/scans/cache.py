"""Preprocessed volumes on disk, memory-mapped: written once, one file per case, read window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from diffaug.errors import DiffaugError
from diffaug.files import atomic_path

MOST_IN_HALF = float(np.finfo(np.float16).max)


class VolumeCache:
    """A folder of `(C, Z, Y, X)` arrays, one `.npy` per case, half precision (2e-3 at most in [-1, 1] units).

    What is beyond half precision is kept at its end, so there is no infinity.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, case: str) -> Path:
        if Path(case).name != case or "\0" in case:  # ids come from files, which may come from elsewhere
            raise DiffaugError(
                f"{self.folder}: found the case id {case!r}, expected no path; fix the file that names it"
            )
        return self.folder / f"{case}.npy"

    def fill(self, cases: Iterable[str], make: Callable[[str], np.ndarray]) -> None:
        """Make the volumes that are not there yet.

        Args:
            cases: Ids of the cases.
            make: Gives the volume `(C, Z, Y, X)` of a case.
        """
        for case in cases:
            if not self._file(case).is_file():
                volume = make(case).clip(-MOST_IN_HALF, MOST_IN_HALF).astype(np.float16)
                with atomic_path(self._file(case)) as temporary, temporary.open("wb") as file:
                    np.save(file, volume)

    def __getitem__(self, case: str) -> np.ndarray:
        try:
            return np.load(self._file(case), mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise DiffaugError(
                f"{self._file(case)}: not a whole cached volume ({error}); delete the file and run the command again"
            ) from error

    def sizes(self, cases: Iterable[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Tell the spatial sizes of cached volumes without reading them.

        Args:
            cases: Ids of the cases.

        Yields:
            Id and voxels (Z, Y, X).
        """
        for case in cases:
            yield case, self[case].shape[1:]
