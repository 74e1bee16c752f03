"""Is a synthetic volume a copy of a training scan? Nearest neighbours, held against unseen real scans and planted copies.

A volume is compared after averaging and smoothing to a few thousand cells, by Pearson correlation, maximal over small
shifts and left-right mirroring. What counts as close is not a matter of taste: real scans that the generator never saw
are no copies, so their similarity to the training scans is the floor (arXiv 2307.01148). How much nearer the nearest
scan is than the second nearest is a second witness (arXiv 2505.16959).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from diffaug.audit.figures import Figure, percentile_figure
from diffaug.audit.material import Material
from diffaug.volumes.grid import Grid
from diffaug.volumes.windows import centred, cut

CELLS = {"whole": 16384, "patch": 4096}  # per channel; windows of `patch` are tried at many places, so they get fewer
FLOOR_PERCENT = 95.0
LONE = 1 / 3  # distance ratio to the second nearest that arXiv 2505.16959 calls a copy
KINDS = ("exact", "mirrored", "shifted", "noisy", "intensities scaled", "through the autoencoder")  # of planted copies
NOISE = 0.2  # standard deviation in noisy copies; volumes span [-1, 1]
POSITIONS = 128  # compared at a time


@dataclass(frozen=True)
class Search:
    """How volumes are compared.

    Attributes:
        factor: Voxels (Z, Y, X) averaged to one cell.
        reach: Cells (Z, Y, X) that volumes are shifted by, either way.
        core: Cells (Z, Y, X) that are compared: the window without a margin as wide as the reach.
        mirror: Array axis (0 to 2) that runs left-right.
    """

    factor: tuple[int, ...]
    reach: tuple[int, ...]
    core: tuple[int, ...]
    mirror: int


def plan_search(grid: Grid) -> Search:
    """Choose cells about as wide as deep, few enough to compare every pair of volumes.

    Args:
        grid: The canonical grid.

    Returns:
        The search.
    """
    factor = np.ones(3, dtype=int)
    shape = np.array(grid.shape)
    while (shape // factor).prod() > CELLS[grid.field_of_view]:
        edges = np.where(shape // factor > 1, np.array(grid.spacing) * factor, np.inf)
        factor[np.argmin(edges)] *= 2
    cells = shape // factor
    reach = np.select([cells >= 16, cells >= 6], [2, 1], 0)
    mirror = 2 - next(i for i, letter in enumerate(grid.orientation) if letter in "LR")
    return Search(
        tuple(map(int, factor)), tuple(map(int, reach)), tuple(int(n) for n in cells - 2 * reach), int(mirror)
    )


def describe(volume: np.ndarray, search: Search) -> Tensor:
    """Average a volume to cells and smooth it lightly, so that noise and shifts by part of a cell matter little.

    Args:
        volume: `(C, Z, Y, X)`, larger than the search's factor.
        search: The search.

    Returns:
        `(C, z, y, x)`.
    """
    cells = F.avg_pool3d(torch.from_numpy(np.ascontiguousarray(volume))[None].float(), search.factor)[0]
    for axis in (1, 2, 3, 1, 2, 3):  # twice: a standard deviation of one cell
        before = cells.roll(1, axis)
        after = cells.roll(-1, axis)
        before.narrow(axis, 0, 1).copy_(cells.narrow(axis, 0, 1))
        after.narrow(axis, cells.shape[axis] - 1, 1).copy_(cells.narrow(axis, cells.shape[axis] - 1, 1))
        cells = (before + 2 * cells + after) / 4
    return cells


def as_query(volume: np.ndarray, search: Search) -> Tensor:
    """Make a volume ready to be looked for.

    Args:
        volume: `(C, Z, Y, X)` on the grid.
        search: The search.

    Returns:
        `(C, *core)`: per channel of mean zero, all together of length one.
    """
    cells = describe(volume, search)
    z, y, x = (slice(r, r + n) for r, n in zip(search.reach, search.core, strict=True))
    return _unit(cells[None, :, z, y, x])[0]


def _unit(windows: Tensor) -> Tensor:
    """Centre and scale `(B, C, z, y, x)` per channel: a scalar product is then the channels' mean correlation."""
    centred_ = windows - windows.mean((2, 3, 4), keepdim=True)
    norm = centred_.square().sum((2, 3, 4), keepdim=True).sqrt()
    return centred_ / norm.clamp_min(1e-4) / windows.shape[1] ** 0.5


