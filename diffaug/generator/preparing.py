"""What comes before any network is trained: measure the scans, notice which have changed, plan, resample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from typing_extensions import TypedDict

from diffaug.errors import DiffaugError, first_of
from diffaug.files import atomic_path, file_hash, fingerprint, read_json
from diffaug.generator.plan import GeneratorPlan
from diffaug.nnunet.plans import read_plans
from diffaug.scans.cache import VolumeCache
from diffaug.scans.canonical import SPLINE_ORDER, to_canonical
from diffaug.scans.dataset import Case, RawDataset
from diffaug.scans.hounsfield import in_their_units
from diffaug.scans.readings import Reading, read_off
from diffaug.shapes import require_shape
from diffaug.workspace import Workspace

READINGS = "readings.json"  # what was measured of every scan, in the generator's folder
UNUSABLE = "unusable.txt"  # scans that cannot be read, and why, in the run folder
Entries = dict[str, dict[str, Any]]


class Measured(TypedDict):
    """An entry of `readings.json`."""

    case: str
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    orientation: str
    ranges: list[tuple[float, float]]
    mean: list[float]
    std: list[float]
    sha256: list[str]


def stored_readings(folder: Path) -> Entries:
    """Read what was measured of the scans before.

    Args:
        folder: The generator's folder.

    Returns:
        By case; empty where nothing was.
    """
    file, fix = folder / READINGS, "delete it and run diffaug fit again"
    if not file.is_file():
        return {}
    entries: Entries = read_json(file, fix)
    require_shape(entries, dict[str, Measured], file, fix)
    return entries


def measure_scans(dataset: RawDataset, workspace: Workspace) -> Entries:
    """Measure every scan; this also finds every broken file before anything long begins.

    Args:
        dataset: The scans.
        workspace: The task's workspace.

    Returns:
        By case what `readings.json` holds: the reading, and of each file the hash, size and time of change.

    Raises:
        DiffaugError: If scans cannot be used; all of them are listed in a file that `--exclude` takes.
    """
    readings, unusable = {}, {}
    for inventory in dataset.inventories:
        print(f"scans: {inventory.text}", flush=True)
    for case in tqdm(dataset.cases, "reading scans", unit="scan", ascii=True):
        try:
            readings[case.id] = read_off(case.id, dataset.read(case), dataset.channels)
        except DiffaugError as error:
            unusable[case.id] = str(error)
    listed = workspace.run / UNUSABLE
    if len(unusable) == 1:
        raise DiffaugError(*unusable.values())
    if unusable:
        with atomic_path(listed) as temporary:
            temporary.write_text("".join(f"{case}  # {why}\n" for case, why in unusable.items()), encoding="utf-8")
        first = next(iter(unusable.values()))
        raise DiffaugError(
            f"{len(unusable)} of {len(dataset.cases)} scans cannot be used, the first: {first}. All are listed: "
            f"--exclude fold:0 --exclude {listed} leaves them out (a rule replaces the default, fold:0)"
        )
    listed.unlink(missing_ok=True)
    fingerprint = workspace.preprocessed / "dataset_fingerprint.json"
    planned = read_json(fingerprint, "restore it") if fingerprint.is_file() else None
    settled, told = in_their_units(list(readings.values()), dataset.channels, planned)
    for sentence in told:
        print(f"scans: {sentence}", flush=True)
    return {
        case.id: {**asdict(reading), "sha256": [file_hash(path) for path in case.files], "files": _states(case)}
        for case, reading in zip(dataset.cases, settled, strict=True)
    }


def _states(case: Case) -> list[list[int]]:
    return [[state.st_size, state.st_mtime_ns] for state in (path.stat() for path in case.files)]


def readings_of(entries: Entries) -> dict[str, Reading]:
    """Take the readings out of what `readings.json` holds.

    Args:
        entries: By case.

    Returns:
        By case.
    """
    return {case: _reading(entry) for case, entry in entries.items()}


def changed_scans(dataset: RawDataset, cases: list[str], entries: Entries) -> list[str]:
    """Tell how the scans differ from those that something was begun with.

    A file of the size and time of change that it had is taken for the same; others are hashed.

    Args:
        dataset: The scans now.
        cases: The ids then.
        entries: What was measured then.

    Returns:
        In words, with the first few ids: which are new, gone, or another scan under their old name.
    """
    # a file that dataset.json names may be gone
    now = {case.id: case for case in dataset.cases if all(path.exists() for path in case.files)}
    replaced = [case for case in cases if case in now and case in entries and _is_another(now[case], entries[case])]
    found = {
        "new": sorted(now.keys() - set(cases)),
        "gone": sorted(set(cases) - now.keys()),
        "replaced under the old name": replaced,
    }
    return [f"{len(ids)} {what} ({first_of(ids)})" for what, ids in found.items() if ids]


def _is_another(case: Case, entry: Mapping[str, Any]) -> bool:
    if entry.get("files") == _states(case):
        return False
    return [file_hash(path) for path in case.files] != entry["sha256"]


def _reading(entry: dict[str, Any]) -> Reading:
    return Reading(
        case=entry["case"],
        size=tuple(entry["size"]),
        spacing=tuple(entry["spacing"]),
        orientation=entry["orientation"],
        ranges=tuple((low, high) for low, high in entry["ranges"]),
        mean=tuple(entry["mean"]),
        std=tuple(entry["std"]),
        empty=entry.get("empty", 0.0),
        inside_mean=tuple(entry.get("inside_mean", ())),
        inside_std=tuple(entry.get("inside_std", ())),
    )


def require_known(plan: GeneratorPlan, file: Path, readings: Mapping[str, Reading]) -> None:
    """Require that a plan, which a person may have edited, names no other cases than there are.

    Args:
        plan: The plan.
        file: Where it was read.
        readings: The scans.

    Raises:
        DiffaugError: If it does.
    """
    if unknown := {*plan.cases, *plan.held_out, *plan.conditions.site_of} - readings.keys():
        raise DiffaugError(f"{file}: found the unknown case {min(unknown)}, expected ids of the dataset; fix the lists")


def nnunet_geometry(workspace: Workspace) -> tuple[list[float] | None, list[int] | None]:
    """Take spacing and patch size from the nnU-Net plan, if there is one, in the files' axis order.

    Args:
        workspace: The task's workspace.

    Returns:
        Spacing in mm and patch size in voxels, (Z, Y, X).
    """
    if not workspace.plans_file.is_file():
        return None, None  # an unlabelled dataset has no plan
    plans, configuration = read_plans(workspace)
    back = plans.transpose_backward
    return [float(configuration.spacing[i]) for i in back], [int(configuration.patch_size[i]) for i in back]


def fill_cache(dataset: RawDataset, plan: GeneratorPlan, readings: dict[str, Reading], folder: Path) -> VolumeCache:
    """Resample the plan's scans to its grid, once.

    Args:
        dataset: The scans.
        plan: The plan.
        readings: Id of each case and its reading.
        folder: The generator's folder, which keeps the cache.

    Returns:
        The cache.
    """
    # an edited grid gets a cache of its own
    cache = VolumeCache(folder / "cache" / fingerprint([plan.grid.spacing, plan.grid.orientation, SPLINE_ORDER]))
    cases = {case.id: case for case in dataset.cases}

    def resampled(case: str) -> np.ndarray:
        if case not in cases:
            raise DiffaugError(
                f"{cache.folder}: holds no {case}, and {dataset.name} has no such scan any more, expected one of them; "
                "restore the scan"
            )
        return to_canonical(dataset.read(cases[case]), readings[case], plan.grid)[0]

    cache.fill(tqdm([*plan.cases, *plan.held_out], "resampling scans", unit="scan", ascii=True), resampled)
    return cache
