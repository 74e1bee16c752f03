"""Scans spoilt on purpose: what overlooks these clears no synthetic volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

SLIGHT_BLUR = 0.7  # voxels: a person hardly sees it


def blurred(volume: np.ndarray) -> np.ndarray:
    """Blur a scan so slightly that a person hardly sees it.

    Args:
        volume: `(C, Z, Y, X)`.

    Returns:
        The same shape, in half precision.
    """
    return gaussian_filter(volume.astype(np.float32), (0, SLIGHT_BLUR, SLIGHT_BLUR, SLIGHT_BLUR)).astype(np.float16)


def strangers(volumes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Give each volume another patient's.

    Args:
        volumes: Those of one patient follow each other, and no patient has half of them.

    Returns:
        The volumes in another order.
    """
    half = len(volumes) // 2
    return [*volumes[half:], *volumes[:half]]


def patched(volume: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put a block of another scan into one, half as long along each axis, with the seams that this leaves.

    Args:
        volume: `(C, Z, Y, X)`.
        other: The other scan, of the same shape.
        rng: Of the place.

    Returns:
        The same shape.
    """
    spoilt = volume.copy()
    size = [n // 2 for n in volume.shape[1:]]
    start = [int(rng.integers(n - s + 1)) for n, s in zip(volume.shape[1:], size, strict=True)]
    z, y, x = (slice(s, s + n) for s, n in zip(start, size, strict=True))
    spoilt[:, z, y, x] = other[:, z, y, x]
    return spoilt
