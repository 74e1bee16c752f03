"""What to pretrain on: any folder of images, each preprocessed exactly as nnU-Net preprocesses the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from typing_extensions import NotRequired, TypedDict

from diffaug.errors import DiffaugError
from diffaug.files import file_hash, read_json
from diffaug.nnunet.dataset_json import channels_and_ending, read_dataset_json
from diffaug.patients import known_patients
from diffaug.scans.dataset import RawDataset, open_dataset, open_folder
from diffaug.shapes import require_shape
from diffaug.workspace import Workspace


class GridKept(TypedDict):
    """The grid of synthetic volumes, as far as it is needed here."""

    field_of_view: str
    mean: list[float]
    std: list[float]
    inside_mean: NotRequired[list[float]]
    inside_std: NotRequired[list[float]]


class Sampled(TypedDict):
    """What the manifest of finished volumes holds, as far as it is needed here."""

    grid: GridKept
    seen: list[str]
    origin: NotRequired[str]


@dataclass(frozen=True)
class ScanStatistics:
    """What nnU-Net would normalise whole scans by.

    Attributes:
        whole: Mean and standard deviation per channel of the box round everything that is not zero.
        inside: The same of what is not zero, which nnU-Net takes where the plan has `use_mask_for_norm`.
    """

    whole: tuple[Sequence[float], Sequence[float]]
    inside: tuple[Sequence[float], Sequence[float]]

    @classmethod
    def of(cls, grid: GridKept) -> ScanStatistics:
        """Take them from a grid; one of before there was `inside` has the same for both."""
        whole = grid["mean"], grid["std"]
        return cls(whole, (grid.get("inside_mean") or whole[0], grid.get("inside_std") or whole[1]))

    def of_channel(self, channel: int, *, masked: bool) -> tuple[float, float]:
        """Give a channel's mean and standard deviation."""
        mean, std = self.inside if masked else self.whole
        return mean[channel], std[channel]


@dataclass(frozen=True)
class Source:
    """Some images and where they come from.

    Attributes:
        name: `synthetic`, `real`, or the folder.
        dataset: The images.
        seen: Ids of the real cases in them, or in what made them.
        statistics: For windows of scans the whole scan's; None for scans.
        generator: File of the generator that made them; None for scans.
        origin: Whose scans that generator has seen, in its sender's words; None where `seen` tells.
    """

    name: str
    dataset: RawDataset
    seen: tuple[str, ...]
    statistics: ScanStatistics | None = None
    generator: Path | None = None
    origin: str | None = None


def synthetic_source(folder: Path, exclude: set[str]) -> Source:
    """Take the volumes that `diffaug sample` wrote.

    Args:
        folder: Their folder.
        exclude: Ids of cases that must not be seen.

    Returns:
        The source.

    Raises:
        DiffaugError: If it is no such folder, or unfinished.
    """
    manifest = read_json(folder / "manifest.json", "run: diffaug sample")
    if not isinstance(manifest, dict) or manifest.get("stage") != "sample" or not manifest.get("finished"):
        raise DiffaugError(
            f"{folder / 'manifest.json'}: no manifest of finished volumes of diffaug sample, expected one; finish it with "
            "diffaug sample, or remove the file if the folder holds other images"
        )
    require_shape(manifest, Sampled, folder / "manifest.json", "make the volumes anew: diffaug sample --fresh")
    grid = manifest["grid"]
    patch = grid["field_of_view"] == "patch"
    statistics = ScanStatistics.of(grid) if patch else None
    generator = folder.parent / "generator" / "generator.safetensors"
    dataset, seen = open_dataset(folder, exclude=exclude), tuple(manifest["seen"])
    return Source("synthetic", dataset, seen, statistics, generator, manifest.get("origin"))


def real_source(workspace: Workspace, extra: Sequence[Path], exclude: set[str]) -> Source:
    """Take the real scans.

    Args:
        workspace: The task's workspace.
        extra: Further folders of images.
        exclude: Ids of cases that must not be seen.

    Returns:
        The source.
    """
    dataset = open_dataset(workspace.raw, extra=extra, exclude=exclude, plans=workspace.plans_file)
    return Source("real", dataset, tuple(case.id for case in dataset.cases))


