"""Cross-validation by patient: whose volumes are judged by what has seen no volume of theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

PATIENT_FOLDS = 5


def deal_folds(patients: Sequence[Sequence[str]], seed: int) -> list[np.ndarray]:
    """Deal patients out to folds, the volumes of each set evenly: a fold without volumes of either set would judge nothing.

    With five patients in each set, of whom the sets share one at most, no fold lacks either.

    Args:
        patients: Of each set, whose each volume is.
        seed: Of the dealing.

    Returns:
        Of each set the fold of every volume.
    """
    rng = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    for side in patients:
        counts = Counter(side)
        new = [patient for patient in counts if patient not in fold_of]
        dealt = np.zeros(PATIENT_FOLDS, int)  # volumes of this side in each fold
        for patient in counts.keys() & fold_of.keys():
            dealt[fold_of[patient]] += counts[patient]
        for pick in rng.permutation(len(new)):
            fold_of[new[pick]] = int(dealt.argmin())
            dealt[fold_of[new[pick]]] += counts[new[pick]]
    return [np.array([fold_of[patient] for patient in side]) for side in patients]
