"""What the cells say: means with intervals, and each arm against another, paired by case and seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp, wilcoxon

DRAWS = 4000


@dataclass(frozen=True)
class Difference:
    """One arm minus another at one number of labels.

    Attributes:
        mean: Of the difference.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p_cases: Wilcoxon's signed-rank test over cases, each averaged over seeds: would other test cases say the same?
        p_seeds: t-test over seeds, each averaged over cases: would other draws and trainings say the same?
        each: Means of the seeds that both arms have.
    """

    mean: float
    low: float
    high: float
    p_cases: float
    p_seeds: float
    each: tuple[float, ...]

    @property
    def seeds(self) -> int:
        """Number of seeds that both arms have."""
        return len(self.each)


def grid(cells: pd.DataFrame, arm: str, labelled: int) -> pd.DataFrame:
    """Arrange the scores of an arm at one number of labels: one row per seed, one column per case."""
    chosen = cells[(cells["arm"] == arm) & (cells["labelled"] == labelled)]
    return chosen.pivot(index="seed", columns="case", values="value")


def interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap a mean over seeds and cases, both drawn anew.

    Args:
        values: `(seeds, cases)`.

    Returns:
        The 95 % interval.
    """
    rng = np.random.default_rng(0)
    seeds, cases = values.shape
    means = [
        values[np.ix_(rng.integers(seeds, size=seeds), rng.integers(cases, size=cases))].mean() for _ in range(DRAWS)
    ]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def compare(cells: pd.DataFrame, arm: str, against: str, labelled: int) -> Difference | None:
    """Compare two arms on the seeds that both have.

    Args:
        cells: From `collect`.
        arm: The one.
        against: The other.
        labelled: Number of labels.

    Returns:
        The difference; None where no seed is common.
    """
    gain = _paired(grid(cells, arm, labelled), grid(cells, against, labelled))
    if not gain.size:
        return None
    by_case, by_seed = gain.mean(0), gain.mean(1)
    p_cases = float(wilcoxon(by_case).pvalue) if by_case.any() else 1.0
    p_seeds = float(ttest_1samp(by_seed, 0).pvalue) if len(by_seed) > 1 and np.ptp(by_seed) else float("nan")
    return Difference(float(gain.mean()), *interval(gain), p_cases, p_seeds, tuple(by_seed.tolist()))


def compare_counts(cells: pd.DataFrame, arm: str, few: int, many: int) -> float:
    """Tell what more labels add to an arm, on the seeds that have both.

    Args:
        cells: From `collect`.
        arm: The arm.
        few: Number of labels.
        many: The larger number.

    Returns:
        Mean with many minus mean with few labels; NaN where no seed has both.
    """
    more = _paired(grid(cells, arm, many), grid(cells, arm, few))
    return float(more.mean()) if more.size else float("nan")


def _paired(mine: pd.DataFrame, theirs: pd.DataFrame) -> np.ndarray:
    """Subtract on the seeds that both have: `(seeds, cases)`."""
    seeds = mine.index.intersection(theirs.index)
    return (mine.loc[seeds] - theirs.loc[seeds]).to_numpy()


def holm(values: Iterable[float]) -> list[float]:
    """Adjust p values for their number (Holm 1979).

    Args:
        values: p values; NaN stays.

    Returns:
        As many.
    """
    given = np.asarray(list(values), float)
    adjusted = np.full(given.shape, np.nan)
    known = np.flatnonzero(~np.isnan(given))
    worst = 0.0
    for rank, index in enumerate(known[np.argsort(given[known])]):
        worst = max(worst, min(1.0, (len(known) - rank) * given[index]))
        adjusted[index] = worst
    return adjusted.tolist()
