"""A stack's voxels, decoded by ITK's GDCM, in the values that they stand for; a tilted gantry is set upright."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
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

MOST_HELD = 2**28  # voxels of volumes that are read side by side: a gigabyte; an archive is read once for each


def decoded(stacks: Sequence[Stack]) -> Iterator[tuple[int, Scan | DiffaugError]]:
    """Read volumes, many at once: a packed archive that is read for every volume takes days.

    Args:
        stacks: Their slices.

    Yields:
        The place of a volume in `stacks` as soon as its last slice has been read, and the volume (one channel, float32;
        HU for CT), or why there is none: a slice that cannot be read, or is not as large as its header says.
    """
    for numbers in _passes(stacks):
        yield from _decoded({number: _Volume(stacks[number]) for number in numbers})


def _passes(stacks: Sequence[Stack]) -> Iterator[list[int]]:
    """Share volumes out so that those of one pass fit into memory, wherever in an archive their slices lie."""
    numbers: list[int] = []
    held = 0
    for number, stack in enumerate(stacks):
        voxels = int(np.prod(stack.size))
        if numbers and held + voxels > MOST_HELD:
            yield numbers
            numbers, held = [], 0
        numbers.append(number)
        held += voxels
    if numbers:
        yield numbers


def _decoded(volumes: dict[int, _Volume]) -> Iterator[tuple[int, Scan | DiffaugError]]:
    wanted = defaultdict(list)
    for number, volume in volumes.items():
        for place, one in enumerate(volume.stack.slices):
            wanted[one.source].append((number, place))
    with tempfile.TemporaryDirectory(prefix="diffaug-dicom-") as folder:
        for source, content in opened(list(wanted)):
            places = [(number, place) for number, place in wanted.pop(source, []) if number in volumes]
            if not places:  # of volumes that have failed already
                continue
            try:
                frames: np.ndarray | DiffaugError = _frames(source, content, Path(folder))
            except DiffaugError as error:
                frames = error
            for number, place in places:
                if number in volumes and (made := volumes[number].take(place, frames)) is not None:
                    del volumes[number]
                    yield number, made
    for source, places in wanted.items():
        for number, _ in places:
            if volumes.pop(number, None):
                yield number, DiffaugError(f"{source}: cannot be read again, expected it as it was; get it anew")


class _Volume:
    """A volume on its way, and how many of its slices are still to come."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.voxels = np.empty(0)  # until the first slice comes: most volumes wait for their turn
        self.lacking = len(stack.slices)

    def take(self, place: int, frames: np.ndarray | DiffaugError) -> Scan | DiffaugError | None:
        """Take a slice; gives the volume with its last one, or why there will be none."""
        if isinstance(frames, DiffaugError):
            return frames
        one = self.stack.slices[place]
        if frames.shape[1:] != one.size or one.frame >= len(frames):
            return DiffaugError(
                f"{one.source}: found {frames.shape} voxels, expected {one.size} as its header says; get it anew"
            )
        if not self.voxels.size:
            self.voxels = np.empty(self.stack.size, dtype=np.float32)
        self.voxels[place] = _meant(frames[one.frame], one)
        self.lacking -= 1
        if self.lacking:
            return None
        geometry = self.stack.geometry.cropped(_margin(self.stack)[0].tolist())
        return Scan(_upright(self.voxels, self.stack)[None], geometry)


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
