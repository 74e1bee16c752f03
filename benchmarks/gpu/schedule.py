"""Which jobs there are, in order of worth, and how the minutes are shared out among them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.jobs import Job
from benchmarks.gpu.sizes import ARMS, FULL, SMOKE, WAYS

# Shares of the time. What measures time runs alone, and so in the first third; the rest runs beside each other: the
# trainings that start from synthetic volumes can begin no sooner than the generator has made these.
SHARES = {"where": 0.06, "data": 0.12, "volume": 0.1, "training": 0.18, "precision": 0.2, "repeat": 0.3}
SHARES |= {"repeats": 0.1, "generator": 0.36, "audit": 0.3, "pretrain": 0.25, "train": 0.45}
LOADERS = 1  # nnU-Net's processes that load and augment in each training: one makes 170 examples a second (docs/gpu.md)
TRAINING = 1.6  # cores that a training beside others keeps busy: one drives the GPU, the loader waits for it


def jobs_of(out: Path, work: Path, seconds: float, *, smoke: bool) -> list[Job]:
    """List the jobs.

    Args:
        out: The folder of results.
        work: The folder that the parts share.
        seconds: For all of them.
        smoke: Whether to take tiny sizes.

    Returns:
        The jobs in order.
    """
    sizes = SMOKE if smoke else FULL
    loaders = 0 if smoke else LOADERS
    quick = {"OMP_NUM_THREADS": "1", "nnUNet_compile": "0", "nnUNet_n_proc_DA": str(loaders), "nnUNet_def_n_proc": "1"}

    def job(part: str, *arguments: object, **rules: Any) -> Job:
        words = [str(argument) for argument in arguments]
        share = seconds if smoke else SHARES[part] * seconds
        options = ["--out", str(out), "--work", str(work), "--seconds", f"{share:.0f}", *(["--smoke"] if smoke else [])]
        command = [sys.executable, "-m", "benchmarks.gpu.part", part, *words, *options]
        # a part looks at its clock between two measurements, so that it may run over by one of them
        return Job("-".join([part, *words]), command, 1.2 * share, environment=quick, **rules)

    listed = [
        job("where"),
        job("data"),
        job("volume", alone=not smoke),
        job("training", alone=not smoke),
        # the generator first: others wait for its volumes, and it keeps loading processes busy
        job("generator", needs=("data",), cores=min(4, os.cpu_count() or 1)),
        job("precision"),
        *(job("repeat", way, needs=("data",)) for way in WAYS),
        job("repeats", needs=tuple(f"repeat-{way}" for way in WAYS)),
        *(job("pretrain", network, "real", needs=("data",), cores=TRAINING) for network in sizes.networks),
        *(job("pretrain", network, "synthetic", needs=("generator",), urgent=True) for network in sizes.networks),
    ]
    for draw in range(sizes.draws):
        for labelled in sizes.counts:
            for network in sizes.networks:
                for arm in ARMS:
                    needs = ("data",) if arm.startswith("scratch") else (f"pretrain-{network}-{arm}",)
                    cores = 1.0 if smoke else TRAINING
                    first = (draw, labelled, network) == (0, sizes.counts[0], sizes.networks[0]) and not smoke
                    listed.append(job("train", network, arm, labelled, draw, needs=needs, cores=cores, urgent=first))
    # the pretrainings ask for the folder that the audit locks
    listed.append(job("audit", needs=("generator", *(f"pretrain-{network}-synthetic" for network in sizes.networks))))
    return listed
