"""Making a copy detector: which scans show one patient, which similarity is still innocent, and what it finds of copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import beta
from tqdm import tqdm

from diffaug.copies.changes import COPY_KINDS, apply, draw
from diffaug.copies.detector import BLIND, SCAN_REACH, Calibration, CopyDetector, Nearest, Volume
from diffaug.patients import patients_by_name
from diffaug.scans.windows import Window, centred, cut, scattered

ALLOWED_ALARMS = 0.03  # share of real scans that are no copies but may be taken for some
MISSED = 0.05  # share of the copies that may look less like their scan than what counts as a copy's usual likeness
THRESHOLD_MARGIN = (
    0.25  # of the way from innocent scans to copies, where these lie apart: fewer false alarms, none missed
)
WINDOWS = 160  # of real scans that set the threshold, at most; several of each where there are few
VIEWS = {"whole": 2, "patch": 8}  # of each, at most
PLANTED = 12  # training scans of which copies are planted
CROWD = 3  # scans of one patient beside a scan, from which on they hide each other
ROUNDS = 2  # the first finds scans of one patient, the second counts without them
CALIBRATION_SEED = 0


@dataclass(frozen=True)
class _Judged:
    """A real scan held against all other patients's.

    Attributes:
        case: Its id.
        found: What each of its windows is most like.
        distances: Of the nearest of them to every training scan, infinity where one is passed over.
    """

    case: str
    found: list[Nearest]
    distances: np.ndarray

    @property
    def nearest(self) -> Nearest:
        return max(self.found, key=lambda near: near.similarity)

    @property
    def similarities(self) -> np.ndarray:
        return np.array([near.similarity for near in self.found])


def make_detector(
    volume: Volume,
    cases: Sequence[str],
    unseen: Sequence[str],
    *,
    shape: Sequence[int],
    mirror: int,
    field_of_view: str,
    device: torch.device,
) -> CopyDetector:
    """Make the detector of a set of training scans.

    Args:
        volume: Gives a scan `(C, Z, Y, X)` in [-1, 1] of its own extent.
        cases: Ids of the scans that the generator was trained on.
        unseen: Ids of scans that it never saw; there may be none.
        shape: Voxels (Z, Y, X) of a window.
        mirror: Array axis (0 to 2) that runs left-right.
        field_of_view: `whole`: a window holds the scan; `patch`: it lies anywhere in it.
        device: Where to compute.

    Returns:
        The detector.
    """
    detector = CopyDetector(
        volume, cases, shape=shape, mirror=mirror, field_of_view=field_of_view, device=torch.device(device)
    )
    real = [*cases, *unseen]
    if len(real) > WINDOWS:
        real = [real[i] for i in sorted(np.random.default_rng(CALIBRATION_SEED).permutation(len(real))[:WINDOWS])]
    views = min(max(1, WINDOWS // len(real)), VIEWS[field_of_view])
    named = _some(patients_by_name([*cases, *unseen]), cases)
    detector.calibrate(Calibration(patients=named))
    for number in range(ROUNDS):
        shown = tqdm(real, f"copy test, round {number + 1}", unit="scan", ascii=True)
        judged = [_judge_real(detector, volume(case), case, views, index) for index, case in enumerate(shown)]
        planted, moved = _plant(detector, volume)
        known = detector.calibration.patients
        found = _calibrate(_joined(known, _crowded(judged, moved, detector.cases)), judged, planted)
        some = _some(found.patients, cases)
        left = [group for group in named if not any(set(group) <= set(other) for other in some)]
        detector.calibrate(replace(found, patients=tuple(sorted([*some, *left]))))
        if detector.calibration.patients == known:  # then the second round would say the same
            break
    return detector


def _judge_real(detector: CopyDetector, scan: np.ndarray, case: str, views: int, index: int) -> _Judged:
    """Hold windows of a real scan against all patients but its own."""
    rng = np.random.default_rng((CALIBRATION_SEED, index))
    whole = detector.field_of_view == "whole"
    windows = [_window(detector, scan, rng, SCAN_REACH if number and whole else 0) for number in range(views)]
    shown = np.stack([cut(scan, window, detector.shape) for window in windows])
    group = next((group for group in detector.calibration.patients if case in group), (case,))
    own = next((other for other in group if other in detector.cases), None)
    rows = detector.distances(torch.from_numpy(shown), own)
    return _Judged(case, [detector.nearest(row) for row in rows], rows.amin(0).numpy())


def _window(detector: CopyDetector, scan: np.ndarray, rng: np.random.Generator, reach: int = 0) -> Window:
    """Lay a window onto the middle of a whole scan, or off it by `reach`, or anywhere in a larger one."""
    if detector.field_of_view == "whole" and not reach:
        return centred(scan.shape[1:], detector.shape)
    return scattered(scan.shape[1:], detector.shape, reach, rng)


def _plant(detector: CopyDetector, volume: Volume) -> tuple[dict[str, np.ndarray], float]:
    """Plant copies of every kind.

    By kind the similarity of each, or -1 where another patient was found than it is of; and how far copies lie from their
    scans, the median.
    """
    rng = np.random.default_rng(CALIBRATION_SEED)
    group_of = {case: group for group in detector.calibration.patients for case in group}
    planted, moved = {}, []
    for kind in COPY_KINDS:
        scores = []
        for source in rng.permutation(len(detector.cases))[:PLANTED]:
            case = detector.cases[source]
            scan = volume(case)
            window = _window(detector, scan, rng)
            copy = apply(draw(kind, rng), scan, window, detector.shape, detector.mirror)
            (row,) = detector.distances(torch.from_numpy(copy)[None])
            found = detector.nearest(row)
            moved.append(float(row[source]))
            scores.append(found.similarity if found.case in group_of.get(case, (case,)) else -1.0)
        planted[kind] = np.array(scores)
    return planted, float(np.median(moved))


def _crowded(judged: Sequence[_Judged], moved: float, cases: Sequence[str]) -> list[tuple[str, str]]:
    """Pair scans of patients of whom there are so many scans that the nearest is no nearer than the next ones.

    Similarity, which holds the nearest scan against the next five, sees nothing there. Distances do: those between scans of
    one patient lie nearer to those of copies than to those of scans.
    """
    apart = np.concatenate([one.distances[np.isfinite(one.distances)] for one in judged])
    if not len(apart):
        return []
    near = (moved + float(np.median(apart))) / 2
    pairs = []
    for one in judged:
        fellows = np.flatnonzero(one.distances < near)
        if len(fellows) >= CROWD:
            pairs += [(one.case, cases[int(place)]) for place in fellows]
    return pairs


def _some(groups: Sequence[tuple[str, ...]], cases: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Leave out a patient whom all training scans are of: there is nobody to hold him against."""
    return tuple(group for group in groups if not set(cases) <= set(group))


