"""What the audit looks at: real and synthetic volumes on one grid, read one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from diffaug.errors import DiffaugError
from diffaug.generator.plan import GeneratorPlan
from diffaug.volumes.cache import VolumeCache
from diffaug.volumes.windows import Window, centred, cut


@dataclass(frozen=True)
class Material:
    """Real scans from the cache that fitting made, synthetic volumes from their files.

    Attributes:
        plan: The generator's plan.
        cache: Real scans on the canonical grid, each with its own extent.
        folder: Stage `sample`'s folder.
        windows: Name of each synthetic volume, and where in a scan it lies.
    """

    plan: GeneratorPlan
    cache: VolumeCache
    folder: Path
    windows: dict[str, Window]

    @property
    def names(self) -> list[str]:
        """Names of the synthetic volumes, sorted."""
        return sorted(self.windows)

    def synthetic(self, name: str) -> np.ndarray:
        """Read a synthetic volume and bring it back onto the whole grid.

        Args:
            name: Its name.

        Returns:
            `(C, Z, Y, X)` float32 in [-1, 1]; what lay outside the scan's extent is mirrored, as it is for real scans.

        Raises:
            DiffaugError: If a file is missing or broken.
        """
        channels = []
        for number, (low, high) in enumerate(self.plan.grid.ranges):
            file = self.folder / "imagesTr" / f"{name}_{number:04d}.nii.gz"
            try:
                values = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
            except RuntimeError as error:
                raise DiffaugError(
                    f"{file}: cannot be read, expected a synthetic volume; make the set anew: diffaug sample --fresh"
                ) from error
            channels.append(np.clip((values - low) / (high - low) * 2 - 1, -1, 1).astype(np.float32))
        inside = np.stack(channels)
        start = tuple(min(offset, 0) for offset in self.windows[name].offset)
        return cut(inside, Window(start, inside.shape[1:]), self.plan.grid.shape)

    def real(self, case: str, like: str | None = None, shift: Sequence[int] = (0, 0, 0)) -> np.ndarray:
        """Cut a window out of a real scan.

        Args:
            case: The scan's id.
            like: With a `patch` field of view: the synthetic volume at whose relative position to cut.
            shift: Voxels (Z, Y, X) to move the window by.

        Returns:
            `(C, Z, Y, X)` float32 in [-1, 1].
        """
        volume = self.cache[case]
        window = self.place(volume.shape[1:], like)
        moved = tuple(o + s for o, s in zip(window.offset, shift, strict=True))
        return cut(volume, Window(moved, window.extent), self.plan.grid.shape)

    def place(self, extent: Sequence[int], like: str | None, mirrored: int | None = None) -> Window:
        """Find the window of a real scan that corresponds to a synthetic volume's.

        Args:
            extent: Voxels (Z, Y, X) of the scan.
            like: The synthetic volume; None, or a `whole` field of view, takes the middle.
            mirrored: Axis along which to take the mirrored position.

        Returns:
            A window at the same relative position, inside the scan wherever the scan is large enough.
        """
        shape = self.plan.grid.shape
        middle = centred(extent, shape)
        if like is None or self.plan.grid.field_of_view == "whole":
            return middle
        offset = []
        source = self.windows[like]
        for axis, (o, e, length, size) in enumerate(zip(source.offset, source.extent, shape, extent, strict=True)):
            share = (o + length / 2) / e
            share = 1 - share if axis == mirrored else share
            room = size - length
            offset.append(min(max(round(share * size - length / 2), 0), room) if room > 0 else middle.offset[axis])
        return Window(tuple(offset), tuple(extent))


def windows_of(volumes: dict[str, Any]) -> dict[str, Window]:
    """Read the windows out of stage `sample`'s manifest.

    Args:
        volumes: Its entry `volumes`.

    Returns:
        Name of each synthetic volume and its window.
    """
    return {name: Window(tuple(entry["offset"]), tuple(entry["extent"])) for name, entry in volumes.items()}
