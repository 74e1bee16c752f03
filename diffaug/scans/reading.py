"""From files to a scan: nnU-Net's reader, and every check of what would otherwise go wrong much later."""

from __future__ import annotations

import gzip
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from diffaug.errors import DiffaugError, Notice, times
from diffaug.nnunet.readers import other_readers
from diffaug.scans.scan import Geometry, Scan

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
GZIP = b"\x1f\x8b"  # first bytes of what is compressed, whatever it is called
NIFTI_2 = 540  # bytes of its header, which its first four bytes say
LEAVE_OUT = "or leave the case out (move it elsewhere, or where the verb has --exclude, list its id in a file)"


def read_scan(files: Sequence[Path], reader: Any) -> Scan:
    """Read one case, one file per channel.

    Args:
        files: The case's files in channel order.
        reader: One of nnU-Net's reader classes (`nnunetv2.imageio`).

    Returns:
        The scan. Channels that lie otherwise in the patient than the first one are told of in a warning.

    Raises:
        DiffaugError: If a file is missing, cannot be read, is not 3D, holds NaN or infinity, does not match the case's
            first channel in size or spacing, or every channel is constant.
    """
    channels, geometries = zip(*(_read(file, reader) for file in files), strict=True)
    size, spacing = channels[0].shape, geometries[0].spacing
    for file, channel, geometry in zip(files[1:], channels[1:], geometries[1:], strict=True):
        if channel.shape != size or not np.allclose(geometry.spacing, spacing, rtol=1e-3):
            raise DiffaugError(
                f"{file}: size {channel.shape} and spacing {geometry.spacing} differ from {files[0].name} with {size} "
                f"and {spacing}, expected equal channels; resample it"
            )
        if told := moved(geometry, geometries[0]):
            told = f"{file}: {told} than {files[0].name}; nnU-Net and diffaug lay voxel on voxel"
            warnings.warn(told, Notice, stacklevel=2)
    # one of several may be: a sequence that a patient did not get
    if all(channel.min() == channel.max() for channel in channels):
        raise DiffaugError(
            f"{files[0]}: every voxel is {channels[0].flat[0]:g}, expected an image; remove it, {LEAVE_OUT}"
        )
    return Scan(np.stack(channels), geometries[0])


def moved(geometry: Geometry, other: Geometry) -> str:
    """Tell in words whether one channel lies otherwise in the patient than another; empty if it does not.

    Args:
        geometry: Its own.
        other: The other's.

    Returns:
        What differs.
    """
    if not np.allclose(geometry.direction, other.direction, atol=1e-2):
        return f"runs to {geometry.orientation} and not {other.orientation}, or is turned otherwise"
    shift = float(np.linalg.norm(np.subtract(geometry.origin, other.origin)))
    return f"begins {shift:.1f} mm elsewhere" if shift > min(other.spacing) / 2 else ""


def absence(file: Path) -> str:
    """Tell in words what stands where a file should; empty if the file does."""
    if file.is_file():
        return ""
    return "a folder" if file.is_dir() else "a link to nowhere" if file.is_symlink() else "no such file"


def no_volume(shape: Sequence[int]) -> str:
    """Tell in words why an array is no volume; empty if it is one.

    Args:
        shape: As files have it, (X, Y, Z) and perhaps further axes.

    Returns:
        What was found and expected.
    """
    several = len(shape) < 3 or math.prod(shape[3:]) != 1
    found = times(shape if several else shape[:3])
    if several:
        return f"found {found} values, expected one 3D volume"
    return f"found {found} values, expected at least two slices along every axis" if min(shape[:3]) < 2 else ""


def _read(file: Path, reader: Any) -> tuple[np.ndarray, Geometry]:
    if what := absence(file):
        raise DiffaugError(f"{file}: {what}, expected one image per channel; restore it, {LEAVE_OUT}")
    try:
        voxels, properties = reader().read_images((str(file),))
        stored = _stored(file, voxels)
    except Exception as error:  # each reader library has its own exceptions for a broken file
        raise DiffaugError(_why_not(file, reader, error)) from error
    if what := no_volume(voxels.shape[::-1]):
        fix = "split it into one file per channel" if voxels.shape[0] != 1 else "take another scan"
        raise DiffaugError(f"{file}: {what}; {fix}, {LEAVE_OUT}")
    count = max(int((~np.isfinite(values)).sum()) for values in (stored, voxels))
    if count:
        raise DiffaugError(
            f"{file}: found {count} NaN or infinite voxels, or too large for 32 bits, expected numbers; replace them, "
            f"{LEAVE_OUT}"
        )
    geometry = _geometry(file, properties)
    numbers = (*geometry.spacing, *geometry.origin, *geometry.direction)
    if not all(map(math.isfinite, numbers)) or min(geometry.spacing) <= 0:
        raise DiffaugError(
            f"{file}: its header says spacing {geometry.spacing} and origin {geometry.origin}, expected mm; mend the header, "
            f"{LEAVE_OUT}"
        )
    return voxels[0].astype(np.float32), geometry


