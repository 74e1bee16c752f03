"""The folds that nnU-Net makes where a dataset has none."""

from __future__ import annotations

from collections.abc import Iterable

from nnunetv2.utilities.crossval_split import generate_crossval_split

FOLDS = 5


def default_splits(labelled: Iterable[str]) -> list[dict[str, list[str]]]:
    """Split cases as nnU-Net will at the first training.

    Args:
        labelled: Ids of the labelled cases, at least five.

    Returns:
        For each fold the lists `train` and `val`.
    """
    splits = generate_crossval_split(sorted(labelled), seed=12345, n_splits=FOLDS)
    return [{part: [str(case) for case in split[part]] for part in ("train", "val")} for split in splits]
