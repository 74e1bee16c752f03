"""Which scans a task has: nnU-Net raw datasets and plain folders of images, and which of them must not be seen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffaug.errors import DiffaugError
from diffaug.files import read_json
from diffaug.nnunet.readers import reader_for
from diffaug.scans.scan import Scan, read_scan


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
    channels, ending = channels_and_ending(info, folder / "dataset.json")
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
    channels, ending = channels_and_ending(info, folder)
    cases = list_cases([folder / "imagesTr", folder / "imagesUn", folder], ending, len(channels))
    return _without(folder, cases, exclude, channels, info)


def channels_and_ending(info: dict[str, Any], source: Path) -> tuple[tuple[str, ...], str]:
    """Read what every `dataset.json` must say of its images.

    Args:
        info: Its content.
        source: Where it was read, for the message.

    Returns:
        Channel names in order, and the file ending.

    Raises:
        DiffaugError: If something is missing.
    """
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
    return RawDataset(folder.name, channels, reader_for(info), kept, info)


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
            raise DiffaugError(f"{folder}: no such folder, expected a folder of images; fix the path")
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
