"""Two folders of volumes, from whatever generator: held against each other, and brought onto one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffaug.audit.inputs import AuditInputs
from diffaug.audit.requests import FoldersRequest
from diffaug.errors import DiffaugError
from diffaug.files import fingerprint, read_json, write_json
from diffaug.scans.cache import VolumeCache
from diffaug.scans.canonical import SPLINE_ORDER, to_canonical
from diffaug.scans.dataset import RawDataset
from diffaug.scans.folders import identity, open_images
from diffaug.scans.grid import Grid, median_spacing, plan_grid
from diffaug.scans.hounsfield import in_their_units
from diffaug.scans.readings import is_ct, read_off

FEWEST_SCANS = 10  # real scans: fewer do not tell how alike scans of different patients are
MULTIPLE = (4, 4, 4)  # of the grid's shape
GRID_VOXELS = {"cpu": 2**17, "cuda": 2**21}  # of the grid


def open_folders(request: FoldersRequest) -> dict[str, RawDataset]:
    """List the folders and refuse what does not fit together, before anything long begins.

    Args:
        request: Where they lie.

    Returns:
        `real`, `synthetic` and, if asked for, `unseen`.

    Raises:
        DiffaugError: If the channels differ in number, a scan is in both `real` and `unseen`, or there are too few.
    """
    asked = {"real": request.real, "synthetic": request.synthetic, "unseen": request.unseen}
    found = {name: open_images(folder, f"--{name}") for name, folder in asked.items() if folder is not None}
    wanted = len(found["real"].channels)
    for name, dataset in found.items():
        if len(dataset.channels) != wanted:
            raise DiffaugError(
                f"--{name} {asked[name]}: found {len(dataset.channels)} channels, expected {wanted} as in --real; fix the "
                "folder"
            )
    ids = [{case.id for case in found[name].cases} for name in ("real", "unseen") if name in found]
    if both := set.intersection(*ids) if len(ids) > 1 else set():
        raise DiffaugError(
            f"--unseen {request.unseen}: found {min(both)} in --real too, expected scans that the generator never "
            "saw; remove or rename it"
        )
    if (count := sum(map(len, ids))) < FEWEST_SCANS:
        raise DiffaugError(
            f"--real {request.real}: found {count} real scans, unseen ones included, expected at least {FEWEST_SCANS}; add "
            "scans"
        )
    return found


def from_folders(request: FoldersRequest, found: dict[str, RawDataset], folder: Path, device: str) -> AuditInputs:
    """Bring the volumes of the folders onto one grid, planned from the real scans. What is there is not made again.

    Args:
        request: Where they lie.
        found: From `open_folders`.
        folder: Where the grid and the resampled volumes are kept.
        device: `cpu` or `cuda`: the grid is coarser on a CPU.

    Returns:
        The inputs.
    """
    real, synthetic, unseen = found["real"], found["synthetic"], found.get("unseen")
    grid = _plan(real, folder / "grid.json", GRID_VOXELS[device])
    scans = VolumeCache(folder / f"real_{SPLINE_ORDER}")
    made = VolumeCache(folder / f"synthetic_{fingerprint([SPLINE_ORDER, identity(synthetic)])}")
    for dataset, cache in ((real, scans), (unseen, scans), (synthetic, made)):
        if dataset is not None:
            _resample(dataset, real.channels, grid, cache)
    ids = tuple(case.id for case in real.cases)
    return AuditInputs(
        title=f"{request.synthetic.name} against {request.real.name}",
        channels=real.channels,
        grid=grid,
        training=ids,
        unseen=tuple(case.id for case in unseen.cases) if unseen else (),
        scans=scans,
        names=tuple(case.id for case in synthetic.cases),
        read=made.__getitem__,
        windows={},
        files={c.id: c.files for d in (real, unseen) if d for c in d.cases},
        synthetic_files={c.id: c.files for c in synthetic.cases},
        about=(_about(real, grid),),
    )


def _about(real: RawDataset, grid: Grid) -> str:
    """Say in plain words what was done to the volumes before they were compared."""
    windows = [limits for name, limits in zip(real.channels, grid.ranges, strict=True) if is_ct(name)]
    if windows:
        return f"CT is cut to a fixed window of {windows[0][0]:g} to {windows[0][1]:g}, the same for both folders."
    return (
        "Each volume, real or synthetic, was scaled to its own 0.1st to 99.9th percentile: the units of MR mean "
        "nothing across scans. So a synthetic set that is too dark or too bright throughout goes unnoticed here. For CT, "
        "put a dataset.json with the channel name CT beside imagesTr."
    )


def _plan(real: RawDataset, file: Path, voxels: int) -> Grid:
    if not file.is_file():
        readings = []
        for case in tqdm(real.cases, "reading scans", unit="scan", ascii=True):
            readings.append(read_off(case.id, real.read(case), real.channels))
        readings, told = in_their_units(readings, real.channels)
        for sentence in told:
            print(f"audit: {sentence}", flush=True)
        spacing = median_spacing(readings)
        grid = plan_grid(readings, voxels=voxels, multiple=MULTIPLE, spacing=spacing, field_of_view="whole")
        write_json(file, asdict(grid))
    kept = read_json(file, "delete it and run diffaug audit again")
    return Grid(
        field_of_view=kept["field_of_view"],
        orientation=kept["orientation"],
        spacing=tuple(kept["spacing"]),
        shape=tuple(kept["shape"]),
        ranges=tuple((low, high) for low, high in kept["ranges"]),
        mean=tuple(kept["mean"]),
        std=tuple(kept["std"]),
    )


def _resample(dataset: RawDataset, channels: Sequence[str], grid: Grid, cache: VolumeCache) -> None:
    cases = {case.id: case for case in dataset.cases}
    windows = {number: grid.ranges[number] for number, name in enumerate(channels) if is_ct(name)}

    def resampled(case: str) -> np.ndarray:
        scan = dataset.read(cases[case])
        return to_canonical(scan, read_off(case, scan, channels, windows), grid)[0]

    cache.fill(tqdm(cases, f"resampling {dataset.name}", unit="scan", ascii=True), resampled)
