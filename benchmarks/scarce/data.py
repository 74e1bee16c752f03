"""The benchmark's data sets: which cases are labelled for which seed, which judge, and which are the unlabelled pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

from diffaug.errors import DiffaugError
from diffaug.files import read_json, write_json
from diffaug.nnunet.budget_configurations import add_budget_configuration, ensure_plans
from diffaug.patients import by_patient
from diffaug.phantom.dataset import write_dataset
from diffaug.scans.dataset import Case, list_cases, open_dataset
from diffaug.workspace import PLAN, Workspace, dataset_name, nnunet_folder

# voxels of about 10 mm: the whole scan is one patch, and long trainings take a CPU minutes
PHANTOM_SHAPE = (16, 24, 32)
PHANTOM_POOL = 300  # unlabelled phantoms of the other site
SEEDS = 20  # draws of labelled cases written for nnU-Net, as folds
VALIDATION = 8  # cases held back for nnU-Net's own validation
# found on a draw that is in no table, judged by cases that are in none (docs/notebook/scarce_labels.md)
RATES = {"PrimusS": 3e-3}


@dataclass(frozen=True)
class DataSet:
    """One data set of the benchmark.

    Attributes:
        name: What tables call it.
        task: Folder name of nnU-Net's dataset.
        counts: Numbers of labelled cases.
        tolerance: Of the surface Dice, in mm.
        pool: Folder name of the dataset whose scans are the unlabelled pool, and whose generator is sampled.
        lists: JSON with the ids of `pool` and `test` cases of `imagesTr`; None where tests are in `imagesTs`.
        patient: Tells by an id whose case it is: those of one patient stay together. Each case is of another by default.
        budget: Of nnU-Net's configuration and of the pretraining.
        steps: Of a training.
        pretraining: Steps of a pretraining where an arm does not say otherwise.
        rates: Learning rate of each network, the family's own where none is told.
        held: Cases that are held back for nnU-Net's own validation, and for choices.
        variant: What is not the data set's own, where steps differ; part of the names of configurations and cells.
        trials: Whether cases that no table of results knows shall judge, so that choices leave the test cases untouched:
            the validation cases or, of phantoms, those of a dataset of their own.
    """

    name: str
    task: str
    counts: tuple[int, ...]
    tolerance: float
    pool: str
    lists: Path | None = None
    patient: Callable[[str], Any] = str
    budget: str = "cpu-small"
    steps: int = 4000
    pretraining: int = 6000
    rates: Mapping[str, float] = field(default_factory=dict)
    held: int = VALIDATION
    variant: str = ""
    trials: bool = False

    @property
    def title(self) -> str:
        """What cells are filed under."""
        return self.varied(self.name)

    def varied(self, name: str) -> str:
        """Tell a name apart from the same of other lengths."""
        return f"{name}_{self.variant}" if self.variant else name

    def lasting(self, **steps: int) -> DataSet:
        """Give the data set with other lengths of training (`steps`) or pretraining (`pretraining`)."""
        return replace(self, **steps, variant="_".join(f"{key}-{value}" for key, value in steps.items()))

    def configuration_of(self, network: str) -> str:
        """Name nnU-Net's configuration that all arms of a network inherit from."""
        return f"3d_{self.budget.replace('-', '_')}{'' if network == PLAN else f'_{network}'}"

    @property
    def workspace(self) -> Workspace:
        """The task's workspace, of the plan's own network."""
        return Workspace(self.task, configuration=self.configuration_of(PLAN))

    def fold(self, labelled: int, seed: int) -> int:
        """Tell which of nnU-Net's folds has so many labelled cases of that draw."""
        return seed * len(self.counts) + self.counts.index(labelled)


