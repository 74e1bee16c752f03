"""Which cases must not be seen: `--exclude` rules turned into ids, and every name that means no case told."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from diffaug.errors import DiffaugError, first_of
from diffaug.files import read_json
from diffaug.nnunet.dataset_json import channels_and_ending, read_dataset_json
from diffaug.nnunet.plans import FOLDS, default_splits
from diffaug.patients import known_patients, patient_of
from diffaug.scans.dataset import labelled_ids, list_cases
from diffaug.workspace import Workspace

NAMES_SHOWN = 5  # names in a message


def excluded_ids(
    workspace: Workspace, rules: Sequence[str], extra: Sequence[Path] = (), others: Sequence[Path] = ()
) -> set[str]:
    """Turn `--exclude` rules into case ids.

    Args:
        workspace: The task's workspace.
        rules: Each `fold:N` (validation cases of nnU-Net's fold N), `labelled` (all labelled cases), `none`, or
            `FILE[:KEY]`: a text file with an id a line, or JSON with a list (under KEY). File names serve as ids, too, and
            pseudonyms of imported patients for all that is theirs.
        extra: Further folders of the task's images, whose cases may be named.
        others: Folders of other images, whose cases may be named, too.

    Returns:
        The ids, and those of further scans of the same patients, where names tell.

    Raises:
        DiffaugError: If a rule is none of these, a fold does not exist, a file cannot be read, or a name in it is no
            case's: whoever it was meant for would be trained on.
    """
    info = read_dataset_json(workspace.raw)
    channels, ending = channels_and_ending(info)
    labelled = labelled_ids(workspace.raw, info)
    folders = [workspace.raw / "imagesTr", workspace.raw / "imagesUn", *extra]
    # nothing here ever reads imagesTs: naming its cases is no slip
    elsewhere = [workspace.raw / "imagesTs", *(part for f in others for part in (f, f / "imagesTr", f / "imagesUn"))]

    @cache
    def known() -> set[str]:
        cases = {case.id for case in list_cases(folders, ending, len(channels), info, workspace.raw)}
        return cases.union(*(_named_in(folder, ending) for folder in elsewhere))

    ids: set[str] = set()
    for rule in rules:
        if rule == "none":
            continue
        if rule == "labelled":
            ids |= set(labelled)
            continue
        names = _validation_ids(workspace, labelled, rule) if rule.startswith("fold:") else _names_in_file(rule)
        ids |= set(_as_ids(names, known(), ending, rule, workspace))
    if any(patient_of(case) != case for case in ids):
        ids |= set(known_patients(known(), ids))
    return ids


def _as_ids(names: Iterable[str], known: set[str], ending: str, rule: str, workspace: Workspace) -> list[str]:
    found, unknown = [], []
    for name in names:
        case = next((case for case in _readings(name, ending) if case in known), None)
        cases = [case] if case is not None else [each for each in known if patient_of(each) == name]
        found += cases
        if not cases:
            unknown.append(name)
    if unknown:
        raise DiffaugError(
            f"--exclude {rule}: {len(unknown)} of {len(unknown) + len(found)} names are no case of {workspace.dataset} "
            f"({first_of(unknown, NAMES_SHOWN)}), expected ids such as {min(known, default='case_001')}, one a line; "
            "fix the list"
        )
    return found


def _readings(name: str, ending: str) -> Iterator[str]:
    """Give the ids that a name may mean, the likeliest first: people list ids, files, and files of a channel."""
    yield name
    name = re.split(r"[/\\]", name)[-1]
    for end in (ending, "".join(Path(name).suffixes), Path(name).suffix):
        bare = name.removesuffix(end) if end else name
        yield bare
        yield re.sub(r"_\d{4}$", "", bare)


def _named_in(folder: Path, ending: str) -> set[str]:
    """List cases by the names of files alone; whether they are whole is another's question."""
    if not folder.is_dir():
        return set()
    return {re.sub(r"(_\d{4})?" + re.escape(ending) + "$", "", path.name) for path in folder.iterdir()}


def warn_of_folds(workspace: Workspace, seen: Collection[str]) -> str | None:
    """Look whether a fold is left that nnU-Net may train afterwards, before hours have gone by.

    Args:
        workspace: The task's workspace.
        seen: Ids of the cases that will be seen.

    Returns:
        What a person should be told where some validation case of every fold is among them; None where all is well.
    """
    labelled = labelled_ids(workspace.raw, read_dataset_json(workspace.raw))
    folds = _folds(workspace, labelled)
    if not folds or not all(known_patients(validation, seen) for validation in folds):
        return None
    return (
        "validation cases of every fold will be seen, so nnUNetTrainerDiffAug will refuse each fold; to train one, "
        "begin with --exclude fold:0 or --exclude labelled beside your own rules (a rule replaces the default, fold:0)"
    )


def _folds(workspace: Workspace, labelled: Sequence[str]) -> list[list[str]]:
    """List the validation cases of each of nnU-Net's folds; none where it cannot split so few, and only fold `all` exists."""
    file = workspace.preprocessed / "splits_final.json"
    if file.is_file():
        splits = read_json(file, "delete it, nnU-Net makes a new one")
        parts = ("train", "val")
        if not isinstance(splits, list) or not all(
            isinstance(split, dict) and all(isinstance(split.get(part), list) for part in parts) for split in splits
        ):
            raise DiffaugError(
                f"{file}: found a fold without the lists train and val, expected both in each; mend it, or delete it and "
                "nnU-Net makes a new one"
            )
    else:
        splits = default_splits(labelled) if len(labelled) >= FOLDS else []
    return [[str(case) for case in split["val"]] for split in splits]


def _validation_ids(workspace: Workspace, labelled: Sequence[str], rule: str) -> list[str]:
    folds = _folds(workspace, labelled)
    if not folds:
        return []
    number = rule.removeprefix("fold:")
    if not number.isdigit() or int(number) >= len(folds):
        raise DiffaugError(f"--exclude {rule}: no such fold, expected fold:0 to fold:{len(folds) - 1}; fix it")
    return folds[int(number)]


def _names_in_file(rule: str) -> list[str]:
    path, _, key = rule.rpartition(":") if ":" in rule and not Path(rule).exists() else (rule, "", "")
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")  # a byte order mark is no part of the first id
    except (OSError, UnicodeDecodeError) as error:
        raise DiffaugError(
            f"--exclude {rule}: cannot be read, expected none, labelled, fold:N or FILE[:KEY] with case ids; fix it"
        ) from error
    if file.suffix != ".json":
        lines = (re.split(r"(?:^|\s)#", line)[0].strip().strip("\"'") for line in text.splitlines())
        return [line for line in lines if line]
    try:
        content = json.loads(text)
        ids: Any = content[key] if key else content
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DiffaugError(f"{file}: found no list of case ids under '{key}', expected one; fix --exclude") from error
    if not isinstance(ids, list):
        keys = ", ".join(content) if isinstance(content, dict) else "none"
        raise DiffaugError(f"{file}: found no list of case ids, expected FILE:KEY with one of the keys {keys}")
    return [str(case) for case in ids]
