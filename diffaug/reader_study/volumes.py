"""Both sides of a study made alike: one orientation, one spacing, one box, one scale of intensities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import nibabel
import numpy as np

from diffaug.errors import DiffaugError, times
from diffaug.scans.canonical import at_spacing, size_at
from diffaug.scans.dataset import Case, RawDataset
from diffaug.scans.grid import axis_order
from diffaug.scans.readings import MR_PERCENTILES, is_ct
from diffaug.scans.scan import Geometry, Scan, centred_geometry, reorient

SPARE = 2  # volumes looked at for every one that is shown, so that small ones can be passed over
STEPS = (25, 20, 15, 10, 5, 0)  # percentiles of a side's extents that the box may have
# HU: above the air of every scanner, so that on both sides air is the lowest value
CT_SHOWN = (-950.0, 1000.0)
MR_SHOWN = (0, 1000)  # what a channel without units is scaled to
MANY_VALUES = 5000  # of a volume: more are no steps
FEWEST_VOXELS = 4  # of the box along an axis

Triple = tuple[float, float, float]
MIDDLE: Triple = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Side:
    """One side of a study.

    Attributes:
        kind: `real` or `synthetic`.
        dataset: Its volumes.
        count: How many are shown.
        places: Where in a whole scan, (Z, Y, X) from 0 to 1, the middle of a volume lies; not here: in the middle.
    """

    kind: str
    dataset: RawDataset
    count: int
    places: Mapping[str, Triple] = field(default_factory=dict)


@dataclass(frozen=True)
class Pick:
    """A volume that is shown: whose, and where its middle lies in it (Z, Y, X), from 0 to 1."""

    kind: str
    case: Case
    place: Triple


@dataclass(frozen=True)
class Frame:
    """What all volumes of a study have in common.

    Attributes:
        orientation: Where x, y and z run to.
        spacing: In mm, (Z, Y, X).
        shape: Voxels (Z, Y, X).
        limits: The intensities that are shown, in the files' units; None where each volume has its own.
    """

    orientation: str
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    limits: tuple[float, float] | None

    @property
    def shown(self) -> tuple[int, int]:
        """The lowest and highest value that a volume of the study can have."""
        return (int(self.limits[0]), int(self.limits[1])) if self.limits else MR_SHOWN


def choose(sides: Sequence[Side], channel: int, rng: np.random.Generator) -> tuple[Frame, list[Pick]]:
    """Choose the volumes, their order, and what they have in common.

    The spacing is the coarser side's, so neither shows finer detail than the other could. The box is one that enough
    volumes of both sides fill, so nothing is padded.

    Args:
        sides: Both sides.
        channel: Which channel is shown.
        rng: Draws the choice and the order.

    Returns:
        The frame, and the volumes in the order in which they are shown.

    Raises:
        DiffaugError: If a side has too few volumes, or none in common with the other.
    """
    for side in sides:
        if side.count > len(side.dataset.cases):
            raise DiffaugError(
                f"{side.dataset.name}: found {len(side.dataset.cases)} {side.kind} volumes, expected {side.count}; add some, "
                f"or ask for fewer with --{side.kind}-count"
            )
    looked = {side.kind: _look(side, rng) for side in sides}
    geometries = [geometry for found in looked.values() for _, _, geometry in found]
    orientation = Counter(geometry.orientation for geometry in geometries).most_common(1)[0][0]
    turned = {
        kind: [(case, *_turned(size, geometry, orientation)) for case, size, geometry in found]
        for kind, found in looked.items()
    }
    spacing = np.max([np.median([s for _, _, s in found], axis=0) for found in turned.values()], axis=0)
    extents = {
        kind: np.array([size_at(size, own, spacing.tolist()) for _, size, own in found])
        for kind, found in turned.items()
    }
    box, filling = _box(extents, {side.kind: side.count for side in sides})
    if (box < FEWEST_VOXELS).any():
        raise DiffaugError(
            f"{' and '.join(side.dataset.name for side in sides)}: {times(box)} voxels of {times(spacing)} mm in common, "
            "expected volumes of the same part of the body; choose others"
        )
    picks = [Pick(side.kind, case, MIDDLE) for side in sides for case in _first(side, turned, filling)]
    order = rng.permutation(len(picks))
    places = [place for side in sides for place in side.places.values()] or [MIDDLE]
    where = rng.integers(len(places), size=len(picks))
    picks = [
        Pick(picks[i].kind, picks[i].case, places[at] if picks[i].kind == "real" else MIDDLE)
        for i, at in zip(order, where, strict=True)
    ]
    name = sides[0].dataset.channels[channel]
    limits = CT_SHOWN if is_ct(name) else None
    return Frame(orientation, tuple(map(float, spacing)), tuple(map(int, box)), limits), picks


def _look(side: Side, rng: np.random.Generator) -> list[tuple[Case, tuple[int, ...], Geometry]]:
    """Read some volumes in random order, and keep their geometry."""
    cases = side.dataset.cases
    found = []
    for i in rng.permutation(len(cases))[: SPARE * side.count]:
        scan = side.dataset.read(cases[i])
        found.append((cases[i], scan.size, scan.geometry))
    return found


def _turned(size: tuple[int, ...], geometry: Geometry, orientation: str) -> tuple[list[int], list[float]]:
    """Give size and spacing in the order of the common axes."""
    order = axis_order(geometry.orientation, orientation)
    return [size[axis] for axis in order], [geometry.spacing[axis] for axis in order]


def _box(extents: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Find the largest box that enough volumes of each side fill, and which do."""
    for step in STEPS:
        box = np.min([np.floor(np.percentile(found, step, axis=0)) for found in extents.values()], axis=0).astype(int)
        filling = {kind: (found >= box).all(1) for kind, found in extents.items()}
        if all(filling[kind].sum() >= counts[kind] for kind in filling):
            break
    return box, filling


