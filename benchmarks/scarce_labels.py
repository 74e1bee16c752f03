"""Scarce labels: what pretraining is worth to nnU-Net's networks, with the controls that the paper left out.

    python -m benchmarks.scarce_labels run --data phantom --networks PrimusS --arms scratch synthetic --labelled 10 20
    python -m benchmarks.scarce_labels report --data phantom hippocampus hearts
    python -m benchmarks.scarce_labels pack
    python -m benchmarks.scarce_labels --quick --out FOLDER

`run` prepares the data, pretrains each arm once and trains every cell (data set x network x arm x number of labels x
seed) that has no result yet; killed, it goes on when run again. Several processes may share a folder of cells
(`--processes 2`), and folders of several machines may be copied into one. `report` computes every figure of the page
anew; `pack` moves finished cells into one table, `<cells>.csv.gz`, which all verbs read. What an arm may be is told in
`benchmarks/scarce/arms.py`. nnU-Net's three variables must be set; phantoms are made there, other data must lie in
`nnUNet_raw`. For any nnU-Net dataset: `--data 101 --lists FILE --labelled 4 8 16 --tolerance 1`, FILE a JSON with the ids
of `pool` and `test`. Choices are made with `--data phantom-trials` and the like, which no test case judges.

`--quick` needs nothing: it fits a generator to small phantoms, pretrains, trains and compares, all within FOLDER, at lengths
of its own: 20 minutes on two cores of an AMD EPYC.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from benchmarks.measuring import PACKAGES, machine
from benchmarks.scarce.arms import Arm, add_configuration, pretrain_arm
from benchmarks.scarce.cells import RESULTS, Cell, collect, finished, pack, save, unfinished
from benchmarks.scarce.data import DATA_SETS, DataSet, custom, prepare, require_draw
from benchmarks.scarce.report import write_report
from benchmarks.scarce.statistics import compare
from benchmarks.scarce.training import train_cell
from diffaug.errors import DiffaugError
from diffaug.generator.estimate import in_words
from diffaug.nnunet.families import require_network
from diffaug.training.devices import start_fabric
from diffaug.workspace import nnunet_folder

QUICK = {"steps": 1000, "pretraining": 4500}


def run(arguments: argparse.Namespace) -> None:
    """Train what is missing.

    Args:
        arguments: The command line.
    """
    if arguments.seeds < 1:
        raise DiffaugError(f"--seeds: found {arguments.seeds}, expected a positive number; fix the option")
    sets, arms = _sets(arguments), {name: Arm.parse(name) for name in arguments.arms or ["scratch"]}
    for network in arguments.networks:
        require_network(network)
    prepared = [(data, _cells(data, arms, arguments)) for data in sets]
    others = [
        subprocess.Popen([sys.executable, "-m", "benchmarks.scarce_labels", *sys.argv[1:], "--processes", "1"])
        for _ in range(arguments.processes - 1)
    ]
    try:
        for data, cells in prepared:
            _work(data, arms, cells, arguments)
    except BaseException:  # they would go on for hours; what they have finished stays
        for other in others:
            other.terminate()
        raise
    if any(other.wait() for other in others):
        raise DiffaugError(f"--processes {arguments.processes}: another process failed, see above; run again")


def _cells(data: DataSet, arms: dict[str, Arm], arguments: argparse.Namespace) -> list[Cell]:
    """Prepare a data set, and list its cells."""
    with FileLock(nnunet_folder("nnUNet_preprocessed") / "scarce_labels.lock"):  # the first of several processes
        prepare(data, arguments.networks)
    for network in arguments.networks:
        for arm in arms.values():
            add_configuration(data, network, arm)
    # seed by seed, so that whatever time allows is balanced over networks, arms and numbers of labels
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    counts = arguments.labelled or data.counts
    for n in counts:
        require_draw(data, n, seeds[-1])
    return [
        Cell(data.title, network, name, n, seed)
        for seed in seeds
        for n in counts
        for network in arguments.networks
        for name in arms
    ]


def _work(data: DataSet, arms: dict[str, Arm], cells: list[Cell], arguments: argparse.Namespace) -> None:
    about, device, began, done = machine(), start_fabric(arguments.device).device, time.monotonic(), 0

    def ready(cell: Cell) -> bool:
        arm = arms[cell.arm]
        encoder = arm.pretrained(data, cell.network)
        lock = encoder.preprocessed / f"scarce_{encoder.configuration}.lock"
        try:
            with FileLock(lock).acquire(blocking=False):
                pretrain_arm(data, cell.network, arm, arguments.device)
        except Timeout:
            return False
        return True

    for cell in unfinished(cells, arguments.cells, ready):
        started = time.monotonic()
        result = train_cell(data, cell.network, arms[cell.arm], cell.labelled, cell.seed, device)
        result["versions"] = {name: about[name] for name in PACKAGES}
        result["machine"] = {key: about[key] for key in ("processor", "cores", "threads", "date")}
        save(cell, result, arguments.cells)
        values = [label["dice"] for labels in result["scores"].values() for label in labels.values()]
        now, done = time.monotonic(), done + 1
        left = len(set(cells) - finished(arguments.cells)) / max(1, arguments.processes)
        print(
            f"{cell}: Dice {sum(values) / len(values):.4f}, {now - started:.0f} s; "
            f"about {in_words((now - began) / done * left)} left",
            flush=True,
        )


def quick(arguments: argparse.Namespace) -> None:
    """Do all of it small: the sign of the main result, on a machine that has only diffaug.

    Args:
        arguments: The command line.
    """
    folder = arguments.out.resolve()
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    os.environ |= {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_compile": "0"}
    pretrained, baselines = "synthetic", ("scratch", "scratch-long")
    arms = [pretrained, *baselines]  # one process begins with the generator, the other has its time for the baselines
    settings = {"data": "phantom", "networks": "PrimusS", "labelled": 10, "seeds": 2, "processes": 2, **QUICK}
    settings |= {"cells": folder / "cells", "out": folder / "report", "device": arguments.device}
    options = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    options += ["--arms", *arms]
    # in a process of its own, for nnU-Net reads its variables when it is imported
    for verb in ("run", "report"):
        code = subprocess.run([sys.executable, "-m", "benchmarks.scarce_labels", verb, *options]).returncode
        if code:
            raise DiffaugError(f"--quick: {verb} failed, see above; run again, and it goes on")
    cells = collect(folder / "cells", DATA_SETS["phantom"].lasting(**QUICK).title)
    for against in baselines:
        gain = compare(cells, pretrained, against, 10)
        assert gain is not None
        print(
            f"PrimusS, 10 labels: {pretrained} minus {against} {gain.mean:+.4f} Dice "
            f"(95 % interval {gain.low:+.4f} to {gain.high:+.4f}, {gain.seeds} draws)"
        )


def report(arguments: argparse.Namespace) -> None:
    """Write the report.

    Args:
        arguments: The command line.
    """
    out = arguments.out or RESULTS
    write_report(arguments.cells, _sets(arguments), out, arguments.arms)
    print(out.with_suffix(".md").read_text())


def _sets(arguments: argparse.Namespace) -> list[DataSet]:
    return [_data(name, arguments) for name in arguments.data]


def _data(name: str, arguments: argparse.Namespace) -> DataSet:
    if name not in DATA_SETS and not (arguments.lists and arguments.labelled):
        raise DiffaugError(f"--data {name}: expected one of {', '.join(DATA_SETS)}, or --lists and --labelled")
    if name in DATA_SETS:
        data = DATA_SETS[name]
    else:
        data = custom(
            name,
            arguments.lists,
            arguments.labelled,
            arguments.tolerance,
            arguments.pool,
            arguments.budget,
        )
    told = {key: value for key in ("steps", "pretraining") if (value := getattr(arguments, key)) is not None}
    if any(value < 1 for value in told.values()):
        raise DiffaugError(f"--steps, --pretraining: found {told}, expected positive numbers; fix the options")
    return data.lasting(**told)


def main() -> int:
    """Do what the command line asks for.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "report", "pack"), nargs="?", default="run")
    parser.add_argument("--quick", action="store_true", help="all of it small, within --out")
    parser.add_argument(
        "--data", nargs="+", default=["phantom"], help=f"{', '.join(DATA_SETS)}, or any task of nnU-Net (%(default)s)"
    )
    parser.add_argument("--networks", nargs="+", default=["PrimusS"], metavar="NETWORK", help="(%(default)s)")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="what to run (scratch), or to report (all)")
    parser.add_argument(
        "--labelled", type=int, nargs="+", metavar="N", help="numbers of labelled cases (the data set's)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="draws of labelled cases (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="beside each other (%(default)s)")
    parser.add_argument("--cells", type=Path, default=RESULTS, help="folder of results (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each process (%(default)s)")
    parser.add_argument("--out", type=Path, help="the report, without ending")
    parser.add_argument("--lists", type=Path, help="of another task: JSON with the ids of pool and test")
    parser.add_argument("--pool", help="of another task: dataset of unlabelled scans (the task's own)")
    parser.add_argument("--tolerance", type=float, default=1.0, help="of another task: surface Dice, mm (%(default)s)")
    parser.add_argument("--budget", default="cpu-small", help="of another task (%(default)s)")
    parser.add_argument("--steps", type=int, help="of a training (the data set's)")
    parser.add_argument("--pretraining", type=int, metavar="STEPS", help="of a pretraining (the data set's)")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out is None:
        parser.error("--quick: found no --out, expected a folder; name one")
    torch.set_num_threads(arguments.threads)
    try:
        verbs = {"run": run, "report": report, "pack": lambda given: print(pack(given.cells))}
        (quick if arguments.quick else verbs[arguments.verb])(arguments)
    except DiffaugError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
