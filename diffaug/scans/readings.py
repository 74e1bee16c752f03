"""What planning needs to know of a scan: its size, its intensities, and what lies round its contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffaug.nnunet.readers import nonzero_box, nonzero_mask
from diffaug.scans.background import background
from diffaug.scans.scan import Scan

CT_WINDOW = (-1000.0, 1000.0)  # HU: air to dense bone; metal is cut off
MR_PERCENTILES = (0.1, 99.9)  # a scan's robust range: MR units mean nothing across scans
EMPTY = 0.1  # of a scan: from there on its zeros may be a background, and not here and there
AIR = 0.05  # of what is dark round a scan's contents: where more is not zero it is air, or noise


@dataclass(frozen=True)
class Reading:
    """What planning needs to know of one scan, read off once.

    Attributes:
        case: The case's id.
        size: Voxels (Z, Y, X) in the file's own order.
        spacing: In mm, (Z, Y, X).
        orientation: Where x, y and z run to, for example `LPS`.
        ranges: Per channel the intensities, in the file's units, that -1 and 1 stand for.
        mean: Per channel, in the file's units.
        std: Per channel, in the file's units.
        robust: Per channel the robust lowest and highest intensity, in the file's units.
        above: Per channel the share of voxels above `CT_WINDOW`, which tells whether they are in HU.
        empty: Share of voxels that are nothing, all round what the scan shows, as in scans without skull.
        inside_mean: Per channel, of the other voxels, in the file's units.
        inside_std: Per channel, of the other voxels, in the file's units.
    """

    case: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    ranges: tuple[tuple[float, float], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    robust: tuple[tuple[float, float], ...] = ()
    above: tuple[float, ...] = ()
    empty: float = 0.0
    inside_mean: tuple[float, ...] = ()
    inside_std: tuple[float, ...] = ()


def is_ct(channel: str) -> bool:
    """Tell whether a channel is read as Hounsfield units, as nnU-Net's own normalisation lookup does."""
    return channel.casefold() == "ct"


def read_off(
    case: str, scan: Scan, channels: Sequence[str], windows: Mapping[int, tuple[float, float]] | None = None
) -> Reading:
    """Measure one scan.

    Args:
        case: The case's id.
        scan: The scan.
        channels: nnU-Net's channel names; `CT` has a fixed window in HU, all others a robust range per scan.
        windows: By number of the channel another fixed window, for `CT` that is not in HU.

    Returns:
        The reading.
    """
    robust = [_robust(voxels) for voxels in scan.voxels]
    windows = {number: CT_WINDOW for number, name in enumerate(channels) if is_ct(name)} | dict(windows or {})
    mask = nonzero_mask(scan.voxels)
    z, y, x = nonzero_box(mask)
    inside = scan.voxels[:, z, y, x]  # nnU-Net normalises what this leaves
    moments = inside.reshape(len(channels), -1).astype(np.float64)
    mean, std = (tuple(map(float, values)) for values in (moments.mean(1), moments.std(1)))
    del moments  # as large as two scans
    ranges = tuple(windows.get(number, own) for number, own in enumerate(robust))
    empty, inner = _emptiness(scan.voxels, mask, ranges)
    return Reading(
        case,
        scan.size,
        scan.geometry.spacing,
        scan.geometry.orientation,
        ranges,
        mean,
        std,
        tuple(robust),
        tuple(float((voxels > CT_WINDOW[1]).mean()) for voxels in scan.voxels),
        empty,
        *(inner or (mean, std)),
    )


def _emptiness(
    voxels: np.ndarray, mask: np.ndarray, ranges: Sequence[tuple[float, float]]
) -> tuple[float, tuple[tuple[float, ...], tuple[float, ...]] | None]:
    """Tell how much of a scan is nothing, and mean and deviation of the rest; no scan with air round it has any."""
    if 1 - mask.mean() < EMPTY or not mask.any():
        return 0.0, None
    outside = background(np.stack([to_unit(v, r) for v, r in zip(voxels, ranges, strict=True)]))
    if not outside.any() or mask[outside].mean() > AIR:
        return 0.0, None
    inner = [channel[mask] for channel in voxels]
    mean, std = (tuple(float(f(v, dtype=np.float64)) for v in inner) for f in (np.mean, np.std))
    return float(outside.mean()), (mean, std)


def to_unit(voxels: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Bring intensities to [-1, 1].

    Args:
        voxels: In the file's units.
        limits: What -1 and 1 stand for.

    Returns:
        As many; what lies outside is cut off.
    """
    low, high = limits
    return np.clip((voxels - low) / (high - low), 0, 1) * 2 - 1


def _robust(voxels: np.ndarray) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(voxels, MR_PERCENTILES))
    if high > low:
        return low, high
    # an almost empty image (a thin bright structure) has no robust range: take all of it
    low, high = float(voxels.min()), float(voxels.max())
    return low, high if high > low else low + 1  # a sequence that this patient did not get: all of it is -1
