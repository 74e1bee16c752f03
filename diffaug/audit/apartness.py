"""Are synthetic volumes told from scans? The classifier two-sample test, its floor, and whether it would notice.

Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests" (arXiv 1610.06545). Distances between features tell whether
sets differ in what the features hold; this looks for whatever tells them apart, as a person would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from diffaug.audit.classifier import ClassifierObjective
from diffaug.audit.discriminant import excess_of, tell_textures_apart, texture_statistics
from diffaug.audit.figures import Compared, Figure, area_figure
from diffaug.audit.folds import PATIENT_FOLDS, deal_folds
from diffaug.audit.inputs import AuditInputs
from diffaug.audit.spoiling import blurred, patched, strangers
from diffaug.budgets import Training
from diffaug.files import fingerprint, read_json, write_json
from diffaug.patients import by_patient
from diffaug.training.devices import alone
from diffaug.training.loop import train
from diffaug.training.together import shared_out

C2ST = "C2ST"  # name of the figure
CHECKED_FOLDS = 2  # of them: enough to tell whether the classifier notices what is known to differ
CLASSIFIER_STEPS = 300  # of each fold
CLASSIFIER_BATCH = 16  # half of it of either set
MOST = 100  # volumes of either set
FEWEST = 2 * PATIENT_FOLDS  # two of either set in every fold


@dataclass(frozen=True)
class Apartness:
    """What the test found.

    Attributes:
        curve: Area under the ROC curve of synthetic volumes against scans, beside that of two halves of the scans.
        textured: The same of a discriminant of texture statistics.
        blurred: That of scans against slightly blurred scans.
        patched: That of scans against scans in which an eighth of the volume is another scan's.
        synthetic: Score of the synthetic volumes, by name: the higher, the more surely it gave itself away to the classifier
            that tells more of them.
        real: Score of the scans, by id.
        excess: By how many standard deviations of the scans the synthetic volumes' texture statistics are larger, `(F,)`.
    """

    curve: Compared
    textured: Compared
    blurred: Compared
    patched: Compared
    synthetic: dict[str, float]
    real: dict[str, float]
    excess: np.ndarray


def look_for_differences(
    inputs: AuditInputs,
    scans: Sequence[tuple[str, str | None]],
    owners: Sequence[str],
    *,
    seed: int,
    fabric: Fabric,
    folder: Path,
) -> Apartness | None:
    """Let classifiers learn to tell synthetic volumes from scans, scans from scans, and scans from spoilt scans.

    Args:
        inputs: The volumes.
        scans: The scans to compare with, arguments for `AuditInputs.real`.
        owners: Whose each of them is.
        seed: Of everything drawn.
        fabric: Where to compute.
        folder: Where a stopped test goes on from.

    Returns:
        What was found; None where there are too few volumes, or too few patients.
    """
    rng = np.random.default_rng(seed)
    halves = _halves(list(zip(scans, owners, strict=True)), len(inputs.names), rng)
    if halves is None:
        return None
    (first, known), (second, unknown) = (zip(*half, strict=True) for half in halves)
    names = [inputs.names[i] for i in rng.permutation(len(inputs.names))[: len(first)]]

    def textured(others: np.ndarray, whose: Sequence[str]) -> list[np.ndarray]:
        return tell_textures_apart((textures, others), (known, whose), seed)

    def apart(name: str, others: Sequence[np.ndarray], whose: Sequence[str], **asked: int) -> list[np.ndarray]:
        sets, patients, mirror = (real, list(others)), (known, whose), inputs.grid.mirror
        return tell_apart(sets, patients, mirror=mirror, seed=seed, fabric=fabric, folder=folder, name=name, **asked)

    real = [_half(inputs.real(*where)) for where in first]
    rest = [_half(inputs.real(*where)) for where in second]
    textures = texture_statistics(real)
    volumes, makers = [_half(inputs.synthetic(n)) for n in names], [f"synthetic {n}" for n in names]
    made, made_textures = apart("synthetic", volumes, makers), texture_statistics(volumes)
    del volumes  # they may be large
    made_textured = textured(made_textures, makers)

    floor, floor_of_textures = (
        at_least_chance(area_figure(scores, seed))
        for scores in (apart("scans", rest, unknown), textured(texture_statistics(rest), unknown))
    )
    curve, texture_curve = _compared(made, floor, seed), _compared(made_textured, floor_of_textures, seed)
    telling = made if curve.figure.value >= texture_curve.figure.value else made_textured
    mixed = [patched(v, other, rng) for v, other in zip(rest, strangers(rest), strict=True)]
    return Apartness(
        curve,
        texture_curve,
        _compared(apart("blurred", [blurred(v) for v in rest], unknown, asked=CHECKED_FOLDS), floor, seed),
        _compared(apart("patched", mixed, unknown, asked=CHECKED_FOLDS), floor, seed),
        dict(zip(names, telling[1][:, 1].tolist(), strict=True)),
        dict(zip((case for case, _ in first), telling[0][:, 1].tolist(), strict=True)),
        excess_of(textures, made_textures),
    )


def tell_apart(
    sets: Sequence[Sequence[np.ndarray]],
    patients: Sequence[Sequence[str]],
    *,
    mirror: int,
    seed: int,
    fabric: Fabric,
    folder: Path,
    name: str,
    asked: int = PATIENT_FOLDS,
) -> list[np.ndarray]:
    """Judge every volume by a classifier that has seen no volume of its patient.

    Args:
        sets: Both sets' volumes `(C, Z, Y, X)` in [-1, 1], all of one shape, in any precision.
        patients: Whose each of them is: volumes of one patient are in one fold.
        mirror: Array axis (0 to 2) that runs left-right.
        seed: Of the folds.
        fabric: The processes, which share the folds out.
        folder: Where a stopped test goes on from.
        name: Of the test, part of file names.
        asked: How many of the folds are asked: fewer answer sooner, of fewer volumes.

    Returns:
        Of each set, fold and score of every volume that was asked about, `(n, 2)`: the higher, the more it looks like one of
        the second set.
    """
    dealt = deal_folds(patients, seed)
    scores = [np.stack([fold, np.zeros(len(fold))], 1) for fold in dealt]
    sums = [[float(v.sum(dtype=np.float64)) for v in volumes] for volumes in sets]
    # a folder of its own: what was stopped half-way of other volumes must not stand in the way
    own = folder / f"{name}_{fingerprint([patients, seed, mirror, CLASSIFIER_STEPS, sums])}"
    own.mkdir(parents=True, exist_ok=True)

    def answers(number: int) -> list[list[float]]:
        file = own / f"{number}.json"
        if not file.is_file():
            apart = [[fold == number for fold in folds] for folds in dealt]
            known = [[v for v, out in zip(s, o, strict=True) if not out] for s, o in zip(sets, apart, strict=True)]
            torch.manual_seed(seed + number)
            objective = ClassifierObjective(known, mirror)
            training = Training(CLASSIFIER_STEPS, CLASSIFIER_BATCH // 2, 2e-3, seed=seed + number)
            fit = f"classifier_{name}_{number + 1}_of_{asked}"
            place = own / str(number)  # processes beside each other write logs, too
            place.mkdir(exist_ok=True)
            train(objective, objective.example, training, fabric=alone(fabric), folder=place, name=fit, identity=None)
            unknown = [[v for v, out in zip(s, o, strict=True) if out] for s, o in zip(sets, apart, strict=True)]
            write_json(file, [[objective.judge(v, fabric.device) for v in volumes] for volumes in unknown])
            (place / f"{fit}.state.pt").unlink(missing_ok=True)
        return read_json(file, "delete it")  # type: ignore[no-any-return]

    for number, found in enumerate(shared_out(range(asked), lambda some: [answers(n) for n in some], fabric)):
        for one, told in zip(scores, found, strict=True):
            one[one[:, 0] == number, 1] = told
    return [one[one[:, 0] < asked] for one in scores]


def at_least_chance(area: Figure) -> Figure:
    """Move an area below one half up to it: of two halves of one set nothing lower can be expected.

    Cross-validation draws areas below one half where there is nothing to find: what by chance is over-represented in four
    folds is under-represented in the fifth.

    Args:
        area: Of two halves of one set.

    Returns:
        The area and its interval, moved where it was below one half.
    """
    up = max(0.0, 0.5 - area.value)
    return Figure(area.value + up, area.low + up, area.high + up, area.n)


def _compared(scores: Sequence[np.ndarray], floor: Figure, seed: int) -> Compared:
    return Compared(area_figure(scores, seed), floor, higher_is_better=False)


_Owned = tuple[tuple[str, str | None], str]  # a scan, and whose it is


def _halves(scans: Sequence[_Owned], most: int, rng: np.random.Generator) -> tuple[list[_Owned], list[_Owned]] | None:
    """Draw two sets of one size, at most one patient with scans in both; None where there are too few scans or patients."""
    shuffled = (scans[i] for i in rng.permutation(len(scans)))
    owned = list(chain.from_iterable(by_patient(shuffled, itemgetter(1)).values()))
    middle = len(owned) // 2
    count = min(middle, most, MOST)
    halves = _spread(owned[:middle], count), _spread(owned[: middle - 1 : -1], count)[::-1]
    fewest = min(len({patient for _, patient in half}) for half in halves)
    return halves if count >= FEWEST and fewest >= PATIENT_FOLDS else None


def _spread(owned: Sequence[_Owned], count: int) -> list[_Owned]:
    """Choose as many patients' scans as can be: the first of each, then the second of each."""
    seen: Counter[str] = Counter()
    turns = []
    for place, (_, patient) in enumerate(owned):
        turns.append((seen[patient], place))
        seen[patient] += 1
    return [owned[place] for place in sorted(place for _, place in sorted(turns)[:count])]


def _half(volume: np.ndarray) -> np.ndarray:
    """Keep a volume in half precision: hundreds of large ones lie in memory."""
    return volume.astype(np.float16)
