"""Slices become volumes: sorted, told apart where several lie in one place, and refused where a part is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffaug.dicom.headers import Header, Slice
from diffaug.scans.scan import Geometry

MOST_IN_STACK = 2**31  # voxels; a header may say anything
SPARSE = 1.5  # times the usual distance of slices: more is a gap
SHIFTED_MM = 0.5  # between corners of volumes that lie in one place
STEEPEST = 1.0  # tilt: mm within the plane per mm along the normal
FEWEST_SLICES = 5  # fewer are a localiser, or single pictures
ALIKE = 1e-3  # of direction cosines and spacings, as headers round them
UNEVEN = 0.02  # relative, of the distance between slices; and mm
UNEVEN_MM = 0.02
HALF_VOXEL = 0.5


@dataclass(frozen=True)
class Stack:
    """A volume: slices in order.

    Attributes:
        header: Of one of its instances.
        slices: From one end to the other.
        geometry: Of the voxels, as if the slices were not tilted.
        tilt: How much further than its neighbour each slice lies along y and x, mm; zero but for a tilted gantry.
        phase: Place in time among the volumes of its series that lie in one place.
        began: When the first instance of its series was acquired, to be sorted by.
    """

    header: Header
    slices: tuple[Slice, ...]
    geometry: Geometry
    tilt: tuple[float, float]
    phase: int
    began: str

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels (Z, Y, X)."""
        return len(self.slices), *self.slices[0].size

    @property
    def plane(self) -> str:
        """Which plane is nearest to the slices': axial, coronal or sagittal."""
        normal = np.abs(np.array(self.geometry.direction).reshape(3, 3)[:, 2])
        return ("sagittal", "coronal", "axial")[int(normal.argmax())]

    @property
    def time(self) -> tuple[str, int, str, int]:
        """What volumes are put into order by: series by their beginning, volumes of one series by their phase."""
        return self.began, self.header.series_number, self.header.series, self.phase

    def lies_with(self, other: Stack) -> bool:
        """Tell whether another volume of the study lies in the same place, but for rounding.

        Args:
            other: The other volume.

        Returns:
            Whether it does.
        """
        if self.header.study != other.header.study or self.size != other.size:
            return False
        both = self.geometry, other.geometry
        near = all(abs(a - b) < SHIFTED_MM for a, b in zip(both[0].origin, both[1].origin, strict=True))
        alike = np.allclose(both[0].spacing, both[1].spacing, rtol=UNEVEN)
        return near and alike and bool(np.allclose(both[0].direction, both[1].direction, atol=ALIKE * 10))


def stacks_of(headers: Sequence[Header]) -> tuple[list[Stack], list[tuple[Header, str]]]:
    """Make volumes of the instances of one series.

    Args:
        headers: Of its instances, in any order.

    Returns:
        The volumes, and what makes none, with the reason.
    """
    first: dict[str, Header] = {}
    for header in headers:
        if header.lacks:
            first.setdefault(header.lacks, header)
    lacking = [(header, reason) for reason, header in first.items()]
    if damaged := next((header for header in headers if header.damage), None):
        return [], [*lacking, (damaged, damaged.damage)]
    found: list[Stack] = []
    parts: list[list[tuple[Header, Slice]]] = []
    seen: set[tuple[object, ...]] = set()
    began = min((header.time for header in headers if header.slices), default="")
    for header in headers:
        for one in header.slices:
            if (one.uid, one.frame, one.position) not in seen:  # not an instance that was sent twice
                seen.add((one.uid, one.frame, one.position))
                part = next((part for part in parts if _alike(part[0][1], one)), None)
                if part is None:
                    parts.append(part := [])
                part.append((header, one))
    numbers = {one.number[0] for header in headers for one in header.slices}
    for part in parts:
        header_of = {one.uid: header for header, one in part}
        for number, slices in enumerate(_told_apart([one for _, one in part])):
            made = _stack(header_of[slices[0].uid], slices, number, began, numbers)
            if isinstance(made, Stack):
                found.append(made)
            else:
                lacking.append((part[0][0], made))
    return found, lacking


def _alike(one: Slice, other: Slice) -> bool:
    """Tell whether slices may be of one volume, but for rounding."""
    if one.size != other.size:
        return False
    turned = max(abs(a - b) for a, b in zip(one.rows, other.rows, strict=True))
    return turned < ALIKE * 10 and all(abs(a - b) < ALIKE * a for a, b in zip(one.spacing, other.spacing, strict=True))


