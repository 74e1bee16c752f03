"""How alike two volumes are: PSNR, SSIM, MS-SSIM, correlation."""

from __future__ import annotations

import torch
from monai.losses.ssim_loss import SSIMLoss
from monai.metrics import MultiScaleSSIMMetric
from torch import Tensor

RANGE = 2.0  # canonical volumes span [-1, 1]
WINDOW = 7  # voxels of the SSIM window, or the shortest axis where that is less
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
    window = min(WINDOW, *a.shape[2:])
    loss = SSIMLoss(spatial_dims=3, data_range=RANGE, win_size=window - 1 + window % 2, reduction="none")
    return 1 - loss(a, b).flatten(1).mean(1)


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity, with as many of the five scales as the volume has room for.

    Args:
        a: `(B, C, Z, Y, X)` in [-1, 1].
        b: The same shape.

    Returns:
        `(B,)`.
    """
    scales, window = ms_ssim_settings(a.shape[2:])
    weights = WEIGHTS[:scales]
    metric = MultiScaleSSIMMetric(
        spatial_dims=3, data_range=RANGE, kernel_size=window, weights=[w / sum(weights) for w in weights]
    )
    values = metric(a, b)
    assert isinstance(values, Tensor)
    return values.flatten(1).mean(1)


def ms_ssim_settings(size: torch.Size | tuple[int, ...]) -> tuple[int, int]:
    """Tell what MS-SSIM uses for volumes of a size, for figures are comparable between equal settings only.

    Args:
        size: Voxels (Z, Y, X).

    Returns:
        Number of scales and window in voxels.
    """
    window = 5 if min(size) < 64 else 7
    scales = 1
    # the second condition is MONAI's own, which asks for more room than halving does
    while scales < len(WEIGHTS) and min(size) // 2**scales >= window and min(size) // scales**2 >= window:
        scales += 1
    return scales, window
