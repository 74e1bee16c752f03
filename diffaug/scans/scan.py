"""One scan in memory: its voxels, where they lie in the patient, and the way from and to a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

from diffaug.errors import DiffaugError
from diffaug.files import atomic_path

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Geometry:
    """Where a voxel grid lies in the patient.

    Attributes:
        spacing: Voxel size in mm, in array order (Z, Y, X).
        origin: Centre of the first voxel in mm, as ITK gives it: (x, y, z) in LPS.
        direction: ITK's direction cosines, row-major 3x3, for index order (x, y, z).
    """

    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def orientation(self) -> str:
        """Where the x, y and z index run to, as in `LPS`: the nearest body axes."""
        return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(self.direction)

    def cropped(self, start: Sequence[float]) -> Geometry:
        """Describe the same grid when it begins at another voxel.

        Args:
            start: Index (Z, Y, X) of the new first voxel; may be negative or lie between voxels.

        Returns:
            The geometry that begins there.
        """
        return self._moved((np.array(start) * self.spacing)[::-1], np.array(self.spacing))

    def _moved(self, offset_mm: np.ndarray, spacing: np.ndarray) -> Geometry:
        origin = np.array(self.origin) + np.array(self.direction).reshape(3, 3) @ offset_mm
        return replace(self, origin=tuple(map(float, origin)), spacing=tuple(map(float, spacing)))


@dataclass(frozen=True)
class Scan:
    """A scan: voxels `(C, Z, Y, X)` float32 in the file's own units, and their geometry."""

    voxels: np.ndarray
    geometry: Geometry

    @property
    def size(self) -> tuple[int, ...]:
        """Number of voxels (Z, Y, X)."""
        return self.voxels.shape[1:]


def read_scan(files: Sequence[Path], reader: Any) -> Scan:
    """Read one case, one file per channel, and check all that would otherwise go wrong much later.

    Args:
        files: The case's files in channel order.
        reader: One of nnU-Net's reader classes (`nnunetv2.imageio`).

    Returns:
        The scan.

    Raises:
        DiffaugError: If a file is missing, cannot be read, is not 3D, holds NaN or infinity, is constant, or does not
            match the case's first channel in size or spacing.
    """
    channels: list[np.ndarray] = []
    geometries: list[Geometry] = []
    for file in files:
        if not file.is_file():
            raise DiffaugError(f"{file}: no such file, expected one image per channel; restore it or remove the case")
        try:
            voxels, properties = reader().read_images((str(file),))
            stored = _stored(file, voxels)
        except Exception as error:  # each reader library has its own exceptions for a broken file
            what = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise DiffaugError(
                f"{file}: cannot be read ({what[0]}), expected a whole image file; copy it again or remove the case"
            ) from error
        if voxels.shape[0] != 1 or min(voxels.shape[1:]) < 2:
            found = " x ".join(map(str, voxels.shape[::-1]))
            raise DiffaugError(
                f"{file}: found {found} values, expected one 3D volume; split it into one file per channel"
            )
        if not np.isfinite(stored).all():
            count = int((~np.isfinite(stored)).sum())
            raise DiffaugError(
                f"{file}: found {count} NaN or infinite voxels, expected numbers; replace them or remove it"
            )
        if voxels.min() == voxels.max():
            raise DiffaugError(f"{file}: every voxel is {voxels.flat[0]:g}, expected an image; remove the case")
        channels.append(voxels[0].astype(np.float32))
        geometries.append(_geometry(properties))
    size, spacing = channels[0].shape, geometries[0].spacing
    for file, channel, geometry in zip(files[1:], channels[1:], geometries[1:], strict=True):
        if channel.shape != size or not np.allclose(geometry.spacing, spacing, rtol=1e-3):
            raise DiffaugError(
                f"{file}: size {channel.shape} and spacing {geometry.spacing} differ from {files[0].name} with {size} "
                f"and {spacing}, expected equal channels; resample it"
            )
    return Scan(np.stack(channels), geometries[0])


def _stored(file: Path, voxels: np.ndarray) -> np.ndarray:
    """Read a NIfTI once more: ITK fills a truncated file with zeros and turns NaN into zero, without a word."""
    if file.name.endswith((".nii", ".nii.gz")):
        return np.asanyarray(nibabel.load(file).dataobj)  # type: ignore[attr-defined]
    return voxels


def _geometry(properties: dict[str, Any]) -> Geometry:
    """Take the geometry out of what nnU-Net's readers return, whichever library they wrap."""
    spacing = tuple(float(abs(s)) for s in properties["spacing"])
    if stuff := properties.get("sitk_stuff"):
        return Geometry(spacing, tuple(stuff["origin"]), tuple(stuff["direction"]))
    if stuff := properties.get("nibabel_stuff"):
        affine = np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]))
        columns = RAS_TO_LPS @ affine[:3, :3]
        direction = columns / np.linalg.norm(columns, axis=0)
        return Geometry(spacing, tuple(map(float, RAS_TO_LPS @ affine[:3, 3])), tuple(map(float, direction.ravel())))
    return Geometry(spacing)


def to_images(scan: Scan) -> list[sitk.Image]:
    """Turn each channel of a scan into an ITK image.

    Args:
        scan: The scan.

    Returns:
        One 3D image per channel.
    """
    images = []
    for channel in scan.voxels:
        image = sitk.GetImageFromArray(np.ascontiguousarray(channel, dtype=np.float32))
        image.SetSpacing(scan.geometry.spacing[::-1])
        image.SetOrigin(scan.geometry.origin)
        image.SetDirection(scan.geometry.direction)
        images.append(image)
    return images


def reorient(scan: Scan, orientation: str) -> Scan:
    """Permute and flip the axes so that the indices run to given sides of the body; no voxel value changes.

    Args:
        scan: The scan.
        orientation: Where x, y and z run to, for example `LPS`.

    Returns:
        The same voxels at the same places in the patient, in another array order.
    """
    if scan.geometry.orientation == orientation:
        return scan
    images = [sitk.DICOMOrient(image, orientation) for image in to_images(scan)]
    geometry = Geometry(images[0].GetSpacing()[::-1], images[0].GetOrigin(), images[0].GetDirection())
    return Scan(np.stack([sitk.GetArrayFromImage(image) for image in images]), geometry)


def write_scan(scan: Scan, folder: Path, case: str) -> list[Path]:
    """Write a case in nnU-Net's raw naming, `CASE_0000.nii.gz` and on, each file atomically.

    Args:
        scan: The scan.
        folder: Where to; made if it is missing.
        case: The case's id.

    Returns:
        The files.
    """
    files = []
    for channel, image in enumerate(to_images(scan)):
        file = folder / f"{case}_{channel:04d}.nii.gz"
        with atomic_path(file) as temporary:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        files.append(file)
    return files
