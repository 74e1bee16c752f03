"""What a folder gave, and what was passed over in it and why: nobody's scans are left out without a word."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from diffaug.errors import DiffaugError


@dataclass(frozen=True)
class Inventory:
    """A folder's content.

    Attributes:
        folder: The folder.
        files: The images in it, sorted.
        passed_over: Of everything else how many there are, by what they are; hidden files are not counted.
    """

    folder: Path
    files: tuple[Path, ...]
    passed_over: dict[str, int]

    @property
    def text(self) -> str:
        """What it gave and what it did not, in words."""
        told = f"{self.folder}: {len(self.files)} files taken"
        others = ", ".join(f"{count} {what}" for what, count in self.passed_over.items())
        return f"{told}, passed over: {others}" if others else told


def take_stock(folder: Path, endings: tuple[str, ...], *, any_case: bool = False) -> Inventory:
    """Look through a folder, not through folders in it.

    Args:
        folder: The folder.
        endings: Of files that are images, such as `.nii.gz`.
        any_case: Whether `.NII.GZ` ends so, too.

    Returns:
        What is there.

    Raises:
        DiffaugError: If the folder cannot be read.
    """

    def ending(name: str) -> bool:
        return (name.lower() if any_case else name).endswith(endings)

    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        files = [entry for entry in entries if ending(entry.name) and not entry.is_dir()]
        others = Counter(_kind(entry) for entry in entries if entry not in set(files))
    except OSError as error:
        raise DiffaugError(f"{folder}: cannot be read ({error.strerror}), expected a folder; fix its rights") from error
    return Inventory(folder, tuple(files), dict(sorted(others.items())))


def _kind(entry: Path) -> str:
    if entry.is_dir():
        return "folders"
    suffixes = "".join(entry.suffixes[-2:]) if entry.name.lower().endswith(".gz") else entry.suffix
    return f"files ending in {suffixes}" if suffixes else "files without an ending"
