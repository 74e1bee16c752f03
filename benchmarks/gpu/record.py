"""What is known so far, a line each: a part's result is on disk the moment it is known, whatever happens afterwards."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

LINES = "gpu.jsonl"


def record(out: Path, part: str, **figures: Any) -> None:
    """Add a line. Several processes may do so at once, for a short append is one write.

    Args:
        out: The folder of results.
        part: Whose figures these are.
        **figures: What JSON can write.
    """
    line = json.dumps(_plain({"part": part, **figures}), allow_nan=False) + "\n"
    file = os.open(out / LINES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def _plain(value: Any) -> Any:
    """Leave out numbers that JSON has no word for: a loss that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def recorded(out: Path, part: str | None = None) -> list[dict[str, Any]]:
    """Read the lines; one that a killed process left half-written is passed over.

    Args:
        out: The folder of results.
        part: Whose; None for all.

    Returns:
        The lines, in the order in which they became known.
    """
    file = out / LINES
    lines = []
    for text in file.read_text().splitlines() if file.is_file() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if part in (None, line["part"]):
            lines.append(line)
    return lines
