"""Scarce labels: what pretraining is worth to stock nnU-Net, with the controls that the paper left out.

    python -m benchmarks.scarce_labels run --data phantom --arms scratch real synthetic --labelled 10 20 --seeds 5
    python -m benchmarks.scarce_labels report --data phantom
    python -m benchmarks.scarce_labels pack

`run` prepares the data, pretrains each arm once and trains every cell (data set x arm x number of labels x seed) that
has no result yet; killed, it goes on when run again. Several processes may share a folder of cells, and folders of
several machines may be copied into one. `report` computes every figure of the page anew; `pack` moves finished cells into one
table, `<cells>.csv.gz`, which all verbs read. nnU-Net's three variables must be set; phantoms are made there, other data must
lie in `nnUNet_raw`. For any nnU-Net dataset: `--data 101 --lists FILE --labelled 4 8 16 --tolerance 1`, FILE a JSON with
the ids of `pool` and `test`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from benchmarks.measuring import PACKAGES, machine
from benchmarks.scarce.arms import ARMS, label_volumes, pretrain_arm
from benchmarks.scarce.cells import RESULTS, Cell, collect, pack, save, unfinished
from benchmarks.scarce.data import DATA_SETS, DataSet, custom, prepare
from benchmarks.scarce.report import write_report
from benchmarks.scarce.training import train_cell
from diffaug.errors import DiffaugError
from diffaug.training.devices import start_fabric


def run(arguments: argparse.Namespace) -> None:
    """Train what is missing.

    Args:
        arguments: The command line.
    """
    data = _data(arguments)
    if unknown := [name for name in arguments.arms if name not in ARMS]:
        raise DiffaugError(f"--arms {unknown[0]}: no such arm, expected some of {', '.join(ARMS)}; fix the option")
    prepare(data)
    for name in arguments.arms:
        pretrain_arm(data, ARMS[name], arguments.device)
    counts = arguments.labelled or data.counts
    # seed by seed, so that whatever time allows is balanced over arms and numbers of labels
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    cells = [Cell(data.name, arm, n, seed) for seed in seeds for n in counts for arm in arguments.arms]
    about = machine()
    device = start_fabric(arguments.device).device
    for cell in unfinished(cells, arguments.cells):
        started = time.monotonic()
        label_volumes(data, ARMS[cell.arm], data.fold(cell.labelled, cell.seed), arguments.device)
        result = train_cell(data, ARMS[cell.arm], cell.labelled, cell.seed, device)
        result["versions"] = {name: about[name] for name in PACKAGES}
        result["machine"] = {key: about[key] for key in ("processor", "cores", "threads", "date")}
        save(cell, result, arguments.cells)
        values = [label["dice"] for labels in result["scores"].values() for label in labels.values()]
        mean = sum(values) / len(values)
        print(f"{cell}: Dice {mean:.4f}, {time.monotonic() - started:.0f} s", flush=True)


def report(arguments: argparse.Namespace) -> None:
    """Write the report.

    Args:
        arguments: The command line.
    """
    data = _data(arguments)
    arms = arguments.arms if arguments.arms != ["scratch"] else list(ARMS)
    out = arguments.out or RESULTS.parent / f"scarce_labels_{data.name}"
    cells = collect(arguments.cells, data.name)
    cells = cells[cells["arm"].isin(arms)]
    if cells.empty:
        raise DiffaugError(f"{arguments.cells}: no finished cell of {data.name}, expected some; run them first")
    shown = [arm for arm in arms if arm in set(cells["arm"])]
    counts = " ".join(map(str, sorted(cells["labelled"].unique())))
    command = (
        f"python -m benchmarks.scarce_labels run --data {data.name} --arms {' '.join(shown)} --labelled {counts} "
        f"--seeds {cells['seed'].nunique()}"
    )
    write_report(arguments.cells, data.name, shown, out, [command])
    print(out.with_suffix(".md").read_text())


def _data(arguments: argparse.Namespace) -> DataSet:
    if arguments.data in DATA_SETS:
        return DATA_SETS[arguments.data]
    if not arguments.lists or not arguments.labelled:
        raise DiffaugError(
            f"--data {arguments.data}: expected one of {', '.join(DATA_SETS)}, or --lists and --labelled"
        )
    return custom(
        arguments.data, arguments.lists, arguments.labelled, arguments.tolerance, arguments.pool, arguments.budget
    )


def main() -> int:
    """Do what the command line asks for.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "report", "pack"))
    parser.add_argument(
        "--data",
        default="phantom",
        help="phantom, phantom-trials, hippocampus, hearts, or any task of nnU-Net (%(default)s)",
    )
    parser.add_argument("--arms", nargs="+", default=["scratch"], metavar="ARM")
    parser.add_argument(
        "--labelled", type=int, nargs="+", metavar="N", help="numbers of labelled cases (the data set's)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--cells", type=Path, default=RESULTS, help="folder of results (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--out", type=Path, help="the report, without ending")
    parser.add_argument("--lists", type=Path, help="of another task: JSON with the ids of pool and test")
    parser.add_argument("--pool", help="of another task: dataset of unlabelled scans (the task's own)")
    parser.add_argument("--tolerance", type=float, default=1.0, help="of another task: surface Dice, mm (%(default)s)")
    parser.add_argument("--budget", default="cpu-small", help="of another task (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        {"run": run, "report": report, "pack": lambda given: print(pack(given.cells))}[arguments.verb](arguments)
    except DiffaugError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