def _told_apart(slices: list[Slice]) -> list[list[Slice]]:
    """Tell volumes that lie in one place apart: by what headers say, last by the number of the instance."""
    if not _repeated(slices):
        return [slices]
    for place in range(len(slices[0].moment)):
        groups: dict[object, list[Slice]] = defaultdict(list)
        for one in slices:
            groups[one.moment[place][1]].append(one)
        if len(groups) > 1 and _whole(list(groups.values())):
            order = sorted(groups, key=lambda value: (value is None, str(type(value)), value))
            return [volume for value in order for volume in _told_apart(groups[value])]
    by_place = defaultdict(list)
    for one in sorted(slices, key=lambda one: one.number):
        by_place[_along(one)].append(one)
    counts = {len(group) for group in by_place.values()}
    if len(counts) > 1:
        return [slices]
    return [[group[i] for group in by_place.values()] for i in range(counts.pop())]


def _whole(groups: list[list[Slice]]) -> bool:
    """Tell whether a property parts volumes: each has every place, or all places from its own first to its last, once.

    What a property gives to every second slice, as the time of slices that were acquired in turn, parts none.
    """
    places = [sorted(set(map(_along, group))) for group in groups]
    if all(each == places[0] for each in places):
        return True
    usual = float(np.median(np.diff(sorted({place for each in places for place in each}))))
    return not any(map(_repeated, groups)) and all(
        len(each) > 1 and np.diff(each).max() < SPARSE * usual for each in places
    )


def _along(one: Slice) -> float:
    """Where a slice lies along its normal, mm."""
    return round(float(np.dot(one.position, np.cross(one.rows[:3], one.rows[3:]))), 2)


def _repeated(slices: Sequence[Slice]) -> int:
    return len(slices) - len({_along(one) for one in slices})


def _every(slices: Sequence[Slice], distance: float, numbers: set[int]) -> int:
    """Count how many slices there were for each that is here, where distance and numbers say that some are missing.

    Neither alone says it, and not both where the numbers in between are another volume's: scanners write the gap in place
    of the distance, and number the slices of several echoes in turn.
    """
    own = [one.number[0] for one in slices]
    told = slices[0].apart
    ratio = distance / told if told else 1.0
    every = round(ratio)
    if abs(ratio - every) > UNEVEN * every or set(np.abs(np.diff(own)).tolist()) != {every}:
        return 1
    return 1 if numbers & set(range(min(own), max(own))) - set(own) else every


def _stack(header: Header, slices: list[Slice], phase: int, began: str, numbers: set[int]) -> Stack | str:
    """Make a volume, or say why not; `numbers` are those of the whole series."""
    if len(slices) < FEWEST_SLICES:
        return f"has {len(slices)} parallel slice{'s' * (len(slices) > 1)}, a localiser or single pictures"
    if len(slices) * slices[0].size[0] * slices[0].size[1] > MOST_IN_STACK:
        return f"has {len(slices)} slices of {slices[0].size} voxels, which no scanner makes"
    if repeated := _repeated(slices):
        return f"has {repeated} slices more than places, and nothing tells which belong together"
    rows = np.array(slices[0].rows).reshape(2, 3)
    x, y = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if abs(float(x @ y)) > ALIKE * 10:
        return "has rows and columns that are not at right angles"
    normal = np.cross(x, y)
    slices = sorted(slices, key=lambda one: float(np.dot(one.position, normal)))
    positions = np.array([one.position for one in slices])
    steps = np.diff(positions, axis=0)
    along = steps @ normal
    distance = float(np.median(along))
    if distance <= 0:
        return "has slices that all lie in one place"
    wide = np.abs(along - distance) > UNEVEN * distance + UNEVEN_MM
    if wide.any():
        gaps = np.round(along[wide] / distance).astype(int) - 1
        if (gaps > 0).all():
            return f"lacks {gaps.sum()} of {len(slices) + gaps.sum()} slices, which should lie {distance:.3g} mm apart"
        return f"has slices at uneven distances, {along.min():.3g} to {along.max():.3g} mm"
    if (every := _every(slices, distance, numbers)) > 1:
        return f"lacks slices: its own lie {distance:.3g} mm apart, and by their headers and numbers one in {every} is here"
    drift = steps @ np.stack([y, x], axis=1)
    tilt = np.median(drift, axis=0)
    if np.abs(drift - tilt).max() > UNEVEN * distance + UNEVEN_MM:
        return "has slices that are shifted against each other"
    if np.abs(tilt).max() > STEEPEST * distance:
        return "has slices that lie further beside than above each other"
    if (np.abs(tilt) * (len(slices) - 1) < HALF_VOXEL * np.array(slices[0].spacing)).all():
        tilt = np.zeros(2)  # from the first slice to the last: rounding
    distance = float(along.mean())
    geometry = Geometry(
        (distance, *slices[0].spacing),
        tuple(map(float, positions[0])),
        tuple(map(float, np.stack([x, y, normal], axis=1).ravel())),
    )
    return Stack(header, tuple(slices), geometry, (float(tilt[0]), float(tilt[1])), phase, began)
