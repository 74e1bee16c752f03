"""A stack's voxels, decoded by ITK's GDCM, in the values that they stand for; a tilted gantry is set upright."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import shift

from diffaug.dicom.headers import Slice
from diffaug.dicom.sources import DAMAGED, Source, first_line, opened
from diffaug.dicom.stacks import Stack
from diffaug.errors import DiffaugError
from diffaug.scans.scan import Scan


def decode(stack: Stack) -> Scan:
    """Read a volume.

    Args:
        stack: Its slices.

    Returns:
        One channel, float32; HU for CT.

    Raises:
        DiffaugError: If a slice cannot be read, or is not as large as its header says.
    """
    voxels = np.empty(stack.size, dtype=np.float32)
    by_source = defaultdict(list)
    for place, one in enumerate(stack.slices):
        by_source[one.source].append((place, one))
    with tempfile.TemporaryDirectory(prefix="diffaug-dicom-") as folder:
        for source, content in opened(list(by_source)):
            frames = _frames(source, content, Path(folder))
            for place, one in by_source.pop(source, []):
                if frames.shape[1:] != one.size or one.frame >= len(frames):
                    raise DiffaugError(
                        f"{source}: found {frames.shape} voxels, expected {one.size} as its header says; get it anew"
                    )
                voxels[place] = _meant(frames[one.frame], one)
    if by_source:
        raise DiffaugError(f"{next(iter(by_source))}: cannot be read again, expected it as it was; get it anew")
    return Scan(_upright(voxels, stack)[None], stack.geometry.cropped(_margin(stack)[0].tolist()))


def _meant(values: np.ndarray, one: Slice) -> np.ndarray:
    """Undo the rescaling that ITK has done, by the first frame's, and do the slice's own."""
    if one.rescale == one.first_rescale or not one.first_rescale[0]:
        return values
    stored = (values - one.first_rescale[1]) / one.first_rescale[0]
    return stored * one.rescale[0] + one.rescale[1]


def _frames(source: Source, content: BinaryIO, folder: Path) -> np.ndarray:
    file = source.file
    if source.member or not _in_utf8(file):  # ITK ends the whole process at other names
        file = folder / "instance.dcm"  # never by the name that the archive gives it
        try:
            with file.open("wb") as copy:
                shutil.copyfileobj(content, copy)
        except DAMAGED as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise DiffaugError(
                f"{source}: is damaged ({first_line(error)}), expected a whole archive; copy it again"
            ) from error
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        image = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise DiffaugError(
            f"{source}: its voxels cannot be decoded ({str(error).strip().splitlines()[-1][:120]}), expected a whole "
            "instance; get it anew"
        ) from error
    return image if image.ndim == 3 else image[None]


def _in_utf8(file: Path) -> bool:
    try:
        os.fsencode(file).decode()
    except UnicodeDecodeError:
        return False
    return True


def _margin(stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """First and last voxel (Z, Y, X) of the box that holds all slices of a tilted stack."""
    last = np.array(stack.tilt) / stack.geometry.spacing[1:] * (len(stack.slices) - 1)
    first, end = np.floor(np.minimum(last, 0)), np.ceil(np.maximum(last, 0))
    return np.array([0, *first]), np.array([0, *end])


def _upright(voxels: np.ndarray, stack: Stack) -> np.ndarray:
    """Move each slice to where it lies; around it is the lowest value."""
    if not any(stack.tilt):
        return voxels
    first, end = _margin(stack)
    padding = [(int(-a), int(b)) for a, b in zip(first, end, strict=True)]
    empty = float(voxels.min())
    padded = np.pad(voxels, padding, constant_values=empty)
    steps = np.array(stack.tilt) / stack.geometry.spacing[1:]
    for place, one in enumerate(padded):
        padded[place] = shift(one, steps * place, order=1, cval=empty)
    return padded
