"""Would you tell them? Samples and scans in random order, one axial slice each, and the key beside the picture.

    python -m benchmarks.look_twice REAL SYNTHETIC --out docs/look_twice.png

REAL and SYNTHETIC are folders of NIfTI images; of each the last ones are taken, in the order of their names. Every slice is
the middle one, in one window of intensities for all. The key, which of them are samples, goes to a text file beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from diffaug.files import atomic_path
from diffaug.scans.pictures import brightness, mid_slices, read_upright, tiles

COLUMNS = 8


def axial(file: Path) -> np.ndarray:
    """Read the middle axial slice.

    Args:
        file: An image.

    Returns:
        `(Y, X)`, with square pixels.
    """
    return mid_slices(*read_upright(file))[0]


def main() -> None:
    """Draw the picture and write the key."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path)
    parser.add_argument("synthetic", type=Path)
    parser.add_argument("--count", type=int, default=32, help="of each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    arguments = parser.parse_args()
    sets = [sorted(folder.glob("*.nii.gz"))[-arguments.count :] for folder in (arguments.real, arguments.synthetic)]
    for folder, files in zip((arguments.real, arguments.synthetic), sets, strict=True):
        if not files:
            sys.exit(f"{folder}: found no .nii.gz, expected images; fix the path")
    slices = [axial(file) for files in sets for file in files]
    synthetic = np.repeat([False, True], [len(files) for files in sets])
    order = np.random.default_rng(arguments.seed).permutation(len(slices))
    limits = brightness(slices[: len(sets[0])])
    tiles([slices[i] for i in order], arguments.out, columns=COLUMNS, limits=limits)
    lines = [
        "".join("S" if synthetic[i] else "." for i in order[row : row + COLUMNS])
        for row in range(0, len(order), COLUMNS)
    ]
    with atomic_path(arguments.out.with_suffix(".txt")) as temporary:
        temporary.write_text("S is a sample, . a scan, row by row\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
