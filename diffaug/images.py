"""Images are written whole or not at all."""

from __future__ import annotations

import errno
import gzip
import os
import zlib
from pathlib import Path

import SimpleITK as sitk

from diffaug.files import atomic_path

READ_AT_ONCE = 1 << 22  # bytes read at a time


def write_image(image: sitk.Image, file: Path) -> None:
    """Write an image as `.nii.gz`, atomically. ITK says nothing of a disk that fills up, so what it wrote is read again.

    Args:
        image: The image.
        file: Where to.

    Raises:
        DiffaugError: If the disk is full.
    """
    with atomic_path(file) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
        try:
            with gzip.open(temporary) as content:
                while content.read(READ_AT_ONCE):
                    pass
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary)) from error
