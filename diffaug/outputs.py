"""Folders that a user names for results: whatever else lies there is nobody's to write over or to discard."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffaug.errors import DiffaugError
from diffaug.files import LOCK


def require_own_folder(
    out: Path, kind: str, is_own: bool, inputs: Iterable[Path | None], *, apart: bool = False
) -> None:
    """Require a folder that is empty or holds what goes there, and nothing that is read.

    Args:
        out: The folder.
        kind: What goes there.
        is_own: Whether it holds one already.
        inputs: Folders that are read; None for what was not named.
        apart: Whether it must not lie in one of these, either.

    Raises:
        DiffaugError: If the folder is anything else.
    """
    place = out.resolve()
    for folder in (each for each in inputs if each is not None):
        if folder.resolve().is_relative_to(place) or (apart and place.is_relative_to(folder.resolve())):
            raise DiffaugError(
                f"--out {out}: and {folder} lie in one another, expected a folder of its own; name another"
            )
    if not is_own and out.is_dir() and any(entry.name != LOCK for entry in out.iterdir()):
        raise DiffaugError(f"--out {out}: holds other files, expected an empty folder or {kind}; name another")
