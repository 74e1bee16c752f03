"""Part 6: few-label trainings of stock nnU-Net, many of them beside each other on one GPU."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.gpu.context import Context
from benchmarks.gpu.datasets import arms, data_set
from benchmarks.scarce.arms import pretrain_arm
from benchmarks.scarce.training import train_cell


def pretrain(context: Context, network: str, arm: str) -> None:
    """Pretrain an arm's network.

    Args:
        context: The part's surroundings.
        network: A key of `NETWORKS`.
        arm: The arm's name.
    """
    started = time.monotonic()
    pretrain_arm(data_set(context.sizes), network, arms()[arm])
    context.record(
        pretrained=arm, network=network, steps=context.sizes.pretext_steps, seconds=round(time.monotonic() - started, 1)
    )


def train(context: Context, network: str, arm: str, labelled: str, draw: str) -> None:
    """Train, predict and score a cell.

    Args:
        context: The part's surroundings.
        network: A key of `NETWORKS`.
        arm: The arm's name.
        labelled: Number of labelled cases, as the command line has it.
        draw: Of these cases, likewise.
    """
    data = data_set(context.sizes)
    result = train_cell(data, network, arms()[arm], int(labelled), int(draw), context.device)
    dice = {
        label: round(float(np.mean([s[label]["dice"] for s in result["scores"].values() if label in s])), 4)
        for label in sorted({label for scores in result["scores"].values() for label in scores})
    }
    settings = result["settings"]
    steps = settings["epochs"] * settings["iterations_per_epoch"]
    context.record(
        network=network,
        arm=arm,
        labelled=int(labelled),
        draw=int(draw),
        dice=round(float(np.mean(list(dice.values()))), 4),
        by_label=dice,
        steps=steps,
        steps_per_second=round(steps / result["seconds"]["train"], 1),
        test_cases=len(result["scores"]),
    )