def _first(side: Side, turned: Mapping[str, list], filling: Mapping[str, np.ndarray]) -> list[Case]:
    found = [case for (case, _, _), fills in zip(turned[side.kind], filling[side.kind], strict=True) if fills]
    return found[: side.count]


def framed(scan: Scan, channel: int, frame: Frame, place: Triple, chance: np.random.Generator) -> np.ndarray:
    """Cut one channel of a scan to the frame and scale it.

    Args:
        scan: The scan.
        channel: Which channel.
        frame: The frame.
        place: Where in the scan the middle of the box shall lie, (Z, Y, X) from 0 to 1; the box stays inside.
        chance: Draws within the steps in which the file's values come: scans have few values, samples have many, and a
            histogram would tell them apart at once.

    Returns:
        `(Z, Y, X)` int16 within `frame.shown`.
    """
    turned = reorient(scan, frame.orientation)
    voxels = at_spacing(turned.voxels[channel : channel + 1], turned.geometry.spacing, frame.spacing)
    box = []
    for middle, size, length in zip(place, voxels.shape[1:], frame.shape, strict=True):
        start = min(max(round(middle * size - length / 2), 0), size - length)
        box.append(slice(start, start + length))
    cut = voxels[0][tuple(box)]
    cut = cut + chance.uniform(-0.5, 0.5, cut.shape) * _step(cut)
    low, high = frame.limits or tuple(np.percentile(cut, MR_PERCENTILES))
    if not high > low:
        low, high = float(cut.min()), float(cut.max()) + (cut.min() == cut.max())
    first, last = frame.shown
    return np.round(np.clip((cut - low) / (high - low), 0, 1) * (last - first) + first).astype(np.int16)


def _step(values: np.ndarray) -> float:
    """Find the step in which values come; 0 where they are many."""
    distinct = np.unique(values)
    return float(np.diff(distinct).min()) if 1 < len(distinct) < MANY_VALUES else 0.0


def nifti(voxels: np.ndarray, frame: Frame) -> bytes:
    """Write a volume as an uncompressed NIfTI-1 file: all of a study have one header and one size.

    Args:
        voxels: `(Z, Y, X)` int16.
        frame: The frame.

    Returns:
        The file's content.
    """
    geometry = centred_geometry(voxels.shape, frame.spacing, frame.orientation)
    affine = np.eye(4)
    affine[:3, :3] = np.array(geometry.direction).reshape(3, 3) * frame.spacing[::-1]
    affine[:3, 3] = geometry.origin
    affine = np.diag([-1, -1, 1, 1]) @ affine  # ITK's x and y run to the left and back, NIfTI's to the right and front
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine, dtype=np.int16)
    image.header.set_xyzt_units("mm")
    image.header["cal_min"], image.header["cal_max"] = frame.shown
    return image.to_bytes()
