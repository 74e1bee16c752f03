"""Every figure that needs a GPU, from one command.

    python -m benchmarks.gpu --minutes 9 --out FOLDER

writes FOLDER/gpu.md for people, FOLDER/gpu.json for us, pictures and an audit. Each part is a process of its own; one
that fails, hangs or runs out of memory is recorded as such. Nothing is written elsewhere. With `--smoke` the same parts
run at tiny sizes, on a CPU too. docs/gpu.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.jobs import run_jobs
from benchmarks.gpu.record import LINES
from benchmarks.gpu.report import write_report
from benchmarks.gpu.schedule import jobs_of
from benchmarks.gpu.sizes import HEARTS

FOLDERS = ("raw", "preprocessed", "results")
PACKING = 60.0  # seconds kept for the report, or a sixth of all


def main() -> int:
    """Run all parts and write the report.

    Returns:
        0, or 2 where nothing can be begun.
    """
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="all of the time there is (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, for a CPU")
    options = parser.parse_args()
    out = options.out.resolve()
    if (out / LINES).exists() or options.minutes <= 0:
        print(f"{out}: holds results or --minutes is {options.minutes:g}, expected a new folder and a positive number")
        return 2
    out.mkdir(parents=True, exist_ok=True)
    seconds = 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="diffaug_gpu_") as folder:
        work = Path(folder)
        source = os.environ.get(f"nnUNet_{FOLDERS[0]}")
        for name in FOLDERS:
            (work / name).mkdir()
            os.environ[f"nnUNet_{name}"] = str(work / name)  # of all parts; the user's own stay untouched
        os.environ.pop("nnUNet_extTrainer", None)
        if not options.smoke:
            _link_hearts(Path(source) if source else None, work / "raw")
        logs = work / "logs"
        left = seconds - min(PACKING, seconds / 6) - (time.monotonic() - started)
        run_jobs(
            jobs_of(out, work, left, smoke=options.smoke),
            seconds=left,
            cores=os.cpu_count() or 1,
            out=out,
            logs=logs,
        )
        private = [
            work,
            out,
            Path.home(),
            Path(sys.prefix),
            Path(__file__).parents[2],
            *([Path(source)] if source else []),
        ]
        told = {str(place) for path in private for place in (path, path.resolve())}
        write_report(out, logs, sorted(told), options.minutes, smoke=options.smoke)
    print((out / "gpu.md").read_text())
    return 0


def _link_hearts(source: Path | None, raw: Path) -> None:
    """Let the parts' own `nnUNet_raw` show the hearts, if the user's has them: nothing is written beside them."""
    found = [source / name for name in HEARTS] if source is not None else []
    if found and all(folder.is_dir() for folder in found):
        for folder in found:
            (raw / folder.name).symlink_to(folder.resolve())


if __name__ == "__main__":
    sys.exit(main())
