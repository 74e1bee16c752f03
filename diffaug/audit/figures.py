"""A figure never stands alone: its 95 % interval and what it was counted over go with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffaug.patients import by_patient

RESAMPLES = 2000  # of every bootstrap
LEVEL = (2.5, 97.5)  # percentiles of the 95 % interval
HALVINGS = 200  # random halves that a comparison of sets is averaged over
FEWEST_TO_HALVE = 4  # volumes of a set that can be halved: halves of two


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


@dataclass(frozen=True)
class Compared:
    """A figure of the synthetic set against the real one, beside its floor: the same between halves of the real set.

    Attributes:
        figure: Synthetic against real.
        floor: Real against real, of sets of the same size.
        higher_is_better: Whether a good set has a high figure.
    """

    figure: Figure
    floor: Figure
    higher_is_better: bool

    @property
    def verdict(self) -> Literal["at the floor", "near", "off"]:
        """What the intervals say.

        `at the floor`: the figure is no worse than the worst that two real halves give, the 95 % interval of the floor.
        A set drawn as the real one was misses that in fewer than 2.5 % of cases, because the figure averages over halves
        while the floor's interval is of single ones. `off`: the whole interval of the figure is worse than that.
        `near`: between the two, where more volumes would be needed to tell.
        """
        sign = -1 if self.higher_is_better else 1
        worst = max(sign * self.floor.low, sign * self.floor.high)
        if sign * self.figure.value <= worst:
            return "at the floor"
        return "off" if min(sign * self.figure.low, sign * self.figure.high) > worst else "near"

    def text(self, digits: int = 3) -> str:
        """Write figure, floor and verdict.

        Args:
            digits: Digits after the point.

        Returns:
            For example `0.412 (0.380 to 0.444), floor 0.020 (0.011 to 0.032): off`.
        """
        return f"{self.figure.text(digits)}, floor {self.floor.text(digits)}: {self.verdict}"


def compare_sets(
    measure: Callable[[np.ndarray, np.ndarray], Mapping[str, float]],
    real: int,
    synthetic: int,
    *,
    seed: int,
    higher_is_better: Collection[str] = (),
    owners: Sequence[str] | None = None,
) -> dict[str, Compared]:
    """Compare a synthetic with a real set, and the real set with itself, always between sets of the same size.

    The real set is halved at random; one half is compared with as many synthetic volumes, then with the other half. So
    whatever bias the size of a set gives, figure and floor share. Both are averages over many halvings, and their
    intervals are the 95 % range of single halvings: the spread over half-samples estimates the sampling spread of the
    whole (McCarthy 1969, "Pseudo-replication: half samples"). They are drawn without replacement, unlike a bootstrap's:
    a volume that comes twice is its own nearest neighbour and would bias distances between sets.

    Args:
        measure: Figures by name of a real half and another set of its size, given as positions in the list of all real
            and then all synthetic volumes.
        real: Number of real volumes.
        synthetic: Number of synthetic volumes.
        seed: Of the halvings.
        higher_is_better: Names of the figures that are high for a good set.
        owners: Whose each real volume is: those of one patient, who are alike, are in one half. None: no two are of one.

    Returns:
        Figures and floors by name; their `n` is the number of volumes on either side of a comparison. Empty where a set
        has fewer than `FEWEST_TO_HALVE` volumes, or too few scans are of other patients than one.
    """
    if min(real, synthetic) < FEWEST_TO_HALVE:
        return {}
    rng, within = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    half = min(real, synthetic) // 2
    patients = list(by_patient(range(real), (owners or range(real)).__getitem__).values())
    smallest = half
    against: list[tuple[Mapping[str, float], Mapping[str, float]]] = []
    for _ in range(HALVINGS):
        shuffled = [patients[i] for i in rng.permutation(len(patients))]
        order: np.ndarray = np.concatenate(shuffled)
        ends = np.cumsum([len(scans) for scans in shuffled])
        cut = int(ends[np.abs(ends - real / 2).argmin()])  # between two patients
        size = min(cut, real - cut, half)
        if size < FEWEST_TO_HALVE // 2:
            return {}
        smallest = min(smallest, size)
        # some of every patient's
        one, two = within.permutation(order[:cut])[:size], within.permutation(order[cut:])[:size]
        other = real + rng.permutation(synthetic)[:size]
        against.append((measure(one, other), measure(one, two)))

    def summary(side: int, name: str) -> Figure:
        values = [pair[side][name] for pair in against]
        low, high = np.percentile(values, LEVEL)
        return Figure(float(np.mean(values)), float(low), float(high), smallest)

    return {name: Compared(summary(0, name), summary(1, name), name in higher_is_better) for name in against[0][0]}


def spread_distances(features: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compare how each feature is distributed in two sets of the same size.

    Args:
        features: `(volumes, F)`.
        a: Positions of one set.
        b: Positions of the other, as many.

    Returns:
        The Wasserstein-1 distance of each feature `(F,)`, in its unit: between as many values on either side it is the
        mean difference of the sorted values (Peyre and Cuturi 2019, "Computational Optimal Transport", remark 2.28).
    """
    return np.abs(np.sort(features[a], axis=0) - np.sort(features[b], axis=0)).mean(0)


def standardised(features: np.ndarray, real: int) -> np.ndarray:
    """Count every feature in standard deviations of the real set.

    Args:
        features: `(volumes, F)`, real ones first.
        real: How many are real.

    Returns:
        `(volumes, F)` float64; a feature that is the same in all real volumes keeps its unit. The unit is all that
        `spread_distances` feels of this; where nearness to the real mean counts, it would favour the floor.
    """
    reference = features[:real].astype(float)
    spread = reference.std(0)
    return (features - reference.mean(0)) / np.where(spread > 1e-8, spread, 1)


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
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    both = weights[:, pairs[:, 0]] * weights[:, pairs[:, 1]]
    both = both[both.sum(1) > 0]  # a resample of very few volumes may hold no pair at all
    low, high = np.percentile(both @ data / both.sum(1), LEVEL) if len(both) else (np.nan, np.nan)
    return Figure(float(data.mean()), float(low), float(high), len(data))


def area_figure(scores: Sequence[np.ndarray], seed: int) -> Figure:
    """Average the folds' areas under the ROC curve: 0.5 where the sets are not told apart, 1 where they always are.

    Args:
        scores: Of each set, fold and score of every volume, `(n, 2)`; each fold has volumes of both.
        seed: Of the bootstrap.

    Returns:
        The area, its interval by drawing the volumes of each fold anew, and the number of volumes of the smaller set.
    """
    rng = np.random.default_rng(seed)
    areas, drawn = [], []
    for number in np.unique(scores[0][:, 0]):
        first, second = (one[one[:, 0] == number, 1] for one in scores)
        # share of pairs in which the second set's volume has the higher score, ties half (Mann and Whitney 1947)
        higher = (np.sign(second - first[:, None]) + 1) / 2
        areas.append(higher.mean())
        times = [rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) for n in higher.shape]
        drawn.append((times[0] @ higher * times[1]).sum(axis=1) / higher.size)
    low, high = np.percentile(np.mean(drawn, axis=0), LEVEL)
    return Figure(float(np.mean(areas)), float(low), float(high), min(map(len, scores)))
