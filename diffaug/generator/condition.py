"""What is known of one volume, and so may be asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffaug.errors import DiffaugError


@dataclass(frozen=True)
class Condition:
    """What is known of one volume; None is unknown.

    Attributes:
        site: Where it was made.
        spacing: Of the scan before it was resampled, in mm along the canonical axes (Z, Y, X).
    """

    site: str | None = None
    spacing: tuple[float, ...] | None = None

    @staticmethod
    def parse(texts: Sequence[str]) -> Condition:
        """Read what `--condition` was given.

        Args:
            texts: Each `site=NAME` or `spacing=Z,Y,X`.

        Returns:
            The condition.

        Raises:
            DiffaugError: If a text is neither, or a key is there twice.
        """
        known: dict[str, Any] = {}
        readers: dict[str, Callable[[str], Any]] = {"site": str, "spacing": _millimetres}
        for text in texts:
            key, _, value = text.partition("=")
            if key in known:
                raise DiffaugError(f"--condition {text}: found {key} twice, expected it once; remove one")
            try:
                if not value:
                    raise ValueError(text)
                known[key] = readers[key](value)
            except (KeyError, ValueError) as error:
                raise DiffaugError(
                    f"--condition {text}: expected site=NAME or spacing=Z,Y,X in mm; fix the option"
                ) from error
        return Condition(**known)

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Condition:
        """Rebuild a condition.

        Args:
            content: What `known` gave, read from JSON.

        Returns:
            The condition.
        """
        spacing = content.get("spacing")
        return Condition(content.get("site"), tuple(spacing) if spacing else None)

    def known(self) -> dict[str, Any]:
        """Tell what is known.

        Returns:
            `site` and `spacing`, each where it is known.
        """
        return {key: value for key, value in asdict(self).items() if value is not None}


def _millimetres(text: str) -> tuple[float, ...]:
    spacing = tuple(float(part) for part in text.split(","))
    if len(spacing) != 3 or not all(0 < length < math.inf for length in spacing):
        raise ValueError(text)
    return spacing
