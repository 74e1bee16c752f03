"""What lies round a scan's contents: in scans without skull nothing at all, which nnU-Net crops and normalises by."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, label, uniform_filter

DARK = -0.9  # a twentieth of the intensity range
FEWEST_LIT = 27  # voxels that hang together, which are no noise


def background(voxels: np.ndarray) -> np.ndarray:
    """Find what is dark all round what a volume shows; dark tissue in holes is not.

    Args:
        voxels: `(C, Z, Y, X)` in [-1, 1].

    Returns:
        `(Z, Y, X)`.
    """
    lit, _ = label((voxels >= DARK).any(0), np.ones((3, 3, 3)))
    sizes = np.bincount(lit.ravel())
    sizes[0] = 0
    # single voxels of noise are no contents; what hangs together is, be it as thin as a vessel
    dark = sizes[lit] < FEWEST_LIT
    even = dark & (uniform_filter(voxels.astype(np.float32), (0, 3, 3, 3), mode="nearest") < DARK).all(0)
    regions, _ = label(np.pad(even, 1, constant_values=True))  # what touches the border is one region
    outside = (regions == regions[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return binary_dilation(outside, iterations=2, mask=dark) | outside  # type: ignore[no-any-return]
