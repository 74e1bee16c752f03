"""What lies in a folder of volumes: an nnU-Net raw dataset, or files side by side that nobody described."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from diffaug.errors import DiffaugError
from diffaug.nnunet.readers import reader_for
from diffaug.scans.dataset import Case, RawDataset, open_dataset
from diffaug.scans.inventory import take_stock

# nnU-Net's endings, those that hold volumes: ITK's, which one reader reads, and TIFF
VOLUMES, TIFFS = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl"), (".tif", ".tiff")
ENDINGS = (*VOLUMES, *TIFFS)


def open_images(folder: Path, option: str) -> RawDataset:
    """List a folder of volumes: an nnU-Net raw dataset, a folder with `imagesTr`, or images side by side.

    Args:
        folder: The folder.
        option: The option it came from, for messages.

    Returns:
        Its cases. Without a `dataset.json` a suffix `_0000`, `_0001` ... counts channels where every file has one and
        there is more than one case; otherwise each file is a case.

    Raises:
        DiffaugError: If there is no such folder, or fewer than two cases in it.
    """
    if not folder.is_dir():
        raise DiffaugError(f"{option} {folder}: no such folder, expected a folder of volumes; fix the path")
    if (folder / "dataset.json").is_file():
        dataset = open_dataset(folder)
    else:
        dataset = _without_json(folder / "imagesTr" if (folder / "imagesTr").is_dir() else folder, option)
    if len(dataset.cases) < 2:
        raise DiffaugError(f"{option} {folder}: found one case, expected several volumes (tens are useful); add some")
    return dataset


def _without_json(folder: Path, option: str) -> RawDataset:
    families = [take_stock(folder, endings, any_case=True) for endings in (VOLUMES, TIFFS)]  # a reader each
    inventory = max(families, key=lambda family: len(family.files))
    if not inventory.files:
        raise DiffaugError(f"{option} {inventory.text}, expected files ending in {', '.join(ENDINGS)}; fix the path")
    names: dict[str, Path] = {}
    for file in inventory.files:
        name = re.sub("|".join(re.escape(ending) + "$" for ending in ENDINGS), "", file.name, flags=re.IGNORECASE)
        if name in names:
            raise DiffaugError(
                f"{option} {file}: {names[name].name} is there too, expected each volume once; remove one"
            )
        names[name] = file
    first = inventory.files[0]
    ending = next(ending for ending in ENDINGS if first.name.lower().endswith(ending))
    cases = _by_channel(names) or {name: {0: file} for name, file in names.items()}
    channels = max(Counter(len(of_case) for of_case in cases.values()).items(), key=lambda item: item[1])[0]
    for case, of_case in cases.items():
        if sorted(of_case) != list(range(channels)):
            raise DiffaugError(
                f"{next(iter(of_case.values()))}: case {case} has channels {sorted(of_case)}, expected "
                f"{list(range(channels))} as most cases have; add or remove files"
            )
    reader = reader_for({"file_ending": ".nii.gz" if ending in VOLUMES else ending}, first)
    listed = tuple(Case(case, tuple(of_case[i] for i in range(channels))) for case, of_case in sorted(cases.items()))
    return RawDataset(folder.name, tuple(f"channel {i}" for i in range(channels)), reader, listed, {}, (inventory,))


def _by_channel(names: dict[str, Path]) -> dict[str, dict[int, Path]] | None:
    """Read nnU-Net's channel numbers; None where four digits at the end rather count the cases."""
    matches = {name: re.fullmatch(r"(.+)_(\d{4})", name) for name in names}
    cases: dict[str, dict[int, Path]] = {}
    for name, match in matches.items():
        if match is None:
            return None
        cases.setdefault(match[1], {})[int(match[2])] = names[name]
    return cases if len(cases) > 1 and any(0 in of_case for of_case in cases.values()) else None


def identity(dataset: RawDataset) -> list[list[object]]:
    """Tell whether a folder is as it was, without reading gigabytes.

    Args:
        dataset: The folder.

    Returns:
        Name, size and time of change of every file.

    Raises:
        DiffaugError: If a file is missing.
    """
    found: list[list[object]] = []
    for case in dataset.cases:
        for file in case.files:
            try:
                state = file.stat()
            except OSError as error:
                raise DiffaugError(f"{file}: no such file, expected an image; restore it or remove the case") from error
            found.append([str(file.resolve()), state.st_size, state.st_mtime_ns])
    return found
