"""Where in a scan a volume fits best: normalised cross-correlation at every place at once, through the Fourier domain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

FINE, COARSE = 0.8, 3.0  # standard deviations in cells: noise is smoothed away, and what every body shares is taken off
FAINT = 1e-2  # standard deviation below which there is nothing to see; volumes span [-1, 1]


def band(cells: Tensor) -> Tensor:
    """Keep the details of middling size: a difference of two Gaussians.

    Args:
        cells: `(B, C, z, y, x)`.

    Returns:
        The same shape.
    """
    return _smoothed(cells, FINE) - _smoothed(cells, COARSE)


def _smoothed(cells: Tensor, sigma: float) -> Tensor:
    batch, channels, *size = cells.shape
    cells = cells.reshape(batch * channels, 1, *size)
    for axis in (2, 3, 4):
        reach = int(3 * sigma + 0.5)
        places = torch.arange(-reach, reach + 1, device=cells.device, dtype=cells.dtype)
        weights = (-(places**2) / (2 * sigma**2)).exp()
        around, kernel = [0] * 6, [1] * 5
        around[8 - 2 * axis] = around[9 - 2 * axis] = reach
        kernel[axis] = 2 * reach + 1
        cells = F.conv3d(F.pad(cells, around, mode="replicate"), (weights / weights.sum()).view(kernel))
    return cells.view(batch, channels, *size)


def align(queries: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Find the place in a frame that each query correlates with best.

    Args:
        queries: `(B, C, z, y, x)`, from `band`.
        frame: `(1, C, Z, Y, X)`, from `band`, nowhere smaller.

    Returns:
        The channels' mean Pearson correlation `(B,)` at the best place, and the cell `(B, 3)` where that begins.
    """
    core, size = queries.shape[2:], frame.shape[2:]
    count = core.numel()
    queries = queries - queries.mean((2, 3, 4), keepdim=True)
    spread = queries.square().mean((2, 3, 4), keepdim=True).sqrt().clamp_min(FAINT)
    mean = F.avg_pool3d(frame, core, 1)
    spread_frame = (F.avg_pool3d(frame * frame, core, 1) - mean**2).clamp_min(FAINT**2).sqrt()
    fast = [next_fast_len(n, real=True) for n in size]
    product = torch.fft.rfftn(frame, fast, (2, 3, 4)) * torch.fft.rfftn(queries, fast, (2, 3, 4)).conj()
    z, y, x = places = mean.shape[2:]
    covariance = torch.fft.irfftn(product, fast, (2, 3, 4))[:, :, :z, :y, :x] / count
    correlation = (covariance / spread_frame / spread).mean(1)
    best, index = correlation.flatten(1).max(1)
    return best, torch.stack(torch.unravel_index(index, places), 1)
