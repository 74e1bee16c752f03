"""How far a synthetic set lies from a real one in a feature space, each figure beside that of two real halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import eigh
from scipy.stats import betabinom

from diffaug.audit.figures import FEWEST_TO_HALVE, Compared, Figure, compare_sets

NEIGHBOURS = 5  # k of density and coverage, as in arXiv 2507.01761
LARGEST = 400  # volumes of a set that are compared: a random choice of a larger set's
PER_DIMENSION = 4  # volumes per dimension of the space that FID is taken in: with fewer its covariances are degenerate
FID_DIMENSIONS = 64  # of that space at most, as of FID's smallest customary feature layer
FIGURES = ("KID", "FID", "density", "coverage")
FARTHEST = 10.0  # deviations that a feature counts for at most: networks have features silent in all volumes but one


def set_distances(
    real: np.ndarray, synthetic: np.ndarray, seed: int, owners: Sequence[str] | None = None
) -> dict[str, Compared]:
    """Compare two sets of feature vectors, standardised by the real set (`_scaled_by_others`).

    Args:
        real: Features of real volumes `(n, F)`, F at least 2.
        synthetic: Features of synthetic volumes `(m, F)`.
        seed: Of everything drawn.
        owners: Whose each real volume is; None: no two are of one patient.

    Returns:
        `KID` (`kernel_distance`); `FID` (`frechet_distance`) along the leading principal directions of both sets together,
        as many as the volumes bear, a direction in which synthetic volumes leave the real ones among them, so that its
        floor is of these two sets alone; `density` and `coverage` (`clipped_density`, `clipped_coverage`); empty where a
        set has fewer than four volumes, or too few scans are of other patients than one.
    """
    if min(len(real), len(synthetic)) < FEWEST_TO_HALVE:
        return {}
    rng = np.random.default_rng(seed)
    chosen, others = (rng.permutation(len(s))[:LARGEST] for s in (real, synthetic))
    real, synthetic = real[chosen], synthetic[others]
    owners = [owners[i] for i in chosen] if owners else None
    features = _scaled_by_others(real, synthetic)
    half = min(len(real), len(synthetic)) // 2
    products = features @ features.T  # all that the figures need, whatever the number of features
    kernel = (products / features.shape[1] + 1) ** 3
    lengths = np.diag(products)
    apart = np.sqrt(np.maximum(lengths[:, None] + lengths - 2 * products, 0))
    np.fill_diagonal(apart, 0)
    leading = _leading(products, min(features.shape[1], max(2, half // PER_DIMENSION), FID_DIMENSIONS))

    def measure(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
        within, across = np.ix_(a, a), np.ix_(a, b)
        return {
            "KID": kernel_distance(kernel[within], kernel[np.ix_(b, b)], kernel[across]),
            "FID": frechet_distance(leading[a], leading[b]),
            "density": clipped_density(apart[within], apart[across]),
            "coverage": clipped_coverage(apart[within], apart[across]),
        }

    better = ("density", "coverage")
    found = compare_sets(measure, len(real), len(synthetic), seed=seed, higher_is_better=better, owners=owners)
    if not found:
        return {}
    # clipping and calibrating hold for expectations, so they come after the average over halves
    found["density"] = _mapped(found["density"], lambda values, _: np.minimum(values, 1))
    found["coverage"] = _mapped(found["coverage"], calibrated_coverage)
    return found


def frechet_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Fréchet distance of two Gaussians fitted to the sets (FID, Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    The trace of the square root of the covariances' product is the nuclear norm of the product of the centred sets: equal
    to MONAI's, which takes the root itself and fails where covariances are nearly singular.

    Args:
        real: `(N, F)`.
        synthetic: `(M, F)`.

    Returns:
        The squared distance.
    """
    a, b = ((s - s.mean(0)) / np.sqrt(len(s) - 1) for s in (real, synthetic))
    apart = np.square(real.mean(0) - synthetic.mean(0)).sum()
    return float(apart + np.square(a).sum() + np.square(b).sum() - 2 * np.linalg.norm(a @ b.T, "nuc"))


def kernel_distance(real: np.ndarray, synthetic: np.ndarray, across: np.ndarray) -> float:
    """Kernel Inception Distance (Binkowski et al. 2018, arXiv 1801.01401, eq. 4), which the size of a set does not bias.

    Args:
        real: Kernel `(x y / F + 1)^3` of pairs of real volumes `(N, N)`.
        synthetic: Of pairs of synthetic volumes `(M, M)`.
        across: Of a real and a synthetic volume `(N, M)`.

    Returns:
        The squared maximum mean discrepancy: 0 on average between sets of one distribution, sometimes below.
    """

    def within(kernel: np.ndarray) -> float:
        return (kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1))

    return float(within(real) + within(synthetic) - 2 * across.mean())


