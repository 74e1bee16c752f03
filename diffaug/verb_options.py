"""What verbs may be asked beside the requests of stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffaug.budgets import BUDGETS, DEFAULT
from diffaug.options import option, seed_number
from diffaug.workspace import PLAN, Workspace, dataset_name


@dataclass(frozen=True)
class Task:
    """Which of nnU-Net's tasks.

    Attributes:
        task: As nnU-Net's -d: 101 or Dataset101_Name.
        plans: Name of nnU-Net's plans.
        configuration: Name of nnU-Net's configuration.
    """

    task: str
    plans: str = "nnUNetPlans"
    configuration: str = "3d_fullres"

    def workspace(self, network: str = PLAN) -> Workspace:
        """Find the task's folders.

        Args:
            network: Which network is pretrained.

        Returns:
            The workspace.

        Raises:
            DiffaugError: If there is no such task or network.
        """
        if network != PLAN:
            from diffaug.nnunet.families import require_network  # needs torch, which `--help` need not wait for

            require_network(network)
        return Workspace(dataset_name(self.task), self.plans, self.configuration, network)


@dataclass(frozen=True)
class MaybeTask(Task):
    """A task, or none.

    Attributes:
        task: As nnU-Net's -d: 101 or Dataset101_Name.
    """

    task: str = ""


@dataclass(frozen=True)
class Network:
    """Which network.

    Attributes:
        network: The plan's, or one that a trainer of its name brings along, as PrimusS (docs/reference.md has all).
    """

    network: str = PLAN


@dataclass(frozen=True)
class Run:
    """How to run.

    Attributes:
        device: Where: auto, cpu or cuda.
        fresh: Whether to discard what this verb has made before.
    """

    device: str = "auto"
    fresh: bool = False


@dataclass(frozen=True)
class PlanOnly:
    """How far to go.

    Attributes:
        plan_only: Whether to stop once plan.json is written, for you to edit it.
    """

    plan_only: bool = False


@dataclass(frozen=True)
class Folders:
    """What to audit in place of a task.

    Attributes:
        real: Scans that any generator was trained on.
        synthetic: The volumes it made.
        unseen: Real scans it never saw, which may be a part of --real.
        out: Where to, with --real; diffaug_audit where nothing else is named.
    """

    real: Path | None = option(None, metavar="FOLDER")
    synthetic: Path | None = option(None, metavar="FOLDER")
    unseen: Path | None = option(None, metavar="FOLDER")
    out: Path | None = option(None, metavar="FOLDER")


@dataclass(frozen=True)
class Foreign:
    """Whose generator.

    Attributes:
        generator: A generator of another hospital, which is taken for the task's own; no scan is needed then.
    """

    generator: Path | None = option(None, metavar="FILE")


@dataclass(frozen=True)
class Export:
    """What to export, and where to.

    Attributes:
        out: The copy of the encoder.
        generator: The copy of the generator, in place of the encoder's: audited, without ids, for another hospital.
        origin: What the generator's scans are, in your words.
        licence: On what terms it is given away, a text or a file.
    """

    out: Path | None = option(None, metavar="FILE")
    generator: Path | None = option(None, metavar="FILE")
    origin: str = option("", metavar="TEXT")
    licence: str = option("", metavar="TEXT")


@dataclass(frozen=True)
class Import:
    """What to import.

    Attributes:
        file: The encoder file.
        generator: A generator of another hospital, in place of an encoder.
        fresh: Whether to discard what is there.
    """

    file: Path | None = option(None, metavar="FILE")
    generator: Path | None = option(None, metavar="FILE")
    fresh: bool = False


@dataclass(frozen=True)
class ShareModel:
    """What to share.

    Attributes:
        model: The model's folder, TRAINER__PLANS__CONFIGURATION.
        out: Where to, as nnUNet_results has it.
    """

    model: Path = option(metavar="FOLDER")
    out: Path = option(metavar="FOLDER")


@dataclass(frozen=True)
class Plan:
    """What to add to nnU-Net's plans.

    Attributes:
        task: As nnU-Net's -d: 101 or Dataset101_Name.
        plans: Name of nnU-Net's plans.
        base: Configuration to inherit from.
        budget: The machine at hand.
        epochs: Length of nnU-Net's training; the budget's own where none is named.
        exclude: Cases that the plans must not be made from; may be repeated.
    """

    task: str
    plans: str = "nnUNetPlans"
    base: str = "3d_fullres"
    budget: str = option(DEFAULT, choices=BUDGETS)
    epochs: int | None = None
    exclude: tuple[str, ...] = option((), metavar="RULE")


@dataclass(frozen=True)
class Phantom:
    """Which phantoms.

    Attributes:
        out: Folder of raw datasets, usually $nnUNet_raw.
        task: Number of the dataset.
        cases: Number of training cases.
        labelled: How many of them have masks; all where none is named.
        test: Further cases for imagesTs and labelsTs.
        site: Scanner, A or B.
        seed: Of everything random.
        shape: Voxels.
    """

    out: Path
    task: int
    cases: int
    labelled: int | None = None
    test: int = 0
    site: str = option("A", choices=("A", "B"))
    seed: int = option(0, type=seed_number)
    shape: tuple[int, int, int] = option((32, 48, 64), metavar=("Z", "Y", "X"))


@dataclass(frozen=True)
class Demo:
    """Where to, and how much of it.

    Attributes:
        out: Where to.
        seed: Of everything random.
        fit: Whether the generator is fitted here, half an hour more, in place of the one that is shipped.
    """

    out: Path = Path("diffaug_demo")
    seed: int = option(0, type=seed_number)
    fit: bool = False
