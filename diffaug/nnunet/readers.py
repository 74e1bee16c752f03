"""How nnU-Net reads images: its reader for a file type, and the part of an image that it normalises."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero


def reader_for(dataset_json: Mapping[str, Any]) -> Any:
    """Find nnU-Net's reader class for a dataset.

    Args:
        dataset_json: The content of `dataset.json`; `file_ending` alone will do.

    Returns:
        The class.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net announces its choice of reader on stdout
        return determine_reader_writer_from_dataset_json(dict(dataset_json), None, verbose=False)


def nonzero_part(voxels: np.ndarray) -> np.ndarray:
    """Crop an image as nnU-Net does before it normalises.

    Args:
        voxels: `(C, Z, Y, X)`.

    Returns:
        The box round everything that is not zero.
    """
    inside, _, _ = crop_to_nonzero(voxels)
    return inside
