"""One part in a process of its own: python -m benchmarks.gpu.part NAME [ARGUMENT ...] --out FOLDER --work FOLDER."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.gpu.context import Context
from benchmarks.gpu.sizes import FULL, SMOKE
from diffaug.errors import DiffaugError

# imported one by one, so that what one part cannot import costs no other
PARTS = {
    "where": "where.run",
    "data": "datasets.run",
    "volume": "volume.run",
    "training": "training.run",
    "precision": "precision.run",
    "repeat": "repeats.run",
    "repeats": "repeats.compare",
    "generator": "generator.run",
    "audit": "generator.judge",
    "pretrain": "evidence.pretrain",
    "train": "evidence.train",
}


def main() -> int:
    """Run the part.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    sizes = SMOKE if options.smoke else FULL
    try:
        module, _, function = PARTS[options.part].partition(".")
        run = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)
        run(Context(options.part, options.out, options.work, sizes, options.seconds), *options.arguments)
    except DiffaugError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
