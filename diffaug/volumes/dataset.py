"""Which scans a task has: nnU-Net raw datasets and plain folders of images, and which of them must not be seen."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.crossval_split import generate_crossval_split

from diffaug.errors import DiffaugError
from diffaug.volumes.scan import Scan, read_scan
from diffaug.workspace import Workspace, read_json

CASES_SHOWN = 3  # as many ids as a one-line message bears


@dataclass(frozen=True)
class Case:
    """One case: its id and its files in channel order."""

    id: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class RawDataset:
    """The unlabelled view of an nnU-Net raw dataset.

    Attributes:
        name: Folder name, `DatasetXXX_Name`.
        channels: nnU-Net's `channel_names` in order; `CT` is the one name that changes how intensities are read.
        reader: nnU-Net's reader class for its file type.
        cases: The cases, sorted by id.
        info: The content of its `dataset.json`.
    """

    name: str
    channels: tuple[str, ...]
    reader: Any
    cases: tuple[Case, ...]
    info: dict[str, Any]

    def read(self, case: Case) -> Scan:
        """Read one case.

        Args:
            case: One of `cases`.

        Returns:
            The scan.
        """
        return read_scan(case.files, self.reader)


def open_dataset(folder: Path, *, extra: Sequence[Path] = (), exclude: Iterable[str] = ()) -> RawDataset:
    """List the images of a raw dataset: `imagesTr`, `imagesUn` and extra folders, never `imagesTs`.

    Args:
        folder: The dataset's folder with its `dataset.json`.
        extra: Further folders of images of the same channels.
        exclude: Ids of cases that must not be seen.

    Returns:
        The dataset.

    Raises:
        DiffaugError: If `dataset.json` is missing or broken, no image is found, or a case lacks a channel.
    """
    info = read_json(folder / "dataset.json", "expected nnU-Net's raw layout with a dataset.json; write one")
    channels, ending = _channels_and_ending(info, folder / "dataset.json")
    cases = list_cases([folder / "imagesTr", folder / "imagesUn", *extra], ending, len(channels), info, folder)
    return _without(folder, cases, exclude, channels, info)


def open_folder(folder: Path, info: dict[str, Any], *, exclude: Iterable[str] = ()) -> RawDataset:
    """List the images of a plain folder, of the same channels and file type as a dataset.

    Args:
        folder: The folder.
        info: The dataset's `dataset.json`.
        exclude: Ids of cases that must not be seen.

    Returns:
        The images as a dataset.
    """
    channels, ending = _channels_and_ending(info, folder)
    cases = list_cases([folder / "imagesTr", folder / "imagesUn", folder], ending, len(channels))
    return _without(folder, cases, exclude, channels, info)


def _channels_and_ending(info: dict[str, Any], source: Path) -> tuple[tuple[str, ...], str]:
    try:
        channels = tuple(info["channel_names"][key] for key in sorted(info["channel_names"], key=int))
        return channels, info["file_ending"]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DiffaugError(f"{source}: found no {error}, expected channel_names and file_ending; add them") from error


def _without(
    folder: Path, cases: Sequence[Case], exclude: Iterable[str], channels: tuple[str, ...], info: dict[str, Any]
) -> RawDataset:
    excluded = set(exclude)
    kept = tuple(case for case in cases if case.id not in excluded)
    if not kept:
        raise DiffaugError(
            f"{folder}: found {len(cases)} cases ending in {info['file_ending']} and none that is not excluded, expected "
            "images in imagesTr or imagesUn; add scans or exclude fewer"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net announces its choice of reader on stdout
        reader = determine_reader_writer_from_dataset_json(info, None, verbose=False)
    return RawDataset(folder.name, channels, reader, kept, info)


def list_cases(
    folders: Sequence[Path], ending: str, channels: int, info: dict[str, Any] | None = None, root: Path | None = None
) -> list[Case]:
    """Find cases in folders of images named `CASE_0000.nii.gz`, or `CASE.nii.gz` where there is one channel.

    Args:
        folders: Folders to look in; the first two (`imagesTr`, `imagesUn`) may be missing.
        ending: File ending, for example `.nii.gz`.
        channels: Number of channels of every case.
        info: The `dataset.json`; its `dataset` entry, where nnU-Net lets people name files freely, comes first.
        root: Folder that paths in `info` are relative to.

    Returns:
        The cases, sorted by id.

    Raises:
        DiffaugError: If an extra folder is missing, a case lacks a channel, has too many, or is there twice.
    """
    found: dict[str, dict[int, Path]] = {}
    for case, entry in ((info or {}).get("dataset") or {}).items():
        found[case] = {i: (root or Path()) / file for i, file in enumerate(entry["images"])}
    pattern = re.compile(r"(?P<case>.+?)(?:_(?P<channel>\d{4}))?" + re.escape(ending))
    for number, folder in enumerate(folders):
        if not folder.is_dir():
            if number < 2:
                continue
            raise DiffaugError(f"{folder}: no such folder, expected a folder of images; mend the path")
        if number == 0 and found:
            continue  # with a `dataset` entry nnU-Net ignores what else lies in imagesTr
        here: set[str] = set()
        for file in sorted(folder.iterdir()):
            match = pattern.fullmatch(file.name)
            if match is None or file.name.startswith("."):
                continue
            case, channel = match["case"], int(match["channel"] or 0)
            if channel in found.get(case, {}) or (case in found and case not in here):
                raise DiffaugError(f"{file}: case {case} is there twice, expected each case once; rename or remove one")
            here.add(case)
            found.setdefault(case, {})[channel] = file
    for case, files in found.items():
        if sorted(files) != list(range(channels)):
            first = next(iter(files.values()))
            raise DiffaugError(
                f"{first}: case {case} has channels {sorted(files)}, expected {list(range(channels))} as dataset.json "
                "says; add or remove files"
            )
    return [Case(case, tuple(files[i] for i in range(channels))) for case, files in sorted(found.items())]


def labelled_ids(folder: Path, info: dict[str, Any]) -> list[str]:
    """List the cases that nnU-Net would train on: those with a file in `labelsTr`.

    Args:
        folder: The raw dataset's folder.
        info: The content of its `dataset.json`.

    Returns:
        Sorted ids.
    """
    if info.get("dataset"):
        return sorted(info["dataset"])
    labels = folder / "labelsTr"
    ending = info["file_ending"]
    if not labels.is_dir():
        return []
    images = {case.id for case in list_cases([folder / "imagesTr"], ending, len(info["channel_names"]))}
    return sorted(images & {p.name[: -len(ending)] for p in labels.iterdir() if p.name.endswith(ending)})


def excluded_ids(workspace: Workspace, rules: Sequence[str], extra: Sequence[Path] = ()) -> set[str]:
    """Turn `--exclude` rules into case ids.

    Args:
        workspace: The task's workspace.
        rules: Each `fold:N` (validation cases of nnU-Net's fold N), `labelled` (all labelled cases), `none`, or
            `FILE[:KEY]`: a text file with an id a line, or JSON with a list (under KEY).
        extra: Further folders of images.

    Returns:
        The ids.

    Raises:
        DiffaugError: If a rule is none of these, a fold does not exist, or a file cannot be read.
    """
    file = workspace.raw / "dataset.json"
    info = read_json(file, "expected nnU-Net's raw layout with a dataset.json; write one")
    _channels_and_ending(info, file)
    labelled = labelled_ids(workspace.raw, info)
    ids: set[str] = set()
    for rule in rules:
        if rule == "none":
            continue
        if rule == "labelled":
            ids |= set(labelled)
        elif rule.startswith("fold:"):
            ids |= set(_validation_ids(workspace, labelled, rule))
        else:
            named = set(_ids_in_file(rule))
            known = {case.id for case in open_dataset(workspace.raw, extra=extra).cases}
            if not named & known:
                raise DiffaugError(
                    f"--exclude {rule}: none of its {len(named)} ids is a case of {workspace.dataset}, expected ids such as "
                    f"{min(known, default='case_001')}; mend the list"
                )
            ids |= named
    return ids


def _validation_ids(workspace: Workspace, labelled: Sequence[str], rule: str) -> list[str]:
    file = workspace.preprocessed / "splits_final.json"
    if file.is_file():
        splits = read_json(file, "delete it, nnU-Net makes a new one")
    elif len(labelled) >= 5:
        splits = generate_crossval_split(sorted(labelled), seed=12345, n_splits=5)  # what nnU-Net will do at training
    else:
        return []  # nnU-Net cannot split so few either: only fold `all` exists
    number = rule.removeprefix("fold:")
    if not number.isdigit() or int(number) >= len(splits):
        raise DiffaugError(f"--exclude {rule}: no such fold, expected fold:0 to fold:{len(splits) - 1}; mend it")
    return [str(case) for case in splits[int(number)]["val"]]  # nnU-Net's are NumPy strings


def _ids_in_file(rule: str) -> list[str]:
    path, _, key = rule.rpartition(":") if ":" in rule and not Path(rule).exists() else (rule, "", "")
    file = Path(path)
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DiffaugError(
            f"--exclude {rule}: cannot be read, expected none, labelled, fold:N or FILE[:KEY] with case ids; mend it"
        ) from error
    if file.suffix != ".json":
        return text.split()
    try:
        content = json.loads(text)
        ids = content[key] if key else content
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DiffaugError(f"{file}: found no list of case ids under '{key}', expected one; mend --exclude") from error
    if not isinstance(ids, list):
        keys = ", ".join(content) if isinstance(content, dict) else "none"
        raise DiffaugError(f"{file}: found no list of case ids, expected FILE:KEY with one of the keys {keys}")
    return [str(case) for case in ids]
