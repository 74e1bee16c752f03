"""The key of a study and what readers answered: read, checked, and put into one table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from typing_extensions import NotRequired, TypedDict

from diffaug.errors import DiffaugError
from diffaug.files import read_json
from diffaug.reader_study.texts import CATEGORIES, GRADES
from diffaug.shapes import require_shape

KEY_FORMAT = 1
QUESTIONS = (*CATEGORIES, "guess")
ANSWERED = (*QUESTIONS, "remark", "seconds")
READER = re.compile(r"[A-Za-z0-9_-]{1,40}")  # as the page has it
ASK_AGAIN = "ask the reader for the file again, or leave it out"


class KeyVolume(TypedDict):
    """What a volume is."""

    kind: Literal["real", "synthetic"]
    case: str


class Key(TypedDict):
    """The key of a study."""

    format: Literal[1]
    study: str
    drawn: str
    request: dict[str, Any]
    frame: dict[str, Any]
    volumes: dict[str, KeyVolume]


class Answer(TypedDict):
    """What a reader said of a volume, as far as answered."""

    appearance: NotRequired[Literal[1, 2, 3, 4]]
    slices: NotRequired[Literal[1, 2, 3, 4]]
    anatomy: NotRequired[Literal[1, 2, 3, 4]]
    guess: NotRequired[Literal["real", "synthetic"]]
    remark: NotRequired[str]
    seconds: NotRequired[float | int]


class ReaderAnswers(TypedDict):
    """A reader's file."""

    format: Literal[1]
    study: str
    reader: str
    begun: str
    saved: str
    volumes: int
    answers: dict[str, Answer]


def read_key(file: Path) -> Key:
    """Read the key of a study.

    Args:
        file: The key.

    Returns:
        Its content.

    Raises:
        DiffaugError: If it is none.
    """
    key = read_json(file, "name the key that reader-study make wrote")
    require_shape(key, Key, file, "name the key that reader-study make wrote")
    if list(key["volumes"]) != [str(number) for number in range(1, len(key["volumes"]) + 1)]:
        raise DiffaugError(
            f"{file}: its volumes are not numbered from 1, expected the key as it was written; restore it"
        )
    return key


def read_answers(files: Sequence[Path], key: Key, *, incomplete: bool) -> pd.DataFrame:
    """Read what readers answered, beside what the volumes are.

    Args:
        files: Readers' files, or folders of them.
        key: The study's key.
        incomplete: Whether answers may be missing.

    Returns:
        A row for every reader and volume: `reader`, `volume`, `kind`, `case`, a column for each question, `remark` and
        `seconds`. What was not answered is missing.

    Raises:
        DiffaugError: If a file is broken or of another study, a reader is there twice, or answers are missing.
    """
    found: dict[str, Path] = {}
    rows = []
    for file in _listed(files):
        content = read_json(file, ASK_AGAIN)
        require_shape(content, ReaderAnswers, file, ASK_AGAIN)
        _require_ours(file, content, key)
        reader = content["reader"]
        if reader in found:
            raise DiffaugError(
                f"{file}: answers of reader {reader}, who has answered in {found[reader]} too, expected each reader once; "
                "keep one"
            )
        found[reader] = file
        if not incomplete:
            _require_complete(file, content, key)
        for number, volume in key["volumes"].items():
            # by name: whatever else a file says must not take the place of what the key says
            given = {name: content["answers"].get(number, {}).get(name) for name in ANSWERED}
            rows.append(
                {"reader": reader, "volume": int(number), "kind": volume["kind"], "case": volume["case"], **given}
            )
    columns = ["reader", "volume", "kind", "case", *ANSWERED]
    table = pd.DataFrame(rows).reindex(columns=columns)
    if table[list(QUESTIONS)].isna().all(axis=None):
        raise DiffaugError(f"{next(iter(found.values()))}: no question is answered, expected answers; {ASK_AGAIN}")
    return table


def _listed(files: Sequence[Path]) -> list[Path]:
    listed: list[Path] = []
    for file in files:
        inside = sorted(file.glob("*.json")) if file.is_dir() else [file]
        if not inside:
            raise DiffaugError(f"{file}: found no *.json, expected files of answers; fix the path")
        listed += inside
    return listed


def _require_ours(file: Path, content: ReaderAnswers, key: Key) -> None:
    if content["study"] != key["study"]:
        raise DiffaugError(
            f"{file}: answers of study {content['study']}, expected {key['study']}, the key's; leave it out, or name its own "
            "key"
        )
    if not READER.fullmatch(content["reader"]):
        raise DiffaugError(
            f"{file}: reader is {content['reader']!r:.60}, expected letters, digits, - and _; {ASK_AGAIN}"
        )
    if foreign := content["answers"].keys() - key["volumes"].keys():
        raise DiffaugError(
            f"{file}: answers of volume {min(foreign)}, expected 1 to {len(key['volumes'])}; {ASK_AGAIN}"
        )


def _require_complete(file: Path, content: ReaderAnswers, key: Key) -> None:
    open_ones = [
        number
        for number in key["volumes"]
        if any(question not in content["answers"].get(number, {}) for question in QUESTIONS)
    ]
    if open_ones:
        shown = ", ".join(open_ones[:GRADES]) + (" ..." if len(open_ones) > GRADES else "")
        raise DiffaugError(
            f"{file}: {len(open_ones)} of {len(key['volumes'])} volumes are not answered in full ({shown}), expected all; "
            "ask the reader to go on, or take what is there with --incomplete"
        )
