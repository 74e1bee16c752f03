"""Volumes of random solid structures that never were a scan: the control arm for what any structure teaches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from diffaug.files import write_json
from diffaug.scans.scan import Geometry, Scan, write_scan

STRUCTURES = (8, 24)  # how many per volume
RADII = (0.05, 0.35)  # semi-axes, as a share of the volume's longest edge
BEND = 0.06  # standard deviation of the smooth deformation, as a share of the longest edge
TEXTURE = 0.25  # of a structure's own grain
NOISE = 0.1
SHADING = 0.2


def write_shapes(
    folder: Path, count: int, *, size: Sequence[int], spacing: Sequence[float], channels: Sequence[str], seed: int = 0
) -> Path:
    """Write volumes of random structures in nnU-Net's raw layout, for `diffaug pretrain --images FOLDER`, or go on.

    Args:
        folder: Where to.
        count: How many.
        size: In voxels (Z, Y, X).
        spacing: In mm (Z, Y, X).
        channels: Names of the channels; all show the same structures, each in its own brightness.
        seed: Of the draw.

    Returns:
        The folder.
    """
    names = {str(number): name for number, name in enumerate(channels)}
    write_json(folder / "dataset.json", {"channel_names": names, "labels": {"background": 0}, "file_ending": ".nii.gz"})
    images = folder / "imagesTr"
    for number in tqdm(range(count), "drawing shapes", unit="volume", ascii=True):
        case = f"shapes_{number:05d}"
        if (images / f"{case}_{len(channels) - 1:04d}.nii.gz").is_file():
            continue
        rng = np.random.default_rng([seed, number])
        volume = draw_shapes(rng, size)
        voxels = np.stack([volume * rng.choice([-1, 1]) if channel else volume for channel in range(len(channels))])
        write_scan(Scan(voxels, Geometry(tuple(spacing))), images, case)
    return folder


def draw_shapes(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Draw superellipsoids of random size, squareness, direction and brightness over one another, bent smoothly.

    After formula-driven pretraining (PrimGeoSeg, arXiv 2401.05962): structure without any scan.

    Args:
        rng: Source of randomness.
        shape: Voxels (Z, Y, X).

    Returns:
        A volume of mean 0 and variance 1, float32 (Z, Y, X).
    """
    edge = max(shape)
    coordinates = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"))
    bent = coordinates + np.stack([_smooth(rng, shape, edge / 6) * BEND * edge for _ in range(3)])
    volume = np.full(shape, rng.normal(), np.float32)
    grain = _smooth(rng, shape, 1.0)
    for _ in range(rng.integers(*STRUCTURES, endpoint=True)):
        centre = rng.uniform(size=3) * shape
        turned = np.tensordot(
            Rotation.random(random_state=rng).as_matrix(), bent - centre[:, None, None, None], axes=(1, 0)
        )
        radii = edge * np.exp(rng.uniform(np.log(RADII[0]), np.log(RADII[1]), size=3))
        squareness = rng.uniform(1.5, 6)
        distance = (np.abs(turned / radii[:, None, None, None]) ** squareness).sum(0)
        inside = distance < 1
        if rng.random() < 0.3:  # hollow, as vessels, bowel or a skull
            inside &= distance > rng.uniform(0.2, 0.8)
        volume[inside] = rng.normal() + rng.uniform(0, TEXTURE) * grain[inside]
    volume = gaussian_filter(volume, rng.uniform(0.3, 0.9))
    volume *= np.exp(SHADING * _smooth(rng, shape, edge / 3))
    volume += rng.uniform(0, NOISE) * rng.standard_normal(shape, dtype=np.float32)
    return ((volume - volume.mean()) / max(float(volume.std()), 1e-6)).astype(np.float32)


def _smooth(rng: np.random.Generator, shape: Sequence[int], scale: float) -> np.ndarray:
    """Draw a smooth field of mean 0 and variance 1 whose bumps are `scale` voxels wide."""
    coarse = rng.standard_normal([max(3, round(n / scale) + 1) for n in shape])
    places = np.meshgrid(*[np.linspace(0, c - 1, n) for c, n in zip(coarse.shape, shape, strict=True)], indexing="ij")
    field = map_coordinates(coarse, np.stack(places), order=3, mode="nearest")
    return ((field - field.mean()) / max(float(field.std()), 1e-6)).astype(np.float32)