def _calibrate(
    patients: tuple[tuple[str, ...], ...], judged: Sequence[_Judged], planted: dict[str, np.ndarray]
) -> Calibration:
    """Set the threshold so that few real scans lie above it; judge each of them by the threshold of the others.

    A scan that is nearer to what copies are like than to what scans are like shows a patient twice, or is there twice. It
    would hide all copies, so it sets no threshold. Where not even half of the planted copies are ascribed to the right
    patient, the detector is blind and calls nothing a copy.
    """
    copies = np.concatenate(list(planted.values()))
    typical = float(np.median(copies)), float(np.median([one.nearest.similarity for one in judged]))
    blind = typical[0] <= 0
    known = [one for one in judged if not blind and one.nearest.similarity > sum(typical) / 2]
    honest = [one for one in judged if one not in known]

    def threshold(scans: Sequence[_Judged]) -> float:
        if blind:
            return BLIND
        if not scans:  # then only what copies look like can tell
            return float(np.percentile(copies, 100 * MISSED))
        similarities = np.concatenate([one.similarities for one in scans])
        innocent = float(np.percentile(similarities, 100 * (1 - ALLOWED_ALARMS), method="higher"))
        return innocent + THRESHOLD_MARGIN * max(0.0, float(np.percentile(copies, 100 * MISSED)) - innocent)

    least = threshold(honest)
    alarms = 0.0
    for one in honest:
        others = [other for other in honest if other is not one]
        alarms += float(np.mean(one.similarities > threshold(others or honest)))
    count = len(honest)  # windows of one scan are no independent scans: the interval counts scans
    low = beta.ppf(0.025, alarms, count - alarms + 1) if alarms else 0.0
    high = beta.ppf(0.975, alarms + 1, count - alarms) if alarms < count else 1.0
    nearest = {one.case: one.nearest for one in honest}
    return Calibration(
        threshold=least,
        false_alarms=(alarms / max(count, 1), float(low), float(high), count),
        patients=_joined(patients, [(one.case, one.nearest.case) for one in known]),
        planted={kind: (int((scores > least).sum()), len(scores)) for kind, scores in planted.items()},
        innocent={case: (near.case, near.similarity, near.ratio) for case, near in nearest.items()},
    )


def _joined(groups: Sequence[Sequence[str]], pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Join groups that share a member."""
    joined: list[set[str]] = []
    for group in (*groups, *pairs):
        sharing = [other for other in joined if other & set(group)]
        joined = [other for other in joined if other not in sharing] + [set(group).union(*sharing)]
    return tuple(sorted(tuple(sorted(group)) for group in joined))
