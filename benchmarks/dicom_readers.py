"""DICOM readers on a known volume: does it come back with its values, at its place, the right way round? And how fast?

    pip install dcm2niix
    python -m benchmarks.dicom_readers --out benchmarks/results/dicom_readers.md

`diffaug import-dicom`, ITK's own series reader (SimpleITK), and dcm2niix if it is installed. A reader may refuse: that is
right where slices are missing, and told apart from silence.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.dicoms import ORIGIN, SHAPE, SHEAR, SPACING, WAYS, Known, known, meaning, write_series
from benchmarks.measuring import machine, write_report
from diffaug.dicom.importing import import_studies
from diffaug.dicom.requests import ImportRequest
from diffaug.errors import DiffaugError

CLOSE = 1.0  # grey value, by which a resampled volume may differ
TILTED, GAP, FLOATING, TWICE = "gantry tilt", "a slice is missing", "a slope of 0.5 after one of 1", "sent twice"


def hard_ways() -> dict[str, Callable[[Path], Known]]:
    """Ways in which readers go wrong.

    Returns:
        By name, as `WAYS`.
    """

    def tilted(folder: Path) -> Known:
        write_series(folder, volume := known(modality="CT"), shear=SHEAR)
        return volume

    def gap(folder: Path) -> Known:
        write_series(folder, volume := _long(), skip=(5,))
        return volume

    def floating(folder: Path) -> Known:
        write_series(folder, volume := known(), slopes=np.array([1.0] + [0.5] * (SHAPE[0] - 1)))
        return volume

    def twice(folder: Path) -> Known:
        files = write_series(folder, volume := known())
        for file in files[:2]:
            shutil.copy(file, folder / f"again_{file.name}")
        return volume

    return {TILTED: tilted, GAP: gap, FLOATING: floating, TWICE: twice}


def _long() -> Known:
    return replace(known(), voxels=np.concatenate([known().voxels, known(1).voxels]))


def expected(way: str, volume: Known) -> np.ndarray:
    """Tell what a reader must find at the place of each voxel.

    Args:
        way: How it was written.
        volume: The volume.

    Returns:
        `(Z, Y, X)`.
    """
    if way == FLOATING:
        return volume.voxels * np.array([1.0] + [0.5] * (SHAPE[0] - 1))[:, None, None]
    return meaning(way, volume)


def by_diffaug(folder: Path, out: Path) -> list[sitk.Image]:
    """Read with `diffaug import-dicom`."""
    request = ImportRequest((folder,), "Dataset999_Known", key=out / "key.json")
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
            images = import_studies(request, out / "Dataset999_Known")
    except DiffaugError:
        return []
    return [sitk.ReadImage(str(file), sitk.sitkFloat32) for file in sorted(images.glob("*.nii.gz"))]


def by_itk(folder: Path, out: Path) -> list[sitk.Image]:
    """Read with ITK's series reader, as its documentation does."""
    images = []
    for series in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series)
        image = sitk.ReadImage(files if len(files) > 1 else files[0])
        images.append(sitk.Cast(image, sitk.sitkFloat32))
    return images


def by_dcm2niix(folder: Path, out: Path) -> list[sitk.Image]:
    """Read with dcm2niix; where it writes a mended volume beside the first, the mended one."""
    subprocess.run(
        ["dcm2niix", "-z", "n", "-b", "n", "-f", "x", "-o", str(out), str(folder)], capture_output=True, check=False
    )
    files = sorted(out.glob("*.nii"))
    mended = [file for file in files if "Tilt" in file.name or "_Eq" in file.name]
    return [sitk.ReadImage(str(file), sitk.sitkFloat32) for file in mended or files]


