"""How many planted copies the copy test finds, and how many real scans it takes for copies, on several data sets.

    python -m benchmarks.copy_detectors --task 4 --task 950 --task 900 --out benchmarks/results/copy_detectors.md

Each task needs what `diffaug fit --plan-only` writes. Copies of 12 training scans are planted, of every kind; scans that are
no copies are all others, each held against other patients's.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.measuring import machine
from diffaug.copies.calibrating import make_detector
from diffaug.generator.plan import GeneratorPlan
from diffaug.stages.fit import open_cache
from diffaug.workspace import Workspace, dataset_name


def row(task: str) -> dict[str, object]:
    """Measure one data set.

    Args:
        task: Its id.

    Returns:
        A row of the table.
    """
    workspace = Workspace(dataset_name(task))
    plan = GeneratorPlan.load(workspace.generator / "plan.json")
    scans = open_cache(workspace, plan)
    started = time.perf_counter()
    detector = make_detector(
        scans.__getitem__,
        plan.cases,
        plan.held_out,
        shape=plan.grid.shape,
        mirror=plan.grid.mirror,
        field_of_view=plan.grid.field_of_view,
        device=torch.device("cpu"),
    )
    told = detector.calibration
    share, low, high, count = told.false_alarms
    found, planted = (sum(column) for column in zip(*told.planted.values(), strict=True))
    return {
        "data": workspace.dataset,
        "scans": len(plan.cases) + len(plan.held_out),
        "window": f"{plan.grid.field_of_view}, {' x '.join(map(str, plan.grid.shape))}",
        "copies found": f"{found} of {planted}",
        **{kind: f"{hits} of {all_}" for kind, (hits, all_) in told.planted.items()},
        "false alarms": f"{share:.1%} ({low:.1%} to {high:.1%}) of {count}",
        "threshold": f"{told.threshold:.3f}",
        "taken for one patient": "; ".join(", ".join(group) for group in told.patients) or "none",
        "seconds": f"{time.perf_counter() - started:.0f}",
    }


def main() -> None:
    """Measure all data sets and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [row(task) for task in arguments.task]
    lines = ["| " + " | ".join(["", *(str(r["data"]) for r in rows)]) + " |", "|---" * (len(rows) + 1) + "|"]
    lines += ["| " + " | ".join([key, *(str(r[key]) for r in rows)]) + " |" for key in rows[0] if key != "data"]
    about = json.dumps(machine())
    arguments.out.write_text(f"# The copy test\n\n```\n{__doc__}```\n\n{about}\n\n" + "\n".join(lines) + "\n")
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
