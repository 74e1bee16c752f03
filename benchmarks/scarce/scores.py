"""How good a segmentation is: Dice, normalised surface Dice and the 95th percentile of the surface distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

FIGURES = ("dice", "nsd", "hd95")


def score(
    predicted: np.ndarray, truth: np.ndarray, labels: Mapping[str, int], spacing: Sequence[float], tolerance: float
) -> dict[str, dict[str, float]]:
    """Compare a segmentation with the truth, label by label, with MONAI's metrics.

    Args:
        predicted: `(Z, Y, X)`.
        truth: `(Z, Y, X)`.
        labels: Name and value of each label, background left out.
        spacing: Millimetres per voxel along Z, Y, X.
        tolerance: Millimetres by which surfaces may lie apart and still count as the same.

    Returns:
        By label: `dice`, `nsd`, and `hd95` in mm. Where a label is missing in one of the two, Dice and NSD are 0 and
        HD95 is the volume's diagonal; where it is missing in both, it is left out.
    """
    found = {}
    diagonal = float(np.linalg.norm(np.asarray(truth.shape) * np.asarray(spacing)))
    for name, value in labels.items():
        mine, theirs = (torch.from_numpy(volume == value)[None, None] for volume in (predicted, truth))
        if not theirs.any() and not mine.any():
            continue
        if not (theirs.any() and mine.any()):
            found[name] = {"dice": 0.0, "nsd": 0.0, "hd95": diagonal}
            continue
        options = {"include_background": True, "spacing": tuple(spacing)}
        found[name] = {
            "dice": float(compute_dice(mine, theirs)),
            "nsd": float(compute_surface_dice(mine, theirs, class_thresholds=[tolerance], **options)),
            "hd95": float(compute_hausdorff_distance(mine, theirs, percentile=95, **options)),
        }
    return found