def compare(
    material: Material,
    queries: Tensor,
    places: Sequence[str | None],
    cases: Sequence[str],
    search: Search,
    device: torch.device,
) -> np.ndarray:
    """Find how similar each query is to each scan at best. Scans are read one at a time.

    Args:
        material: Where scans come from.
        queries: From `as_query`, `(B, C, *core)`.
        places: For each query the synthetic volume at whose relative position it lies. Every query is tried at every
            place that any of them has, so that all have equal chances.
        cases: Ids of the scans.
        search: The search.
        device: Where to compute.

    Returns:
        Correlations `(2, scans, B)`: as the scans are, and mirrored.
    """
    flat = queries.flatten(1).T.contiguous().to(device)
    scores = np.zeros((2, len(cases), flat.shape[1]), dtype=np.float32)
    for number, case in enumerate(tqdm(cases, "looking for copies", unit="scan", ascii=True)):
        frame, starts = _frame(material, case, set(places), search)
        cells = frame.to(device).unfold(1, search.core[0], 1).unfold(2, search.core[1], 1).unfold(3, search.core[2], 1)
        best = torch.full((2, flat.shape[1]), -1.0, device=device)
        for some in starts.split(POSITIONS):
            z, y, x = some.to(device).T
            windows = _unit(cells[:, z, y, x].movedim(1, 0))
            for turned, view in enumerate((windows, windows.flip(2 + search.mirror))):
                best[turned] = torch.maximum(best[turned], (view.flatten(1) @ flat).amax(0))
        scores[:, number] = best.cpu().numpy()
    return scores


def _frame(material: Material, case: str, places: set[str | None], search: Search) -> tuple[Tensor, Tensor]:
    """Describe all of a scan that windows may lie in, and list the cells (P, 3) where comparisons start."""
    shape = material.plan.grid.shape
    volume = material.cache[case]
    extent = volume.shape[1:]
    whole = material.plan.grid.field_of_view == "whole"
    size = shape if whole else tuple(max(e, s) for e, s in zip(extent, shape, strict=True))
    around = centred(extent, size)
    frame = describe(cut(volume, around, size), search)
    last = [n - c for n, c in zip(frame.shape[1:], search.core, strict=True)]
    starts: set[tuple[int, ...]] = set()
    for like in {None} if whole else places:
        for mirrored in (None, search.mirror):
            offset = material.place(extent, like, mirrored).offset
            first = [round((o - a) / f) for o, a, f in zip(offset, around.offset, search.factor, strict=True)]
            ways = [
                {min(max(i + k, 0), n) for k in range(2 * r + 1)}
                for i, r, n in zip(first, search.reach, last, strict=True)
            ]
            starts |= set(itertools.product(*ways))
    return frame, torch.tensor(sorted(starts))


@dataclass(frozen=True)
class Nearest:
    """The training scan that a volume is most like.

    Attributes:
        name: The volume's name.
        case: Id of the training scan.
        similarity: Correlation with it.
        ratio: Distance to it over the distance to the second nearest; 1 where both are alike, near 0 for a lone copy.
        mirrored: Whether the match is with the scan's left-right mirror image.
    """

    name: str
    case: str
    similarity: float
    ratio: float
    mirrored: bool


def nearest(scores: np.ndarray, names: Sequence[str], cases: Sequence[str]) -> list[Nearest]:
    """Pick the nearest scans.

    Args:
        scores: From `compare`, `(2, scans, B)`.
        names: The volumes' names; a scan is never its own neighbour.
        cases: Ids of the scans.

    Returns:
        One per volume.
    """
    found = []
    for name, own in zip(names, np.moveaxis(scores, 2, 0), strict=True):
        best = own.max(0).astype(float)
        best[[case == name for case in cases]] = -1
        order = np.argsort(-best, kind="stable")
        first = int(order[0])
        distances = np.sqrt(np.clip(1 - best[order[:2]], 0, None))
        ratio = float(distances[0] / max(distances[-1], 1e-6)) if len(order) > 1 else 1.0
        found.append(Nearest(name, cases[first], float(best[first]), ratio, bool(own[1, first] > own[0, first])))
    return found


def floor(held_out: Sequence[Nearest], seed: int) -> Figure:
    """Tell how near real scans that are no copies come to the training scans.

    Args:
        held_out: The held-out scans' nearest.
        seed: Of the bootstrap.

    Returns:
        The 95th percentile of their similarities: above it a volume is flagged.
    """
    return percentile_figure([n.similarity for n in held_out], FLOOR_PERCENT, seed)


def plant(
    volume: np.ndarray, moved: np.ndarray, decoded: np.ndarray, search: Search, seed: int
) -> dict[str, np.ndarray]:
    """Make copies of a training scan as a generator may make them, to see whether the check finds them.

    Args:
        volume: A window of a training scan, `(C, Z, Y, X)`.
        moved: The same window, shifted.
        decoded: The autoencoder's reconstruction of it: what a generator that knows a scan by heart would give.
        search: The search.
        seed: Of the noise.

    Returns:
        Kind of copy, and the copy.
    """
    noise = NOISE * np.random.default_rng(seed).standard_normal(volume.shape)
    mirrored = np.flip(volume, 1 + search.mirror)
    copies = (volume, mirrored, moved, (volume + noise).astype(np.float32), 0.6 * volume + 0.1, decoded)
    return dict(zip(KINDS, copies, strict=True))


def planted_shift(search: Search) -> tuple[int, ...]:
    """Choose a shift within reach that is no whole number of cells, so the hardest kind.

    Args:
        search: The search.

    Returns:
        Voxels (Z, Y, X).
    """
    return tuple(int(0.75 * f * r) for f, r in zip(search.factor, search.reach, strict=True))