def judge(images: list[sitk.Image], values: np.ndarray, volume: Known, skip: tuple[int, ...], shear: float) -> str:
    """Compare a reader's volume with the known one.

    Args:
        images: What it gave.
        values: What it must hold.
        volume: The known volume.
        skip: Slices that nobody has written.
        shear: By how much slices are tilted, mm.

    Returns:
        The outcome in words.
    """
    if not images:
        return "refused, with the reason"
    if len(images) > 1:
        return f"{len(images)} volumes in place of one"
    image, worst = images[0], 0.0
    for z in set(range(len(values))) - set(skip):
        for y in range(1, values.shape[1] - 1, 6):
            for x in range(0, values.shape[2], 6):
                along = np.array([x * SPACING[2], y * SPACING[1] + z * shear, z * SPACING[0]])
                point = (np.array(ORIGIN) + volume.axes @ along).tolist()
                index = image.TransformPhysicalPointToContinuousIndex(point)
                inside = all(-0.01 <= i <= n - 0.99 for i, n in zip(index, image.GetSize(), strict=True))
                if not inside:
                    return "wrong: elsewhere in the patient"
                worst = max(worst, abs(image.EvaluateAtPhysicalPoint(point) - values[z, y, x]))
    if worst <= CLOSE:
        return "right"
    return f"values off by up to {worst:.0f}"


def speed(files: int) -> list[dict[str, object]]:
    """Time an import beside reading the same bytes.

    Args:
        files: How many instances, of 256 x 256 voxels.

    Returns:
        Rows of a table.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, depth = Path(folder), 100
        rng = np.random.default_rng(0)
        one = replace(known(), voxels=rng.integers(0, 1000, (depth, 256, 256), dtype=np.int16))
        for number in range(files // depth):
            write_series(root / "studies" / str(number), one, number=number, study=f"1.2.{number}", patient=str(number))
        started = time.perf_counter()
        size = sum(len(file.read_bytes()) for file in (root / "studies").rglob("*") if file.is_file())
        reading = time.perf_counter() - started
        request = ImportRequest((root / "studies",), "Dataset998_Many", key=root / "key.json", dry_run=True)
        steps = {"look at every header (`--dry-run`)": request, "import": replace(request, dry_run=False)}
        rows: list[dict[str, object]] = [
            {"step": "read every byte", "s": round(reading, 1), "files a second": round(files / reading)}
        ]
        for step, asked in steps.items():
            started = time.perf_counter()
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
                import_studies(asked, root / "Dataset998_Many")
            took = time.perf_counter() - started
            rows.append({"step": step, "s": round(took, 1), "files a second": round(files / took)})
        if shutil.which("dcm2niix"):
            (root / "out").mkdir()
            started = time.perf_counter()
            subprocess.run(
                ["dcm2niix", "-z", "i", "-b", "n", "-o", str(root / "out"), str(root / "studies")], capture_output=True
            )
            took = time.perf_counter() - started
            rows.append({"step": "dcm2niix, gzip too", "s": round(took, 1), "files a second": round(files / took)})
        print(f"{files} files, {size / 1e9:.2f} GB")
        return rows


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="of the timing (%(default)s)")
    parser.add_argument("--out", type=Path, help="the report")
    arguments = parser.parse_args()
    readers: dict[str, Callable[[Path, Path], list[sitk.Image]]] = {"diffaug": by_diffaug, "SimpleITK": by_itk}
    if shutil.which("dcm2niix"):
        readers["dcm2niix"] = by_dcm2niix
    rows = []
    for way, write in (WAYS | hard_ways()).items():
        row: dict[str, object] = {"written as": way}
        for name, read in readers.items():
            with tempfile.TemporaryDirectory() as folder:
                (out := Path(folder) / "out").mkdir()
                volume = write(Path(folder) / "in")
                skip, shear = ((5,) if way == GAP else ()), (SHEAR if way == TILTED else 0.0)
                try:
                    row[name] = judge(read(Path(folder) / "in", out), expected(way, volume), volume, skip, shear)
                except RuntimeError as error:
                    row[name] = f"error: {str(error).strip().splitlines()[-1][:60]}"
        rows.append(row)
        print(row, flush=True)
    timed = speed(arguments.files)
    print(timed)
    if arguments.out:
        told = (
            "A volume brighter to the left, behind and above, written in each way and read again. Right: every value at its "
            f"place in the patient within {CLOSE:g} grey value. Of two volumes of dcm2niix, the mended one counts."
        )
        many = f"{arguments.files} instances of 256 x 256 voxels in series of 100, beside other jobs: see the ratios."
        tables = {"Right or wrong": {"text": told, "rows": rows}, "Time": {"text": many, "rows": timed}}
        write_report(
            arguments.out, "DICOM readers", {"command": "`python -m benchmarks.dicom_readers`", **machine()}, tables
        )


if __name__ == "__main__":
    main()
