"""Slices become volumes: sorted, told apart where several lie in one place, and refused where a part is missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffaug.dicom.headers import Header, Slice
from diffaug.scans.scan import Geometry

MOST_IN_STACK = 2**31  # voxels; a header may say anything
FEWEST_SLICES = 5  # fewer are a localiser, or single pictures
ALIKE = 1e-3  # of direction cosines and spacings, as headers round them
UNEVEN = 0.02  # relative, of the distance between slices; and mm
UNEVEN_MM = 0.02
TILTED = 0.01  # mm between slices within their plane; less is rounding


@dataclass(frozen=True)
class Stack:
    """A volume: slices in order.

    Attributes:
        header: Of one of its instances.
        slices: From one end to the other.
        geometry: Of the voxels, as if the slices were not tilted.
        tilt: How much further than its neighbour each slice lies along y and x, mm; zero but for a tilted gantry.
        phase: Place in time among the volumes of its series that lie in one place.
    """

    header: Header
    slices: tuple[Slice, ...]
    geometry: Geometry
    tilt: tuple[float, float]
    phase: int

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
    def place(self) -> tuple[object, ...]:
        """Equal for volumes that lie in one place."""
        corner = tuple(round(v, 1) for v in self.geometry.origin)
        return self.header.study, self.size, corner, tuple(round(v, 3) for v in self.geometry.spacing)

    @property
    def time(self) -> tuple[str, int, int]:
        """What volumes are put into order by."""
        return self.header.time, self.header.series_number, self.phase


def stacks_of(headers: Sequence[Header]) -> tuple[list[Stack], list[tuple[Header, str]]]:
    """Make volumes of the instances of one series.

    Args:
        headers: Of its instances, in any order.

    Returns:
        The volumes, and what makes none, with the reason.
    """
    passed: Counter[str] = Counter()
    first: dict[str, Header] = {}
    for header in headers:
        if header.lacks:
            passed[header.lacks] += 1
            first.setdefault(header.lacks, header)
    lacking = [(first[reason], reason) for reason in passed]
    found: list[Stack] = []
    parts: dict[tuple[object, ...], list[tuple[Header, Slice]]] = defaultdict(list)
    seen: set[tuple[str, int]] = set()
    for header in headers:
        for one in header.slices:
            if (one.uid, one.frame) not in seen:  # an instance that was sent twice
                seen.add((one.uid, one.frame))
                parts[_frame_of(one)].append((header, one))
    for part in parts.values():
        volumes = _told_apart([one for _, one in part])
        header = part[0][0]
        for number, slices in enumerate(volumes):
            made = _stack({one.uid: header for header, one in part}[slices[0].uid], slices, number)
            if isinstance(made, Stack):
                found.append(made)
            else:
                lacking.append((header, made))
    return found, lacking


def _frame_of(one: Slice) -> tuple[object, ...]:
    """What slices of one volume have in common."""
    rows = tuple(float(v) + 0.0 for v in np.round(np.array(one.rows), 2))
    return one.size, tuple(round(v, 3) for v in one.spacing), rows


def _told_apart(slices: list[Slice]) -> list[list[Slice]]:
    """Tell volumes that lie in one place apart: by what headers say, last by the number of the instance."""
    if not _repeated(slices):
        return [slices]
    for name, _ in slices[0].moment:
        groups: dict[object, list[Slice]] = defaultdict(list)
        for one in slices:
            groups[dict(one.moment)[name]].append(one)
        # a property that is another for every slice, as its time may be, tells no volumes apart
        if len(groups) > 1 and max(map(len, groups.values())) >= FEWEST_SLICES and _fewer(groups.values(), slices):
            order = sorted(groups, key=lambda value: (value is None, str(type(value)), value))
            return [volume for value in order for volume in _told_apart(groups[value])]
    by_place = defaultdict(list)
    for one in sorted(slices, key=lambda one: one.number):
        by_place[_along(one)].append(one)
    counts = {len(group) for group in by_place.values()}
    if len(counts) > 1:
        return [slices]
    return [[group[i] for group in by_place.values()] for i in range(counts.pop())]


def _along(one: Slice) -> float:
    """Where a slice lies along its normal, mm."""
    return round(float(np.dot(one.position, np.cross(one.rows[:3], one.rows[3:]))), 2)


def _repeated(slices: Sequence[Slice]) -> int:
    return len(slices) - len({_along(one) for one in slices})


def _fewer(groups, slices: Sequence[Slice]) -> bool:  # type: ignore[no-untyped-def]
    return sum(map(_repeated, groups)) < _repeated(slices)


def _stack(header: Header, slices: list[Slice], phase: int) -> Stack | str:
    """Make a volume, or say why not."""
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
    drift = steps @ np.stack([y, x], axis=1)
    tilt = np.median(drift, axis=0)
    if np.abs(drift - tilt).max() > UNEVEN * distance + UNEVEN_MM:
        return "has slices that are shifted against each other"
    if np.abs(tilt).max() < TILTED + UNEVEN * distance / 10:
        tilt = np.zeros(2)
    distance = float(along.mean())
    geometry = Geometry(
        (distance, *slices[0].spacing),
        tuple(map(float, positions[0])),
        tuple(map(float, np.stack([x, y, normal], axis=1).ravel())),
    )
    return Stack(header, tuple(slices), geometry, (float(tilt[0]), float(tilt[1])), phase)
