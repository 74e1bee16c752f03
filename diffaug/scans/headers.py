"""What headers tell without a voxel being read: a thousand scans in seconds, before anything long begins."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path

import SimpleITK as sitk

from diffaug.scans.dataset import Case, RawDataset
from diffaug.scans.reading import NIFTI_2, absence, moved, nifti_header, no_volume, open_nifti
from diffaug.scans.scan import Geometry


def look_at_headers(dataset: RawDataset) -> tuple[dict[str, str], dict[str, str]]:
    """Look for what would stop the reading of a scan, or make a person wonder later.

    Args:
        dataset: The scans.

    Returns:
        By case what stops it, and what is odd.
    """
    stopping, odd = {}, {}
    for case in dataset.cases:
        try:
            geometries = [_look(file, dataset) for file in case.files]
        except (OSError, ValueError, RuntimeError, ArithmeticError) as error:
            stopping[case.id] = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            continue
        if told := _between_channels(case, geometries):
            odd[case.id] = told
    return stopping, odd


def _look(file: Path, dataset: RawDataset) -> Geometry | None:
    if what := absence(file):
        raise ValueError(f"{file}: {what}")
    if not os.access(file, os.R_OK):
        raise ValueError(f"{file}: permission denied")
    if file.name.lower().endswith((".nii", ".nii.gz")):
        _require_volume(file)
    if not dataset.reader.__name__.startswith("SimpleITK"):
        return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(f"{file}: {str(error).strip().splitlines()[-1]}") from error
    if reader.GetDimension() != 3:
        return None
    return Geometry(reader.GetSpacing()[::-1], reader.GetOrigin(), reader.GetDirection())


def _require_volume(file: Path) -> None:
    with open_nifti(file) as opened:
        content = opened.read(NIFTI_2)
        compressed = isinstance(opened, gzip.GzipFile)
    header, start = nifti_header(content)
    shape, spacing = header.get_data_shape(), [float(mm) for mm in header["pixdim"][1:4]]
    if what := no_volume(shape):
        raise ValueError(f"{file}: {what}")
    if not all(math.isfinite(mm) for mm in spacing):
        raise ValueError(f"{file}: its header says spacing {spacing}, expected mm")
    expected = start + math.prod(shape) * header.get_data_dtype().itemsize
    if not compressed and file.stat().st_size < expected:
        raise ValueError(f"{file}: ends after {file.stat().st_size} of {expected} bytes")


def _between_channels(case: Case, geometries: list[Geometry | None]) -> str:
    first = geometries[0]
    for file, geometry in zip(case.files[1:], geometries[1:], strict=True):
        if first is not None and geometry is not None and (told := moved(geometry, first)):
            return f"{file}: {told} than {case.files[0].name}"
    return ""
