"""How nnU-Net reads images: its reader for a dataset, and the part of an image that it normalises."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.reader_writer_registry import (
    LIST_OF_IO_CLASSES,
    determine_reader_writer_from_dataset_json,
    recursive_find_reader_writer_by_name,
)
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask
from scipy.ndimage import find_objects

from diffaug.errors import DiffaugError
from diffaug.files import read_json


def reader_for(dataset_json: Mapping[str, Any], example: Path | None = None, plans: Path | None = None) -> Any:
    """Find nnU-Net's reader class for a dataset: the one that its plans name, or that it would choose when it plans.

    Args:
        dataset_json: The content of `dataset.json`; `file_ending` alone will do.
        example: The first image, which nnU-Net tries to read where several readers would do.
        plans: nnU-Net's plans, if there are any yet.

    Returns:
        The class.

    Raises:
        DiffaugError: If nnU-Net reads no files of that ending.
    """
    if plans is not None and plans.is_file():
        name = read_json(plans, "restore it").get("image_reader_writer")
        if name:
            return recursive_find_reader_writer_by_name(name)
    told = {key: dataset_json[key] for key in ("file_ending", "overwrite_image_reader_writer") if key in dataset_json}
    try:
        first = _chosen(told, None)
    except RuntimeError as error:
        known = ", ".join(
            dict.fromkeys(ending for kind in LIST_OF_IO_CLASSES for ending in kind.supported_file_endings)
        )
        raise DiffaugError(
            f"dataset.json: found file_ending {told['file_ending']!r}, expected one that nnU-Net reads ({known}); fix it"
        ) from error
    if example is None or not example.is_file() or _reads(first, example, example.stat().st_mtime_ns):
        return first
    try:
        return _chosen(told, example)
    except RuntimeError:
        return first  # nobody reads it; reading it will tell why


def _chosen(told: Mapping[str, Any], example: Path | None) -> Any:
    # nnU-Net announces its choice of reader on stdout, and what it tried before on stderr
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return determine_reader_writer_from_dataset_json(dict(told), str(example) if example else None, verbose=False)


@lru_cache(maxsize=64)  # datasets are opened again and again
def _reads(reader: Any, file: Path, changed: int) -> bool:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            reader().read_images((str(file),))
    except Exception:  # each reader library has its own exceptions
        return False
    return True


def other_readers(reader: Any, file: Path) -> Iterator[str]:
    """Name nnU-Net's other readers that can read a file.

    Args:
        reader: The one that cannot.
        file: The file.

    Yields:
        Their class names.
    """
    for kind in LIST_OF_IO_CLASSES:
        fits = any(file.name.lower().endswith(ending) for ending in kind.supported_file_endings)
        if kind is not reader and fits and _reads(kind, file, file.stat().st_mtime_ns):
            yield kind.__name__


def nonzero_mask(voxels: np.ndarray) -> np.ndarray:
    """Find what nnU-Net takes for the inside of an image.

    Args:
        voxels: `(C, Z, Y, X)`.

    Returns:
        `(Z, Y, X)`, true where any channel is not zero, and in holes.
    """
    return create_nonzero_mask(voxels)  # type: ignore[no-any-return]


def nonzero_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Find what nnU-Net crops an image to before it normalises.

    Args:
        mask: What `nonzero_mask` gives.

    Returns:
        The box round everything that is not zero; all of an image that is zero everywhere.
    """
    boxes = find_objects(mask.astype(np.uint8))
    return boxes[0] if boxes else (slice(None),) * mask.ndim