def _why_not(file: Path, reader: Any, error: Exception) -> str:
    what = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    if isinstance(error, PermissionError):
        return f"{file}: cannot be opened (permission denied), expected a file that you may read; mend its rights"
    if able := next(other_readers(reader, file), None):
        return (
            f"{file}: cannot be read by nnU-Net's {reader.__name__} ({what}), expected what it reads; {able} can: write "
            f'"overwrite_image_reader_writer": "{able}" into dataset.json and plan anew, {LEAVE_OUT}'
        )
    return f"{file}: cannot be read ({what}), expected a whole 3D image file; copy it again, {LEAVE_OUT}"


def _stored(file: Path, voxels: np.ndarray) -> np.ndarray:
    """Read a NIfTI's raw values: ITK fills a truncated file with zeros and turns NaN into zero, without a word."""
    if not file.name.lower().endswith((".nii", ".nii.gz")):
        return voxels
    with open_nifti(file) as opened:
        content = opened.read()
    header, start = nifti_header(content)
    dtype, count = header.get_data_dtype(), math.prod(header.get_data_shape())
    if len(content) < start + count * dtype.itemsize:
        raise EOFError(f"it ends after {len(content)} of {start + count * dtype.itemsize} bytes")
    values = np.frombuffer(content, dtype, count, start)
    return values if dtype.kind in "fc" else voxels


def open_nifti(file: Path) -> Any:
    """Open a NIfTI for reading bytes, compressed or not, whatever its name says.

    Args:
        file: The file.

    Returns:
        The open file.
    """
    with file.open("rb") as opened:
        compressed = opened.read(2) == GZIP
    return gzip.open(file, "rb") if compressed else file.open("rb")


def nifti_header(content: bytes) -> tuple[Any, int]:
    """Read a NIfTI's header.

    Args:
        content: Its first bytes, 540 at least.

    Returns:
        The header, of version 1 or 2, and where the voxels begin.
    """
    size = {int.from_bytes(content[:4], order) for order in ("little", "big")}  # type: ignore[arg-type]
    kind = nibabel.Nifti2Header if NIFTI_2 in size else nibabel.Nifti1Header  # type: ignore[attr-defined]
    header = kind(content[: kind.sizeof_hdr], check=False)
    return header, max(int(header["vox_offset"]), kind.sizeof_hdr + 4)


def _geometry(file: Path, properties: dict[str, Any]) -> Geometry:
    """Take the geometry out of what nnU-Net's readers return, whichever library they wrap."""
    spacing = tuple(float(abs(s)) for s in properties["spacing"])
    if stuff := properties.get("sitk_stuff"):
        return Geometry(spacing, tuple(stuff["origin"]), tuple(stuff["direction"]))
    if stuff := properties.get("nibabel_stuff"):
        affine = _usable(file, np.asarray(stuff.get("reoriented_affine", stuff["original_affine"])), spacing)
        columns = RAS_TO_LPS @ affine[:3, :3]
        direction = columns / np.linalg.norm(columns, axis=0)
        return Geometry(spacing, tuple(map(float, RAS_TO_LPS @ affine[:3, 3])), tuple(map(float, direction.ravel())))
    return Geometry(spacing)


def _usable(file: Path, affine: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Take the sform, or the qform where that is all zeros, or else the file's own order of voxels."""
    stated = nibabel.load(file).header.get_qform(coded=True)[0]  # type: ignore[attr-defined]
    in_order = np.diag([*spacing[::-1], 1.0])
    return next(
        a for a in (affine, stated, in_order) if a is not None and (np.linalg.det(a[:3, :3]) != 0 or a is in_order)
    )
