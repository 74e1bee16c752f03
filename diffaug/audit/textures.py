"""Intensities, power spectrum and neighbouring slices: what pictures are made of, whatever they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from diffaug.audit.figures import Compared, compare_sets, spread_distances, standardised

QUANTILES = np.linspace(0.005, 0.995, 34)  # of the quantiles that stand for a volume's histogram
BINS = 48  # of a histogram that is drawn
BANDS = 16  # of frequency, from 0 to the finest axis' Nyquist frequency
FAINTEST = (
    1e-4  # standard deviation of the noise that half precision leaves in [-1, 1]: fainter power is not told apart
)


def describe(volume: np.ndarray, spacing: Sequence[float]) -> dict[str, np.ndarray]:
    """Measure one volume.

    Args:
        volume: `(C, Z, Y, X)` in [-1, 1], at least four voxels along each axis.
        spacing: In mm (Z, Y, X).

    Returns:
        `intensities`: quantiles in percent of the intensity range `(C, 34)`. `spectrum`: power density in dB by bands of
        physical frequency `(C, 16)`. `slices`: for each axis what neighbouring slices have in common `(C, 3, 4)`, see
        `_along`. `histogram`: percent of the voxels by bins of the intensity range `(C, 48)`.
    """
    volume = np.asarray(volume, dtype=np.float64)
    return {
        "intensities": 50 * (np.quantile(volume, QUANTILES, axis=(1, 2, 3)).T + 1),
        "spectrum": np.stack([_spectrum(channel, spacing) for channel in volume]),
        "slices": np.stack([[_along(np.moveaxis(channel, axis, 0)) for axis in range(3)] for channel in volume]),
        "histogram": np.stack([100 * np.histogram(c, BINS, (-1, 1))[0] / c.size for c in volume]),
    }


def ranges(described: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Tell where nine tenths of the volumes lie, for a picture.

    Args:
        described: Descriptions of volumes.

    Returns:
        `spectrum` and `histogram`: 5th, 50th and 95th percentile over volumes, `(3, C, ...)`.
    """
    return {
        key: np.percentile([one[key] for one in described], (5, 50, 95), axis=0) for key in ("spectrum", "histogram")
    }


def texture_distances(
    real: Sequence[dict[str, np.ndarray]],
    synthetic: Sequence[dict[str, np.ndarray]],
    seed: int,
    owners: Sequence[str] | None = None,
) -> dict[str, Compared]:
    """Compare how the measures of `describe` are distributed in two sets: Wasserstein-1 distances, measure by measure.

    Args:
        real: Descriptions of real volumes.
        synthetic: Descriptions of synthetic volumes, of the same channels and spacing.
        seed: Of everything drawn.
        owners: Whose each real volume is; None: no two are of one patient.

    Returns:
        `intensities` in percent of the intensity range, averaged over quantiles; `spectrum` in dB, averaged over bands;
        `slices` in standard deviations of the real set, of the axis that differs most, because a generator that stacks
        slices errs along one. All average over channels. Empty where a set has fewer than four volumes.
    """
    both = [*real, *synthetic]
    stacked = {key: np.stack([described[key] for described in both]) for key in SUMMARIES}
    stacked["slices"] = standardised(stacked["slices"], len(real))

    def measure(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
        return {key: float(SUMMARIES[key](spread_distances(features, a, b))) for key, features in stacked.items()}

    return compare_sets(measure, len(real), len(synthetic), seed=seed, owners=owners)


def _worst_axis(distances: np.ndarray) -> float:
    return distances.mean((0, 2)).max()


SUMMARIES: dict[str, Callable[[np.ndarray], float]] = {
    "intensities": np.mean,
    "spectrum": np.mean,
    "slices": _worst_axis,
}


def _spectrum(channel: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Average the power density over shells of frequency, `(BANDS,)` in dB of mm^3.

    A Hann window fades the volume out: the jump between opposite faces would else hide the high frequencies.
    """
    fade = np.ones(())
    for size in channel.shape:
        fade = fade[..., None] * np.hanning(size + 2)[1:-1]
    amplitude = np.fft.rfftn(fade * (channel - np.average(channel, weights=fade)))
    density = np.abs(amplitude) ** 2 * np.prod(spacing) / (fade**2).sum()
    along = [np.fft.fftfreq(n, d) for n, d in zip(channel.shape[:2], spacing[:2], strict=True)]
    along.append(np.fft.rfftfreq(channel.shape[2], spacing[2]))
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*along, indexing="ij", sparse=True)))
    width = 0.5 / min(spacing) / BANDS  # cycles per mm
    band = (frequency / width).astype(int)
    inside = (band < BANDS) & (frequency > 0)
    count = np.bincount(band[inside], minlength=BANDS)
    power = np.bincount(band[inside], density[inside], minlength=BANDS) / np.maximum(count, 1)
    level = 10 * np.log10(power + FAINTEST**2 * np.prod(spacing))
    filled = np.flatnonzero(count)  # few voxels have no frequency in some bands: their neighbours stand for them
    return np.interp(np.arange(BANDS), filled, level[filled])


def _along(slices: np.ndarray) -> np.ndarray:
    """Say what neighbouring slices have in common, along the first axis.

    Four numbers: the mean absolute difference of neighbours (logarithm), their mean correlation, how much the difference
    varies along the axis (standard deviation over mean), and how rough the curve of slice means is (root mean square of
    its second differences, logarithm).
    """
    differences = np.abs(np.diff(slices, axis=0)).mean((1, 2))
    flat = slices.reshape(len(slices), -1)
    centred = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    both = length[1:] * length[:-1]
    alike = (centred[1:] * centred[:-1]).sum(1)[both > 0] / both[both > 0]  # an empty slice correlates with nothing
    rough = np.sqrt((np.diff(flat.mean(1), 2) ** 2).mean())
    return np.array(
        [
            np.log(differences.mean() + FAINTEST),
            alike.mean() if len(alike) else 1.0,
            differences.std() / (differences.mean() + FAINTEST),
            np.log(rough + FAINTEST),
        ]
    )
