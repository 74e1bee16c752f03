"""What the audit looks at: real and synthetic volumes on one grid, read one at a time, wherever they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from diffaug.errors import DiffaugError
from diffaug.generator.plan import GeneratorPlan
from diffaug.scans.cache import VolumeCache
from diffaug.scans.grid import Grid
from diffaug.scans.windows import Window, centred, cut
from diffaug.workspace import Workspace


@dataclass(frozen=True)
class AuditInputs:
    """Real scans that the generator was trained on, others, and the volumes it made.

    Attributes:
        title: What is audited.
        channels: Names of the channels.
        grid: The grid that all are brought onto.
        training: Ids of the scans that the generator was trained on.
        unseen: Ids of the real scans that the generator never saw; there may be none.
        scans: The real scans on the grid, each of its own extent.
        names: Names of the synthetic volumes.
        read: Gives a synthetic volume on the grid, of its own extent.
        windows: Where in a scan each synthetic volume lies; empty where every volume is a whole scan.
        files: Files of every real scan, by id.
        synthetic_files: Files of every synthetic volume, by name.
        about: What was done to the volumes, in plain words.
    """

    title: str
    channels: tuple[str, ...]
    grid: Grid
    training: tuple[str, ...]
    unseen: tuple[str, ...]
    scans: VolumeCache
    names: tuple[str, ...]
    read: Callable[[str], np.ndarray]
    windows: dict[str, Window]
    files: dict[str, tuple[Path, ...]]
    synthetic_files: dict[str, tuple[Path, ...]]
    about: tuple[str, ...]

    def synthetic(self, name: str) -> np.ndarray:
        """Read a synthetic volume and bring it onto the whole grid.

        Args:
            name: Its name.

        Returns:
            `(C, Z, Y, X)` float32 in [-1, 1]; what lay outside the scan's extent is mirrored, as it is for real scans.
        """
        inside = self.read(name)
        window = centred(inside.shape[1:], self.grid.shape)
        if name in self.windows:  # the file holds the part of the window that lies inside its scan
            start = tuple(min(offset, 0) for offset in self.windows[name].offset)
            window = Window(start, inside.shape[1:])
        return cut(inside, window, self.grid.shape)

    def real(self, case: str, like: str | None = None) -> np.ndarray:
        """Cut a window out of a real scan.

        Args:
            case: The scan's id.
            like: With a `patch` field of view: the synthetic volume at whose relative position to cut.

        Returns:
            `(C, Z, Y, X)` float32 in [-1, 1].
        """
        volume = self.scans[case]
        return cut(volume, self.place(volume.shape[1:], like), self.grid.shape)

    def place(self, extent: Sequence[int], like: str | None) -> Window:
        """Find the window of a real scan that corresponds to a synthetic volume's.

        Args:
            extent: Voxels (Z, Y, X) of the scan.
            like: The synthetic volume; None, or a `whole` field of view, takes the middle.

        Returns:
            A window at the same relative position, inside the scan wherever the scan is large enough.
        """
        shape = self.grid.shape
        middle = centred(extent, shape)
        if like is None or self.grid.field_of_view == "whole":
            return middle
        offset = []
        source = self.windows[like]
        for axis, (o, e, length, size) in enumerate(zip(source.offset, source.extent, shape, extent, strict=True)):
            room = size - length
            first = round((o + length / 2) / e * size - length / 2)
            offset.append(min(max(first, 0), room) if room > 0 else middle.offset[axis])
        return Window(tuple(offset), tuple(extent))

    def likes(self, cases: Sequence[str], seed: int) -> list[tuple[str, str | None]]:
        """Give each real scan a synthetic volume at whose place to cut.

        Args:
            cases: Ids of the scans.
            seed: Of the choice.

        Returns:
            Arguments for `real`.
        """
        picks = np.random.default_rng(seed).integers(len(self.names), size=len(cases))
        patch = self.grid.field_of_view == "patch"
        return [(case, self.names[i] if patch else None) for case, i in zip(cases, picks, strict=True)]


def from_task(
    workspace: Workspace,
    plan: GeneratorPlan,
    volumes: dict[str, Any],
    scans: VolumeCache,
    files: dict[str, tuple[Path, ...]],
) -> AuditInputs:
    """Take what `fit` and `sample` left in a task's run folder.

    Args:
        workspace: The task's workspace.
        plan: The generator's plan.
        volumes: Entry `volumes` of the stage `sample`'s manifest.
        scans: The scans on the plan's grid.
        files: Files of every scan.

    Returns:
        The inputs.
    """
    made = {
        name: tuple(workspace.synthetic / "imagesTr" / f"{name}_{i:04d}.nii.gz" for i in range(len(plan.channels)))
        for name in sorted(volumes)
    }
    return AuditInputs(
        title=f"the synthetic volumes of {workspace.dataset}",
        channels=plan.channels,
        grid=plan.grid,
        training=plan.cases,
        unseen=plan.held_out,
        scans=scans,
        names=tuple(made),
        read=lambda name: _in_range(made[name], plan.grid),
        windows={name: Window(tuple(v["offset"]), tuple(v["extent"])) for name, v in volumes.items()},
        files=files,
        synthetic_files=made,
        about=(
            "Real scans are as the generator was shown them: each scaled to its own robust range. Synthetic volumes were "
            "made in that range and keep it.",
        ),
    )


def _in_range(files: Sequence[Path], grid: Grid) -> np.ndarray:
    """Undo what `sample` did to the intensities: the grid's ranges stand for -1 and 1."""
    channels = []
    for file, (low, high) in zip(files, grid.ranges, strict=True):
        try:
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        except RuntimeError as error:
            raise DiffaugError(
                f"{file}: cannot be read, expected a synthetic volume; make the set anew: diffaug sample --fresh"
            ) from error
        channels.append(np.clip((values - low) / (high - low) * 2 - 1, -1, 1).astype(np.float32))
    return np.stack(channels)
