"""A second classifier, unlike the first: a linear discriminant of texture statistics.

A network that learns from a hundred volumes looks at what is easy to see, and can overlook that edges are soft where grain
makes up for the power they lack (docs/notebook/telling_apart.md). A person sees it at once, and so do a few dozen numbers:
how strong and how heavy-tailed the responses of small filters are, as statistical models of texture count them (Portilla
and Simoncelli 2000, "A parametric texture model based on joint statistics of complex wavelet coefficients").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter, laplace, median_filter, sobel
from scipy.stats import kurtosis
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffaug.audit.folds import PATIENT_FOLDS, deal_folds

TEXTURE_C2ST = "C2ST of textures"  # name of the figure
TEXTURE_SCALES = (0.0, 0.5, 1.0)  # voxels that a volume is smoothed by before it is looked at
EDGES = (50, 75, 90, 97, 99.5)  # percentiles of the steepness
LOOKED_AT = 96  # voxels along each axis, of the middle: hundreds of large volumes take a while
LEAST_CONTRAST = 1e-4  # of a volume in [-1, 1]
LEAST_SPREAD = 1e-4  # of a statistic, where all scans have nearly the same
MOST_EXCESS = 10.0  # standard deviations: a statistic that is the same in all scans has next to none
_FILTERED = (*(f"smoothed by {scale:g} voxels" if scale else "as it is" for scale in TEXTURE_SCALES), "after a median")
STATISTICS = (  # of a channel, in the order in which they are measured
    "strength of the grain, which a median takes away",
    "tails of the grain",
    *(
        f"{what}, {how}"
        for how in _FILTERED
        for what in (
            "strength of the Laplacian",
            "tails of the Laplacian",
            *(f"steepness of the steepest {100 - percentile:g} %" for percentile in EDGES),
        )
    ),
)


def tell_textures_apart(sets: Sequence[np.ndarray], patients: Sequence[Sequence[str]], seed: int) -> list[np.ndarray]:
    """Judge every volume by a discriminant that has seen no volume of its patient.

    Args:
        sets: The statistics of both sets' volumes, `(n, F)` each, see `texture_statistics`.
        patients: Whose each of them is: volumes of one patient are in one fold.
        seed: Of the folds.

    Returns:
        Of each set, fold and score of every volume, `(n, 2)`: the higher, the more it looks like one of the second set.
    """
    folds = np.concatenate(deal_folds(patients, seed))
    described = np.concatenate(sets)
    second = np.arange(len(described)) >= len(sets[0])
    scores = np.zeros(len(described))
    for fold in range(PATIENT_FOLDS):
        known = folds != fold
        # shrunk towards independent statistics: there are about as many of them as volumes
        model = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
        scores[~known] = model.fit(described[known], second[known]).decision_function(described[~known])
    judged = np.stack([folds, scores], 1)
    return [judged[~second], judged[second]]


def texture_statistics(volumes: Sequence[np.ndarray]) -> np.ndarray:
    """Describe what volumes' textures are made of, whatever their brightness and contrast.

    Args:
        volumes: `(C, Z, Y, X)` in [-1, 1] each, in any precision.

    Returns:
        `(n, F)`: of every channel the strength and the tails of the Laplacian, and percentiles of the steepness, at each
        scale and after a median; strength and tails of what the median takes away.
    """
    return np.stack([_of_volume(volume) for volume in volumes])


def excess_of(known: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tell by how much one set's statistics are larger than another's.

    Args:
        known: Statistics of the set that is the measure, `(n, F)`.
        other: Of the other set.

    Returns:
        Differences of the means in standard deviations of `known`, ten at most, `(F,)`.
    """
    return ((other.mean(0) - known.mean(0)) / known.std(0).clip(LEAST_SPREAD)).clip(-MOST_EXCESS, MOST_EXCESS)


def _of_volume(volume: np.ndarray) -> np.ndarray:
    room = [max(n - LOOKED_AT, 0) // 2 for n in volume.shape[1:]]
    z, y, x = (slice(start, start + LOOKED_AT) for start in room)
    return np.concatenate([_of_channel(channel) for channel in volume[:, z, y, x].astype(np.float32)])


def _of_channel(channel: np.ndarray) -> np.ndarray:
    channel = channel / max(float(channel.std()), LEAST_CONTRAST)
    median = median_filter(channel, 3)
    found = _strength_and_tails(channel - median)
    for seen in (*(gaussian_filter(channel, scale) for scale in TEXTURE_SCALES), median):
        steepness = np.sqrt(sum(sobel(seen, axis) ** 2 for axis in range(3))) / 16
        found += [*_strength_and_tails(laplace(seen)), *np.percentile(steepness, EDGES)]
    return np.array(found, dtype=np.float64)


def _strength_and_tails(responses: np.ndarray) -> list[float]:
    flat = responses.ravel()
    tails = kurtosis(flat) if np.ptp(flat) > LEAST_CONTRAST else 0.0
    return [float(np.log(flat.std() + LEAST_CONTRAST)), float(np.log(tails + 3))]
