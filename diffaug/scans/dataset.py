"""Which scans a task has: nnU-Net raw datasets and plain folders of images, and which of them must not be seen."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffaug.errors import DiffaugError
from diffaug.nnunet.dataset_json import channels_and_ending, read_dataset_json
from diffaug.nnunet.readers import reader_for
from diffaug.scans.inventory import Inventory, take_stock
from diffaug.scans.reading import read_scan
from diffaug.scans.scan import Scan


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
        inventories: What each of its folders gave.
    """

    name: str
    channels: tuple[str, ...]
    reader: Any
    cases: tuple[Case, ...]
    info: dict[str, Any]
    inventories: tuple[Inventory, ...] = ()

    def read(self, case: Case) -> Scan:
        """Read one case.

        Args:
            case: One of `cases`.

        Returns:
            The scan.
        """
        return read_scan(case.files, self.reader)


def open_dataset(
    folder: Path, *, extra: Sequence[Path] = (), exclude: Iterable[str] = (), plans: Path | None = None
) -> RawDataset:
    """List the images of a raw dataset: `imagesTr`, `imagesUn` and extra folders, never `imagesTs`.

    Args:
        folder: The dataset's folder with its `dataset.json`.
        extra: Further folders of images of the same channels.
        exclude: Ids of cases that must not be seen.
        plans: nnU-Net's plans of it, which name its reader.

    Returns:
        The dataset.

    Raises:
        DiffaugError: If `dataset.json` is missing or broken, no image is found, or a case lacks a channel.
    """
    info = read_dataset_json(folder)
    channels, ending = channels_and_ending(info)
    parts = [folder / "imagesTr", folder / "imagesUn", *extra]
    cases, inventories = find_cases(parts, ending, len(channels), info, folder)
    for inventory in inventories:
        if inventory.folder in extra and not inventory.files:
            raise DiffaugError(
                f"{inventory.text}, expected images ending in {ending} as dataset.json says; fix the path"
            )
    return _without(folder, cases, inventories, exclude, info, plans)


def open_folder(
    folder: Path, info: dict[str, Any], *, exclude: Iterable[str] = (), plans: Path | None = None
) -> RawDataset:
    """List the images of a plain folder, of the same channels and file type as a dataset.

    Args:
        folder: The folder.
        info: The dataset's `dataset.json`.
        exclude: Ids of cases that must not be seen.
        plans: nnU-Net's plans of that dataset, which name its reader.

    Returns:
        The images as a dataset.
    """
    channels, ending = channels_and_ending(info)
    cases, inventories = find_cases([folder / "imagesTr", folder / "imagesUn", folder], ending, len(channels))
    return _without(folder, cases, inventories, exclude, info, plans)


def _without(
    folder: Path,
    cases: Sequence[Case],
    inventories: Sequence[Inventory],
    exclude: Iterable[str],
    info: dict[str, Any],
    plans: Path | None,
) -> RawDataset:
    channels, ending = channels_and_ending(info)
    excluded = set(exclude)
    kept = tuple(case for case in cases if case.id not in excluded)
    if not kept:
        there = "; ".join(inventory.text for inventory in inventories) or f"{folder}: no images"
        raise DiffaugError(
            f"{there}; {len(cases)} cases ending in {ending} and none that is not excluded, expected images in imagesTr or "
            "imagesUn; add scans or exclude fewer"
        )
    return RawDataset(folder.name, channels, reader_for(info, kept[0].files[0], plans), kept, info, tuple(inventories))


def list_cases(
    folders: Sequence[Path], ending: str, channels: int, info: dict[str, Any] | None = None, root: Path | None = None
) -> list[Case]:
    """Find cases, as `find_cases` does, where nobody need know what was passed over."""
    return find_cases(folders, ending, channels, info, root)[0]


def find_cases(
    folders: Sequence[Path], ending: str, channels: int, info: dict[str, Any] | None = None, root: Path | None = None
) -> tuple[list[Case], list[Inventory]]:
    """Find cases in folders of images named `CASE_0000.nii.gz`, or `CASE.nii.gz` where there is one channel.

    Args:
        folders: Folders to look in; the first two (`imagesTr`, `imagesUn`) may be missing, and may be empty.
        ending: File ending, for example `.nii.gz`.
        channels: Number of channels of every case.
        info: The `dataset.json`; its `dataset` entry, where nnU-Net lets people name files freely, comes first.
        root: Folder that paths in `info` are relative to.

    Returns:
        The cases, sorted by id, and what each folder gave.

    Raises:
        DiffaugError: If an extra folder is missing, a case lacks a channel, has too many, or is there twice.
    """
    found: dict[str, dict[int, Path]] = {}
    inventories: list[Inventory] = []
    for case, entry in ((info or {}).get("dataset") or {}).items():
        images = (os.path.expandvars(file) for file in entry["images"])  # as nnU-Net does
        found[case] = {i: (root or Path()) / file for i, file in enumerate(images)}
    pattern = re.compile(r"(?P<case>.+?)(?:_(?P<channel>\d{4}))?" + re.escape(ending))
    for number, folder in enumerate(folders):
        if not folder.is_dir():
            if number < 2 and not folder.exists():
                continue
            raise DiffaugError(f"{folder}: no such folder, expected a folder of images; fix the path")
        if number == 0 and found:
            continue  # with a `dataset` entry nnU-Net ignores what else lies in imagesTr
        here: set[str] = set()
        inventory = take_stock(folder, (ending,))
        inventories.append(inventory)
        for file in inventory.files:
            match = pattern.fullmatch(file.name)
            if match is None:
                continue  # nothing but an ending
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
                "says; add or remove files, or append _0000 to the names if their last four digits count scans"
            )
    cases = [Case(case, tuple(files[i] for i in range(channels))) for case, files in sorted(found.items())]
    return cases, inventories


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