PHANTOM = DataSet(
    "phantom",
    "Dataset961_BreastPhantomB",
    (10, 20, 200),
    tolerance=5.0,
    pool="Dataset960_BreastPhantomA",
    pretraining=12_000,
    rates=RATES,
)
PHANTOM_TRIALS = "Dataset962_BreastPhantomB"
HIPPOCAMPUS = DataSet(
    "hippocampus",
    "Dataset004_Hippocampus",
    (4, 8, 16, 128),
    tolerance=1.0,
    pool="Dataset004_Hippocampus",
    lists=Path("scarce_split.json"),
    patient=lambda case: (int(case.rpartition("_")[2]) + 1) // 2,  # ids 2k-1 and 2k are a patient's two sides
    held=20,
    rates=RATES,
)
HEARTS = DataSet(
    "hearts",
    "Dataset910_HeartVendorA",
    (2, 4, 10, 20, 80),  # both phases of 1, 2, 5, 10 and all 40 patients
    tolerance=2.5,
    pool="Dataset911_HeartVendorB",
    lists=Path("scarce_split.json"),
    patient=lambda case: case.rpartition("_")[0],  # both phases of a heart
    held=20,
    rates=RATES,
)
DATA_SETS = {data.name: data for data in (PHANTOM, HIPPOCAMPUS, HEARTS)}
# what is chosen between arms is chosen here: the same trainings, judged by cases that no table of results knows
DATA_SETS |= {f"{name}-trials": replace(data, name=f"{name}-trials", trials=True) for name, data in DATA_SETS.items()}


def prepare(data: DataSet, networks: Sequence[str] = (PLAN,)) -> None:
    """Make what is missing: phantoms, nnU-Net's plans without the test cases, preprocessed cases, the draws as folds.

    Args:
        data: The data set.
        networks: Keys of `NETWORKS`.
    """
    raw = nnunet_folder("nnUNet_raw")
    if data.task == PHANTOM.task:
        pool = max(data.counts)
        write_dataset(raw, task=961, cases=pool + data.held, test=60, site="B", shape=PHANTOM_SHAPE)
        write_dataset(raw, task=960, cases=PHANTOM_POOL, labelled=0, site="A", shape=PHANTOM_SHAPE)
        write_dataset(raw, task=962, cases=1, test=60, site="B", shape=PHANTOM_SHAPE, seed=1)
    workspace = data.workspace
    test = {case.id for case, _ in judging_cases(replace(data, trials=False))}
    plans_file = ensure_plans(dataset_name(data.task), exclude=test if data.lists else ())
    with plans_lock():
        for network in (PLAN, *networks):
            if data.configuration_of(network) not in read_json(plans_file, "run again")["configurations"]:
                add_budget_configuration(plans_file, budget=data.budget, network=network)
    needed = {*_pool(data), *(test if data.lists else ())}
    if needed - {file.stem for file in workspace.preprocessed.glob("*/*.pkl")}:  # written last of each case
        number, configurations = int(data.task[7:10]), (data.configuration_of(PLAN),)
        preprocess_dataset(number, "nnUNetPlans", configurations=configurations, num_processes=(1,))
    splits, wanted = workspace.preprocessed / "splits_final.json", draws(data)
    if splits.is_file() and read_json(splits, "restore it") != wanted:
        kept = splits.with_name("splits_final.kept_by_scarce_labels.json")
        if kept.exists():
            raise DiffaugError(f"{kept}: is there already, expected no second kept split; move it away, then run again")
        splits.rename(kept)
        print(f"{splits}: replaced by the benchmark's draws, kept as {kept.name}")
    write_json(splits, wanted)
    write_json(workspace.preprocessed / "scarce_lists.json", {"test": sorted(test), "validation": validation(data)})


def plans_lock() -> FileLock:
    """Keep other processes from writing nnU-Net's plans meanwhile."""
    return FileLock(nnunet_folder("nnUNet_preprocessed") / "scarce_plans.lock")


def require_draw(data: DataSet, labelled: int, seed: int) -> None:
    """Require that nnU-Net's fold is the draw that it is taken for.

    Args:
        data: The data set.
        labelled: Number of labelled cases.
        seed: Of the draw.

    Raises:
        DiffaugError: If it is not; nnU-Net itself would take a random split of all cases, tests included.
    """
    if labelled not in data.counts or not 0 <= seed < SEEDS:
        raise DiffaugError(
            f"{data.name}: found {labelled} labelled cases and draw {seed}, expected {', '.join(map(str, data.counts))} and "
            f"a draw below {SEEDS}; fix --labelled, --seeds or --first-seed"
        )
    file = data.workspace.preprocessed / "splits_final.json"
    fold, splits, wanted = data.fold(labelled, seed), read_json(file, "run again"), draws(data)
    if len(wanted[fold]["train"]) != labelled:
        raise DiffaugError(f"--labelled {labelled}: found {len(wanted[fold]['train'])} cases to draw, expected as many")
    if len(splits) <= fold or splits[fold] != wanted[fold]:
        raise DiffaugError(
            f"{file}: fold {fold} is another draw, expected the benchmark's; run again, and nothing beside it"
        )