def folder_source(workspace: Workspace, folder: Path, exclude: set[str]) -> Source:
    """Take any folder of images of the dataset's channels and file type.

    Args:
        workspace: The task's workspace.
        folder: The folder; one in nnU-Net's raw layout counts with its `imagesTr` and `imagesUn`, one of `diffaug
            sample` with the scans its generator has seen.
        exclude: Ids of cases that must not be seen.

    Returns:
        The source.
    """
    if (folder / "manifest.json").is_file():
        return replace(synthetic_source(folder, exclude), name=str(folder))  # it may stand beside the task's own
    if (folder / "dataset.json").is_file():
        # read as nnU-Net will read the task's own: another reader may turn them otherwise
        alike = (
            channels_and_ending(read_dataset_json(folder))[1]
            == channels_and_ending(read_dataset_json(workspace.raw))[1]
        )
        dataset = open_dataset(folder, exclude=exclude, plans=workspace.plans_file if alike else None)
    else:
        info = read_dataset_json(workspace.raw)
        dataset = open_folder(folder, info, exclude=exclude, plans=workspace.plans_file)
    return Source(str(folder), dataset, tuple(case.id for case in dataset.cases))


def open_sources(workspace: Workspace, images: Sequence[str], extra: Sequence[Path], exclude: set[str]) -> list[Source]:
    """Open images by what a request calls them.

    Args:
        workspace: The task's workspace.
        images: Any of `synthetic`, `real` and folders.
        extra: Further folders of real images.
        exclude: Ids of cases that must not be seen.

    Returns:
        The sources.

    Raises:
        DiffaugError: If the generator of synthetic images has seen a case that must not be seen.
    """
    sources = []
    for name in dict.fromkeys(images):
        if name == "synthetic":
            sources.append(synthetic_source(workspace.synthetic, exclude))
        elif name == "real":
            sources.append(real_source(workspace, extra, exclude))
        else:
            sources.append(folder_source(workspace, Path(name), exclude))
    seen = known_patients((case for source in sources for case in source.seen), exclude)
    if seen:
        raise DiffaugError(
            f"{workspace.generator}: the generator has seen {len(seen)} cases that --exclude forbids ({seen[0]} ...); fit "
            "it anew with the same --exclude and --fresh, or exclude what it excluded"
        )
    return sources


def require_channels(source: Source, expected: Sequence[str]) -> None:
    """Require that images have the task's channels, and in its order where names tell.

    Args:
        source: The images.
        expected: The task's channels.

    Raises:
        DiffaugError: If they have another number, or the same names in another order.
    """
    found = source.dataset.channels
    if len(found) != len(expected):
        raise DiffaugError(
            f"{source.dataset.cases[0].files[0]}: found {len(found)} channels, expected {len(expected)} as "
            "the task has; give images of the same channels"
        )
    ours, theirs = ([name.casefold() for name in names] for names in (expected, found))
    if sorted(ours) == sorted(theirs) and ours != theirs:
        raise DiffaugError(
            f"{source.name}: found the channels {', '.join(found)}, expected {', '.join(expected)} in this order; number its "
            "files as the task's, and its dataset.json with them"
        )


def require_teacher(source: Source) -> Path:
    """Require that a generator of whole scans has made the images, who can teach.

    Args:
        source: The images.

    Returns:
        The generator's file.

    Raises:
        DiffaugError: If none has.
    """
    if source.generator is None or source.statistics is not None:
        found = "no generator's" if source.generator is None else "windows of scans"
        raise DiffaugError(
            f"{source.name}: these images are {found}, expected --images synthetic, of a generator of whole scans, which is "
            "the pretext's teacher; take another pretext, or such images"
        )
    return source.generator


def source_hashes(source: Source) -> dict[str, list[str]]:
    """Hash all files of a source, by case."""
    return {case.id: [file_hash(file) for file in case.files] for case in source.dataset.cases}
