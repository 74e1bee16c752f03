"""How alike two volumes are: PSNR, SSIM, MS-SSIM.

MONAI has both, and gives the same figures (tests/scans/test_similarity.py). But its Gaussian window is a dense 3D
kernel, which on a CPU takes hundreds of times the volume in memory; here it is three passes along one axis each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RANGE = 2.0  # canonical volumes span [-1, 1]
WINDOW = 7  # voxels of the SSIM window, or the shortest axis where that is less
SIGMA = 1.5  # voxels of the window's Gaussian; with K1 and K2 as in Wang et al. 2004
K1, K2 = 0.01, 0.03
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales (Wang et al. 2003), renormalised where fewer fit


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB.

    Args:
        a: `(B, C, Z, Y, X)` in [-1, 1].
        b: The same shape.

    Returns:
        `(B,)`.
    """
    return 10 * torch.log10(RANGE**2 / (a - b).square().flatten(1).mean(1).clamp_min(1e-10))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity with a Gaussian window of 7 voxels.

    Args:
        a: `(B, C, Z, Y, X)` in [-1, 1].
        b: The same shape.

    Returns:
        `(B,)`.
    """
    return _ssim_and_contrast(a, b, _odd(WINDOW, a.shape[2:]))[0]


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity, with as many of the five scales as the volume has room for.

    Args:
        a: `(B, C, Z, Y, X)` in [-1, 1].
        b: The same shape.

    Returns:
        `(B,)`.
    """
    scales, window = ms_ssim_settings(a.shape[2:])
    weights = [w / sum(WEIGHTS[:scales]) for w in WEIGHTS[:scales]]
    product = torch.ones(len(a), device=a.device)
    for scale, weight in enumerate(weights):
        similarity, contrast = _ssim_and_contrast(a, b, window)
        product = product * (similarity if scale == scales - 1 else contrast).relu() ** weight
        a, b = F.avg_pool3d(a, 2), F.avg_pool3d(b, 2)
    return product


def ms_ssim_settings(size: Sequence[int]) -> tuple[int, int]:
    """Tell what MS-SSIM uses for volumes of a size, for figures are comparable between equal settings only.

    Args:
        size: Voxels (Z, Y, X).

    Returns:
        Number of scales and window in voxels.
    """
    window = _odd(5 if min(size) < 64 else 7, size)
    scales = 1
    # the second condition is MONAI's own, which asks for more room than halving does
    while scales < len(WEIGHTS) and min(size) // 2**scales >= window and min(size) // scales**2 >= window:
        scales += 1
    return scales, window


def _odd(most: int, size: Sequence[int]) -> int:
    """Choose the largest odd window that lies inside a volume."""
    window = min(most, *size)
    return window - 1 + window % 2


def _ssim_and_contrast(a: Tensor, b: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Give SSIM and its contrast-structure part, `(B,)` each (Wang et al. 2004, equations 12 and 13)."""
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    mean_a, mean_b = _blurred(a, window), _blurred(b, window)
    variances = _blurred(a * a, window) - mean_a**2 + _blurred(b * b, window) - mean_b**2
    covariance = _blurred(a * b, window) - mean_a * mean_b
    contrast = (2 * covariance + c2) / (variances + c2)
    similarity = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * contrast
    return similarity.flatten(1).mean(1), contrast.flatten(1).mean(1)


def _blurred(volume: Tensor, window: int) -> Tensor:
    """Average under the Gaussian window where it lies wholly inside the volume."""
    places = torch.arange(window, device=volume.device) - (window - 1) / 2
    weights = (-((places / SIGMA) ** 2) / 2).exp()
    weights = weights / weights.sum()
    for axis in (2, 3, 4):
        length = volume.shape[axis] - window + 1
        volume = sum(w * volume.narrow(axis, i, length) for i, w in enumerate(weights.tolist()))  # type: ignore[assignment]
    return volume
