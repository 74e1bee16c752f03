"""A figure never stands alone: its 95 % interval and what it was counted over go with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000  # of every bootstrap
LEVEL = (2.5, 97.5)  # percentiles of the 95 % interval


@dataclass(frozen=True)
class Figure:
    """A measured value.

    Attributes:
        value: The value.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: How many measurements it was made from.
    """

    value: float
    low: float
    high: float
    n: int

    def text(self, digits: int = 3) -> str:
        """Write value and interval.

        Args:
            digits: Digits after the point.

        Returns:
            For example `0.612 (0.580 to 0.644)`; no interval where one measurement gives none.
        """
        if self.n < 2:
            return f"{self.value:.{digits}f} (one measurement, no interval)"
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def mean_figure(values: Sequence[float], seed: int) -> Figure:
    """Average independent measurements.

    Args:
        values: The measurements.
        seed: Of the bootstrap.

    Returns:
        The mean with its percentile bootstrap interval.
    """
    data = np.asarray(values, dtype=float)
    picks = np.random.default_rng(seed).integers(len(data), size=(RESAMPLES, len(data)))
    low, high = np.percentile(data[picks].mean(1), LEVEL)
    return Figure(float(data.mean()), float(low), float(high), len(data))


def pairs_figure(pairs: np.ndarray, values: Sequence[float], count: int, seed: int) -> Figure:
    """Average over pairs of volumes. Volumes are resampled, not pairs: pairs that share a volume are not independent.

    Args:
        pairs: Indices of the two volumes, `(pairs, 2)`.
        values: One per pair.
        count: Number of volumes the pairs were drawn from.
        seed: Of the bootstrap.

    Returns:
        The mean with its percentile bootstrap interval; `n` is the number of pairs.
    """
    data = np.asarray(values, dtype=float)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    both = weights[:, pairs[:, 0]] * weights[:, pairs[:, 1]]
    both = both[both.sum(1) > 0]  # a resample of very few volumes may hold no pair at all
    low, high = np.percentile(both @ data / both.sum(1), LEVEL) if len(both) else (np.nan, np.nan)
    return Figure(float(data.mean()), float(low), float(high), len(data))


def percentile_figure(values: Sequence[float], percent: float, seed: int) -> Figure:
    """Take a high percentile, rounded up to a measured value: of 20 or fewer the 95th is the largest.

    Args:
        values: Independent measurements.
        percent: Which percentile.
        seed: Of the bootstrap.

    Returns:
        The percentile with its bootstrap interval, which few measurements make too narrow at its upper end.
    """
    data = np.asarray(values, dtype=float)
    picks = np.random.default_rng(seed).integers(len(data), size=(RESAMPLES, len(data)))
    low, high = np.percentile(np.percentile(data[picks], percent, axis=1, method="higher"), LEVEL)
    return Figure(float(np.percentile(data, percent, method="higher")), float(low), float(high), len(data))
