"""What images may be called: a task's own, or a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

OWN_IMAGES = ("synthetic", "real")  # any other name is a folder


def named(images: Iterable[str]) -> tuple[str, ...]:
    """Spell folders whole, so that they mean the same from anywhere.

    Args:
        images: Names and folders.

    Returns:
        The same.
    """
    return tuple(name if name in OWN_IMAGES else str(Path(name).resolve()) for name in images)


def folders_of(images: Iterable[str]) -> list[Path]:
    """Take the folders out of what images are called.

    Args:
        images: Names and folders.

    Returns:
        The folders.
    """
    return [Path(name) for name in images if name not in OWN_IMAGES]