def forbidden(data: DataSet) -> tuple[str, ...]:
    """Give the `--exclude` rules that keep generator and encoder from test and validation cases.

    Test cases in `imagesTs` need none: diffaug never reads that folder.
    """
    file = data.workspace.preprocessed / "scarce_lists.json"
    return (f"{file}:validation", *([f"{file}:test"] if data.lists else []))


def draws(data: DataSet) -> list[dict[str, list[str]]]:
    """Draw the labelled cases: nested in number, independent between seeds, patients kept together.

    Args:
        data: The data set.

    Returns:
        nnU-Net's splits; `DataSet.fold` tells which is which.
    """
    held, splits, drawn = validation(data), [], drawn_from(data)
    for seed in range(SEEDS):
        patients = sorted_by_patient(drawn, data.patient)
        order = np.random.default_rng(seed).permutation(len(patients))
        cases = [case for patient in order for case in patients[patient]]
        splits += [{"train": sorted(cases[:count]), "val": held} for count in data.counts]
    return splits


def drawn_from(data: DataSet) -> list[str]:
    """List the cases that labelled ones are drawn from."""
    return sorted(set(_pool(data)) - set(validation(data)))


def validation(data: DataSet) -> list[str]:
    """Give the cases that are held back for nnU-Net's own validation: the last ones of the pool."""
    held: list[str] = []
    patients = sorted_by_patient(sorted(_pool(data)), data.patient)
    while len(held) < data.held:
        held += patients.pop()
    return sorted(held)


def judging_cases(data: DataSet) -> list[tuple[Case, Path]]:
    """List the test cases and their label files; nothing but the final scores may look at them.

    Args:
        data: The data set.

    Returns:
        Case and label file, sorted by id.
    """
    own = data.trials and data.task == PHANTOM.task
    raw = nnunet_folder("nnUNet_raw") / (PHANTOM_TRIALS if own else data.task)
    info = read_json(raw / "dataset.json", "restore it")
    ending, channels = info["file_ending"], len(info["channel_names"])
    part, wanted = "Tr", set(validation(data) if data.trials else _lists(data)["test"] if data.lists else ())
    if own or not (data.trials or data.lists):
        part, wanted = "Ts", set()
    cases = list_cases([raw / f"images{part}", raw / "none"], ending, channels)
    return [(c, raw / f"labels{part}" / f"{c.id}{ending}") for c in cases if not wanted or c.id in wanted]


def _pool(data: DataSet) -> list[str]:
    if data.lists is not None:
        return list(_lists(data)["pool"])
    raw = data.workspace.raw
    return [case.id for case in open_dataset(raw).cases if any((raw / "labelsTr").glob(f"{case.id}.*"))]


def _lists(data: DataSet) -> dict[str, Any]:
    assert data.lists is not None
    return read_json(data.workspace.raw / data.lists, "expected a JSON with the lists pool and test; write one")


def sorted_by_patient(cases: Iterable[str], patient: Callable[[str], Any]) -> list[list[str]]:
    """Group cases by the patient they are of.

    Args:
        cases: Ids.
        patient: Tells by an id whose case it is.

    Returns:
        The groups, by patient.
    """
    patients: dict[Any, list[str]] = by_patient(cases, patient)
    return [patients[key] for key in sorted(patients)]


def custom(task: str, lists: Path, counts: Sequence[int], tolerance: float, pool: str | None, budget: str) -> DataSet:
    """Describe any nnU-Net dataset.

    Args:
        task: As nnU-Net's `-d`.
        lists: JSON with the ids of `pool` and `test`.
        counts: Numbers of labelled cases.
        tolerance: Of the surface Dice, in mm.
        pool: The dataset whose scans are the unlabelled pool; None for the task's own.
        budget: Of nnU-Net's configuration and of the pretraining.

    Returns:
        The data set.
    """
    name = dataset_name(task)
    made = DataSet(name, name, tuple(sorted(counts)), tolerance, dataset_name(pool) if pool else name, lists.resolve())
    return replace(made, budget=budget)
