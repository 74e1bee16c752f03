"""The page's texts, in one file, so that a hospital can translate them."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffaug.errors import DiffaugError
from diffaug.files import read_json

TEXTS_FILE = "texts.json"
CATEGORIES = ("appearance", "slices", "anatomy")  # the paper's, in the order in which they are asked
GRADES = 4
GUESSES = ("real", "synthetic")


def read_texts(translation: Path | None) -> dict[str, Any]:
    """Read the texts, or a translation of them.

    Args:
        translation: Of diffaug's own texts; None for those.

    Returns:
        The texts.

    Raises:
        DiffaugError: If a text is missing, or is not one.
    """
    own = (files("diffaug.reader_study") / "page" / TEXTS_FILE).read_text(encoding="utf-8")
    english = json.loads(own)
    if translation is None:
        return english
    texts = read_json(translation, "name a translation of a study's texts.json, or leave --texts out")
    _require_alike(texts, english, translation, "")
    if not re.fullmatch(r"[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*", texts["language"]):
        raise DiffaugError(
            f"{translation}: language is {texts['language']!r}, expected a code such as de or pt-BR; fix the file"
        )
    return dict(texts)


def _require_alike(texts: Any, english: Any, file: Path, where: str) -> None:
    if isinstance(english, dict) and isinstance(texts, dict):
        for name, value in english.items():
            if name not in texts:
                raise DiffaugError(f"{file}: {where}{name} is missing, expected a translation of {value!r:.60}; add it")
            _require_alike(texts[name], value, file, f"{where}{name}.")
    elif isinstance(english, list) and isinstance(texts, list) and len(texts) == len(english):
        for number, (text, value) in enumerate(zip(texts, english, strict=True)):
            _require_alike(text, value, file, f"{where}{number}.")
    elif not (isinstance(english, str) and isinstance(texts, str) and texts.strip()):
        what = (
            f"{len(english)} texts" if isinstance(english, list) else "a text" if isinstance(english, str) else "texts"
        )
        raise DiffaugError(f"{file}: {where.rstrip('.')} is {texts!r:.60}, expected {what}; fix the file")
