"""The data of parts 4 to 6: hearts of two vendors where they are at hand, else phantoms of two scanners."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.gpu.context import Context
from benchmarks.gpu.sizes import ARMS, Sizes
from benchmarks.scarce.arms import ITERATIONS, Arm, add_configuration
from benchmarks.scarce.data import HEARTS, VALIDATION, DataSet, prepare
from diffaug.phantom.dataset import write_dataset
from diffaug.workspace import nnunet_folder

REPEATED = 991  # number of the phantoms that are fitted again and again
REPEATED_SCANS = 8
PHANTOMS = DataSet("phantoms", "Dataset951_BreastPhantomB", (), tolerance=5.0, pool="Dataset950_BreastPhantomA")


def data_set(sizes: Sizes) -> DataSet:
    """Tell which data the parts use.

    Args:
        sizes: How large the parts are.

    Returns:
        Hearts or phantoms.
    """
    raw = nnunet_folder("nnUNet_raw")
    chosen = HEARTS if all((raw / name).is_dir() for name in (HEARTS.task, HEARTS.pool)) else PHANTOMS
    return replace(chosen, counts=sizes.counts, steps=ITERATIONS * sizes.epochs, pretraining=sizes.pretext_steps)


def arms() -> dict[str, Arm]:
    """List what few-label trainings start from.

    Returns:
        The arms by name; those that are pretrained are fine-tuned for as many steps as `scratch` is trained.
    """
    return {name: Arm.parse(name) for name in ARMS}


def run(context: Context) -> None:
    """Make what is missing: phantoms, nnU-Net's plans, preprocessed cases, draws, a configuration for each arm.

    Args:
        context: The part's surroundings.
    """
    sizes, raw = context.sizes, nnunet_folder("nnUNet_raw")
    write_dataset(raw, task=REPEATED, cases=REPEATED_SCANS, labelled=0, shape=sizes.phantom)
    data = data_set(sizes)
    if data.name == PHANTOMS.name:
        cases = sizes.labelled + VALIDATION
        write_dataset(raw, task=951, cases=cases, test=sizes.test, site="B", shape=sizes.phantom)
        write_dataset(raw, task=950, cases=sizes.pool, labelled=0, site="A", shape=sizes.phantom)
    prepare(data, sizes.networks)
    for network in sizes.networks:
        for arm in arms().values():  # all of them before any training: the plans are one file
            add_configuration(data, network, arm)
    context.record(data=data.name, task=data.task, pool=data.pool)