def clipped_density(real: np.ndarray, across: np.ndarray) -> float:
    """Share of synthetic volumes that lie where real ones do (Clipped Density, Salvy et al. 2025, arXiv 2507.01761).

    A real volume's ball reaches to its k-th nearest real volume, but no further than the median of these radii, so that
    outliers get no large balls. A synthetic volume counts for the number of balls it lies in over k, at most for 1, so
    that many in one spot do not make up for bad ones. The same figure of the real volumes themselves, each without its
    own ball, is the unit.

    Args:
        real: Distances between real volumes `(N, N)`.
        across: From real to synthetic volumes `(N, M)`.

    Returns:
        1 on average where both sets have one distribution, 0 where no synthetic volume is near a real one.
    """
    radii = _radii(real)
    reach = np.minimum(radii, np.median(radii))[:, None]
    own = real <= reach
    np.fill_diagonal(own, False)
    counts = (np.minimum(inside.sum(0) / _neighbours(real), 1).mean() for inside in (across <= reach, own))
    return float(next(counts) / next(counts))


def clipped_coverage(real: np.ndarray, across: np.ndarray) -> float:
    """Count the real volumes with synthetic ones around (Clipped Coverage, arXiv 2507.01761), not yet calibrated.

    Args:
        real: Distances between real volumes `(N, N)`.
        across: From real to synthetic volumes `(N, M)`.

    Returns:
        The number of synthetic volumes in a real volume's ball over k, at most 1, averaged over real volumes.
    """
    counts = (across <= _radii(real)[:, None]).sum(1)
    return float(np.minimum(counts / _neighbours(real), 1).mean())


def calibrated_coverage(coverage: np.ndarray, count: int) -> np.ndarray:
    """Turn clipped coverage into the share of good volumes that would give it, the others lying far off.

    A ball that reaches to the k-th of the other N - 1 real volumes holds a share of the distribution that follows
    Beta(k, N - k), whatever the distribution; so of m good synthetic volumes the number in it is beta-binomial.

    Args:
        coverage: Averages of `clipped_coverage`.
        count: Number N of real volumes, and of synthetic ones.

    Returns:
        Shares from 0 to 1.
    """
    k = min(NEIGHBOURS, count - 1)
    good = np.arange(count + 1)
    missing = sum((k - inside) / k * betabinom.pmf(inside, good, k, count - k) for inside in range(k))
    return np.interp(coverage, 1 - missing, good / count)


def _scaled_by_others(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Standardise features by mean and deviation of the real volumes, of all but itself where the volume is a real one.

    A volume that had its part in mean and deviation lies nearer to them than an equal one that had none: with 109 volumes
    and 64 features, density of a synthetic set that equals the real one came out at 0.95 where the floor was 1.01.
    """
    real, synthetic = real.astype(float), synthetic.astype(float)
    n, mean, square = len(real), real.mean(0), real.var(0)
    away = real - mean
    # mean and variance without a volume, from those with it
    spread = np.sqrt(np.maximum((n * square - n / (n - 1) * away**2) / (n - 1), 0))
    parts = ((away * n / (n - 1), spread), (synthetic - mean, np.sqrt(square)))
    features = [offset / np.where(deviation > 1e-8, deviation, 1) for offset, deviation in parts]
    return np.clip(np.concatenate(features), -FARTHEST, FARTHEST)


def _neighbours(real: np.ndarray) -> int:
    return min(NEIGHBOURS, len(real) - 1)


def _radii(real: np.ndarray) -> np.ndarray:
    k = _neighbours(real)
    return np.partition(real, k, axis=1)[:, k]  # the smallest of each row is the volume itself


def _leading(products: np.ndarray, count: int) -> np.ndarray:
    """Coordinates `(volumes, count)` along the leading principal directions, from the products of all pairs."""
    centred = products - products.mean(0)
    centred -= centred.mean(1, keepdims=True)
    size = len(products)
    variances, directions = eigh(centred, subset_by_index=(size - count, size - 1))
    return directions * np.sqrt(np.maximum(variances, 0))


def _mapped(compared: Compared, onto: Callable[[np.ndarray, int], np.ndarray]) -> Compared:
    """Send value and interval through a rising function."""

    def mapped(figure: Figure) -> Figure:
        value, low, high = map(float, onto(np.array([figure.value, figure.low, figure.high]), figure.n))
        return Figure(value, low, high, figure.n)

    return Compared(mapped(compared.figure), mapped(compared.floor), compared.higher_is_better)
