"""Memory on many scans: the most that each verb, with the processes that it starts, holds at once.

    python -m benchmarks.memory --work FOLDER --scans 1000 --out benchmarks/results/memory.md

Phantoms of site A, a generator of the budget `cpu-small`, as many synthetic volumes as there are scans, their audit, and a
pretraining on them; trainings have a few steps, for what is held does not depend on their number. Two figures: memory of
the processes' own, which must be there, and resident memory, in which files that are mapped count as long as nobody else
needs the room; what several processes share is divided among them. Killed, it goes on with the verb that it was at. Linux
only: it reads `/proc`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measuring import machine, write_report
from diffaug.files import write_json
from diffaug.generator.plan import FITS
from diffaug.workspace import Workspace, dataset_name

TASK = "980"
FEW = 20  # steps of each training
EVERY = 0.2  # seconds between two looks
CPU = ("--device", "cpu")
SHORT = f"""
import sys
from diffaug.audit import apartness, fit_feature_space
from diffaug.cli import main
apartness.CLASSIFIER_STEPS = fit_feature_space.FEATURE_STEPS["cpu"] = {FEW}
sys.exit(main(sys.argv[1:]))
"""


def held(pid: int) -> tuple[int, int]:
    """Add up what a process and its children hold.

    Args:
        pid: Of the process.

    Returns:
        Bytes of their own, and resident bytes.
    """
    own = resident = 0
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        fields = dict(line.split(":", 1) for line in lines)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, PermissionError, ProcessLookupError):  # it has just ended
        return 0, 0
    if fields:
        own, resident = (int(fields[name].split()[0]) * 1024 for name in ("Pss_Anon", "Pss"))
    for child in children:
        more = held(int(child))
        own, resident = own + more[0], resident + more[1]
    return own, resident


def watched(*verb: str) -> tuple[float, float, float]:
    """Run a verb.

    Args:
        *verb: Its command line.

    Returns:
        Seconds, and the most that it held: GiB of its own, and resident.
    """
    began, most = time.monotonic(), (0, 0)
    process = subprocess.Popen([sys.executable, "-c", SHORT, *verb], env=os.environ)
    while process.poll() is None:
        now = held(process.pid)
        most = max(most[0], now[0]), max(most[1], now[1])
        time.sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"diffaug {' '.join(verb)}: ended with {process.returncode}")
    return time.monotonic() - began, most[0] / 2**30, most[1] / 2**30


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    parser.add_argument("--scans", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--shape", type=int, nargs=3, default=(32, 48, 64), help="voxels of each (%(default)s)")
    parser.add_argument("--out", type=Path, help="the report")
    arguments = parser.parse_args()
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (arguments.work / name).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str((arguments.work / name).resolve())
    count, task = str(arguments.scans), ("--task", TASK)
    shape = [str(n) for n in arguments.shape]
    raw = str(arguments.work / "nnUNet_raw")
    watched("phantom", "--out", raw, *task, "--cases", count, "--labelled", "8", "--shape", *shape)
    fit = ("fit", *task, "--budget", "cpu-small", "--exclude", "none", *CPU)
    watched(*fit, "--plan-only")
    plan = Workspace(dataset_name(TASK)).generator / "plan.json"
    content = json.loads(plan.read_text())
    for name in FITS:
        content[name] |= {"steps": FEW, "warmup_steps": 2}
    write_json(plan, content)
    watched("plan", *task, "--budget", "cpu-small", "--exclude", "none")
    configured = (*task, "--configuration", "3d_cpu_small")
    verbs = {
        "fit": fit,
        "sample": ("sample", *task, "-n", count, "--steps", "2", "--keep-copies", *CPU),
        "audit": ("audit", *task, *CPU),
        "pretrain": (
            *("pretrain", *configured, "--images", str(Workspace(dataset_name(TASK)).synthetic)),
            *("--budget", "cpu-small", "--pretext-steps", str(FEW), "--exclude", "none", *CPU),
        ),
    }
    kept = arguments.work / "rows.json"  # a verb that was measured is done, and would hold nothing if it were run again
    rows = json.loads(kept.read_text()) if kept.is_file() else []
    for name, verb in list(verbs.items())[len(rows) :]:
        seconds, own, resident = watched(*verb)
        rows.append({"verb": name, "own memory, GiB": own, "resident, GiB": resident, "minutes": seconds / 60})
        print(rows[-1], flush=True)
        write_json(kept, rows)
    command = f"python -m benchmarks.memory --work FOLDER --scans {count} --shape {' '.join(shape)}"
    sizes = f"{count} scans, and as many synthetic volumes, of {' x '.join(shape)} voxels; trainings of {FEW} steps."
    if arguments.out:
        write_report(
            arguments.out, "Memory", {"command": f"`{command}`", **machine()}, {"Held": {"text": sizes, "rows": rows}}
        )


if __name__ == "__main__":
    main()
