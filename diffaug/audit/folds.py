"""Cross-validation by patient: whose volumes are judged by what has seen no volume of theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PATIENT_FOLDS = 5


def deal_folds(patients: Sequence[Sequence[str]], seed: int) -> list[np.ndarray]:
    """Deal patients out to folds, those of each set evenly: a fold without volumes of either set would judge nothing.

    Args:
        patients: Of each set, whose each volume is.
        seed: Of the dealing.

    Returns:
        Of each set the fold of every volume.
    """
    rng = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    for side in patients:
        new = [patient for patient in dict.fromkeys(side) if patient not in fold_of]
        for place, pick in enumerate(rng.permutation(len(new))):
            fold_of[new[pick]] = place % PATIENT_FOLDS
    return [np.array([fold_of[patient] for patient in side]) for side in patients]
