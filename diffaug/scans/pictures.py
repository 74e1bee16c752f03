"""Pictures where people would rather look than read: mosaics of slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import SimpleITK as sitk

from diffaug.files import atomic_path

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend comes first: servers have no screen)


def read_upright(file: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Read an image as pictures show it, however it lies in its file.

    Args:
        file: The image.

    Returns:
        `(Z, Y, X)` in the orientation LPS, and the spacing in mm, (Z, Y, X).
    """
    image = sitk.DICOMOrient(sitk.ReadImage(str(file)), "LPS")
    return sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]


def brightness(volumes: Sequence[np.ndarray]) -> tuple[float, float]:
    """Choose one window of intensities for all: from zero to what hardly a voxel exceeds.

    Args:
        volumes: Of any shapes.

    Returns:
        Intensities shown black and white.
    """
    return 0.0, float(np.percentile(np.concatenate([volume.ravel() for volume in volumes]), 99.5))


def mid_slices(volume: np.ndarray, spacing: Sequence[float], orientation: str = "LPS") -> list[np.ndarray]:
    """Cut the three middle slices, turned as a radiologist hangs them and with square pixels.

    Args:
        volume: `(Z, Y, X)`.
        spacing: In mm, (Z, Y, X).
        orientation: Where x, y and z run to.

    Returns:
        Axial, coronal and sagittal slice, however the array's axes lie in the body.
    """
    axes = {"R": 2, "L": 2, "A": 1, "P": 1, "I": 0, "S": 0}
    order = np.argsort([axes[letter] for letter in orientation[::-1]])
    volume = np.transpose(volume, order)
    edges = np.array(spacing)[order]
    for letter, axis in (("R", 2), ("A", 1), ("S", 0)):  # left is on the right, anterior and superior are on top
        if letter in orientation:
            volume = np.flip(volume, axis)
    slices = []
    for axis in range(3):
        image = np.take(volume, volume.shape[axis] // 2, axis)
        sizes = [round(n * mm / edges.min()) for n, mm in zip(image.shape, np.delete(edges, axis), strict=True)]
        rows = np.arange(sizes[0]) * image.shape[0] // sizes[0]
        columns = np.arange(sizes[1]) * image.shape[1] // sizes[1]
        slices.append(image[rows][:, columns])
    return slices


def mosaic(
    rows: Mapping[str, Sequence[np.ndarray]],
    file: Path,
    *,
    spacing: Sequence[float],
    orientation: str = "LPS",
    limits: tuple[float, float] = (-1.0, 1.0),
    captions: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Draw the middle slices of volumes side by side, a row for each kind.

    Args:
        rows: Title of each row and its volumes `(Z, Y, X)`.
        file: The PNG, written atomically.
        spacing: In mm, (Z, Y, X).
        orientation: Where x, y and z run to.
        limits: Intensities shown black and white, the same for all volumes.
        captions: Text over each volume, by row title.
    """
    columns = max(len(volumes) for volumes in rows.values())
    figure, axes = plt.subplots(len(rows), columns, figsize=(2.1 * columns + 0.4, 3.6 * len(rows)), squeeze=False)
    for row, (title, volumes) in enumerate(rows.items()):
        for column in range(columns):
            axis = axes[row, column]
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
            if column < len(volumes):
                axis.imshow(_stacked(mid_slices(volumes[column], spacing, orientation), limits[0]), cmap="gray")
                axis.images[0].set_clim(*limits)
                if captions and title in captions:
                    axis.set_title(captions[title][column], fontsize=7)
        axes[row, 0].set_ylabel(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    _save(figure, file)


def outlines(rows: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]], file: Path) -> None:
    """Draw slices with the outlines of two masks each, truth in green and another in orange, a row for each kind.

    Args:
        rows: Title of each row and its slices `(Y, X)`, each with both masks.
        file: The PNG, written atomically.
    """
    columns = max(len(slices) for slices in rows.values())
    figure, axes = plt.subplots(len(rows), columns, figsize=(2.8 * columns, 2.3 * len(rows)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (title, slices) in zip(axes, rows.items(), strict=True):
        row[0].set_title(title, fontsize=9, loc="left")
        for axis, (image, truth, made) in zip(row, slices, strict=False):
            axis.imshow(image, cmap="gray")
            for mask, colour in ((truth, "tab:green"), (made, "tab:orange")):
                if mask.any() and not mask.all():
                    axis.contour(mask, [0.5], colors=colour, linewidths=1.2)
    figure.tight_layout(pad=0.3, h_pad=1.2)  # or titles run into the row above
    _save(figure, file)


def tiles(slices: Sequence[np.ndarray], file: Path, *, columns: int, limits: tuple[float, float]) -> None:
    """Draw slices one after another, row by row, without a word.

    Args:
        slices: Each `(Y, X)`, with square pixels.
        file: The PNG, written atomically.
        columns: How many stand in a row.
        limits: Intensities shown black and white, the same for all.
    """
    rows = -(-len(slices) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.4 * columns, 1.1 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image in zip(axes.flat, slices, strict=False):
        axis.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1])
    figure.subplots_adjust(0, 0, 1, 1, 0.04, 0.04)
    figure.set_facecolor("black")
    _save(figure, file)


def curves(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], file: Path, *, title: str, x: str) -> None:
    """Draw curves, each in a panel of its own, for their units differ.

    Args:
        lines: Name of each curve, its x and its y values.
        file: The PNG, written atomically.
        title: Over the figure.
        x: Label of the x axis.
    """
    figure, axes = plt.subplots(1, len(lines), figsize=(3.2 * len(lines), 2.6), squeeze=False)
    for axis, (name, (places, values)) in zip(axes[0], lines.items(), strict=True):
        axis.plot(places, values, linewidth=1)
        axis.set_title(name, fontsize=8)
        axis.set_xlabel(x, fontsize=7)
        axis.tick_params(labelsize=6)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout(pad=0.5)
    _save(figure, file)


def _stacked(slices: Sequence[np.ndarray], background: float) -> np.ndarray:
    width = max(s.shape[1] for s in slices)
    padded = [np.pad(s, ((0, 2), (0, width - s.shape[1])), constant_values=background) for s in slices]
    return np.concatenate(padded)


def _save(figure: plt.Figure, file: Path) -> None:
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
