"""How much volumes differ among themselves, beside the same figure for real scans."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffaug.audit.figures import Figure, pairs_figure
from diffaug.scans.similarity import ms_ssim

PAIRS = 200
VOXEL_BUDGET = 2**28  # voxels compared per set: large volumes get fewer pairs, at least FEWEST, whatever the machine
FEWEST_PAIRS = 20
COMPARED_VOXELS = 2**20  # compared at a time


def draw_pairs(count: int, voxels: int, seed: int) -> np.ndarray:
    """Draw different pairs of different volumes.

    Args:
        count: Number of volumes.
        voxels: Of one volume.
        seed: Of the draw.

    Returns:
        Indices `(pairs, 2)`; all pairs where there are few, none of fewer than two volumes.
    """
    wanted = min(PAIRS, max(FEWEST_PAIRS, VOXEL_BUDGET // voxels), count * (count - 1) // 2)
    rng = np.random.default_rng(seed)
    pairs: set[tuple[int, int]] = set()
    while len(pairs) < wanted:
        a, b = sorted(rng.choice(count, 2, replace=False).tolist())
        pairs.add((a, b))
    return np.array(sorted(pairs), dtype=int).reshape(-1, 2)


def measure_diversity(
    read: Callable[[int], np.ndarray], count: int, voxels: int, *, device: torch.device, seed: int, what: str
) -> Figure | None:
    """Average MS-SSIM over random pairs of a set: 1 where all volumes are one, lower the more they differ.

    Args:
        read: Gives volume number i of the set, `(C, Z, Y, X)` in [-1, 1]; two batches are held at a time.
        count: Number of volumes in the set.
        voxels: Of one volume.
        device: Where to compute.
        seed: Of pairs and bootstrap.
        what: Name of the set, for the progress bar.

    Returns:
        The mean over pairs; None where there is no pair.
    """
    pairs = draw_pairs(count, voxels, seed)
    if not len(pairs):
        return None
    values: list[float] = []
    batch = max(1, COMPARED_VOXELS // voxels)
    with tqdm(total=len(pairs), desc=f"MS-SSIM, {what}", unit="pair", ascii=True) as bar, torch.no_grad():
        for start in range(0, len(pairs), batch):
            some = pairs[start : start + batch]
            first, second = (_stacked([read(int(i)) for i in column], device) for column in some.T)
            values += ms_ssim(first, second).tolist()
            bar.update(len(some))
    return pairs_figure(pairs, values, count, seed)


def _stacked(volumes: list[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(volumes)).to(device)
