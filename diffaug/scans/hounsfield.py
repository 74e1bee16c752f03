"""Is a channel that is called CT in Hounsfield units? If not, a fixed window of them would cut off most of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffaug.scans.readings import CT_WINDOW, Reading, is_ct

MOST_ABOVE = 0.05  # share of voxels above the window: metal and dense bone are less
NARROWEST = 50.0  # HU between the robust ends: fat and muscle alone are further apart


def in_their_units(
    readings: Sequence[Reading], channels: Sequence[str], fingerprint: Mapping[str, Any] | None = None
) -> tuple[list[Reading], list[str]]:
    """Give channels that are called CT and are not in HU another window.

    Args:
        readings: All scans.
        channels: nnU-Net's channel names.
        fingerprint: nnU-Net's fingerprint of the dataset, if there is one.

    Returns:
        The readings, and a sentence for each such channel.
    """
    windows, told = windows_of(readings, channels, fingerprint)

    def ranges(reading: Reading) -> tuple[tuple[float, float], ...]:
        return tuple(windows.get(number, own) for number, own in enumerate(reading.ranges))

    return [replace(reading, ranges=ranges(reading)) for reading in readings], told


def windows_of(
    readings: Sequence[Reading], channels: Sequence[str], fingerprint: Mapping[str, Any] | None = None
) -> tuple[dict[int, tuple[float, float]], list[str]]:
    """Find the channels whose units are no Hounsfield units, and a window for each.

    Args:
        readings: All scans.
        channels: nnU-Net's channel names.
        fingerprint: nnU-Net's fingerprint of the dataset, if there is one.

    Returns:
        By number of the channel its window: what nnU-Net clips CT to, or the middle one of the scans' robust ranges. And a
        sentence for each.
    """
    windows, told = {}, []
    for number, name in enumerate(channels):
        low, high = (float(v) for v in np.median([reading.robust[number] for reading in readings], axis=0))
        why = _why_not(float(np.mean([reading.above[number] for reading in readings])), low, high)
        if not is_ct(name) or not why:
            continue
        properties = ((fingerprint or {}).get("foreground_intensity_properties_per_channel") or {}).get(str(number), {})
        window = (properties.get("percentile_00_5"), properties.get("percentile_99_5"))
        planned = None not in window and window[1] > window[0]
        windows[number] = (float(window[0]), float(window[1])) if planned else (low, high)
        source = "as nnU-Net's fingerprint has it" if planned else "the scans' own robust range"
        told.append(
            f"channel {name} is not in HU ({why}); its window is {windows[number][0]:g} to {windows[number][1]:g}, {source}, "
            f"instead of {CT_WINDOW[0]:g} to {CT_WINDOW[1]:g}"
        )
    return windows, told


def _why_not(above: float, low: float, high: float) -> str:
    if above > MOST_ABOVE:
        return f"{above:.0%} of the voxels lie above {CT_WINDOW[1]:g}"
    if high - low < NARROWEST:
        return f"values from {low:g} to {high:g}"
    if high <= 0:
        return f"no value above {high:g}"
    return ""
