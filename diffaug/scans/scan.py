"""One scan in memory: its voxels, where they lie in the patient, and the way to a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from diffaug.images import write_image


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


def centred_geometry(size: Sequence[int], spacing: Sequence[float], orientation: str) -> Geometry:
    """Lay a grid around the origin of the patient's coordinates.

    Args:
        size: Voxels (Z, Y, X).
        spacing: In mm, (Z, Y, X).
        orientation: Where x, y and z run to, for example `LPS`.

    Returns:
        The geometry.
    """
    axes = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    direction = np.array([axes[letter] for letter in orientation], dtype=float).T
    geometry = Geometry(tuple(spacing), (0.0, 0.0, 0.0), tuple(map(float, direction.ravel())))
    return replace(geometry, origin=geometry.cropped([-(count - 1) / 2 for count in size]).origin)


@dataclass(frozen=True)
class Scan:
    """A scan: voxels `(C, Z, Y, X)` float32 in the file's own units, and their geometry."""

    voxels: np.ndarray
    geometry: Geometry

    @property
    def size(self) -> tuple[int, ...]:
        """Number of voxels (Z, Y, X)."""
        return self.voxels.shape[1:]


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
        write_image(image, file)
        files.append(file)
    return files
