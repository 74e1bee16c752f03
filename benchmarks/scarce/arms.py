"""The benchmark's arms: what a network starts from. An arm is a configuration in nnU-Net's plans, so stock commands run it.

An arm is written `START[-long][:PRETEXT[:STEPS]][@SETTING=VALUE,...]`, its start being one of

    scratch        random weights
    stock          random weights, nnU-Net's own trainer, optimiser and rate
    gin            random weights, half of the patches in the random appearance of small networks
    self-own, self-real, self-synthetic
                   random weights, half of what is drawn are volumes of that pool (below), with the labels of the cell
                   `scratch` of the same draw: twice the steps of `scratch`, as `scratch-long::STEPS` has them
    real           pretraining on the unlabelled pool itself
    own            pretraining on the scans of the task's own pool, labels unseen
    synthetic      pretraining on volumes of a generator that was fitted to the pool
    shapes         pretraining on structures that never were a scan
    oracle         pretraining on the phantoms' pool with the true masks that no pool has

or several of them, joined by `+`. What is `-long` is trained with labels for the steps of a pretraining, too: `scratch-long`
has as many steps as an arm and its pretraining together, and is as long with labels as that arm's own `-long`. Pretext and
steps are the family's own and the data set's where none are named; settings are those of the plan's `diffaug` block.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

import benchmarks.tried.pretexts  # noqa: F401 (adds them to PRETEXTS)
from benchmarks.scarce.cells import in_path
from benchmarks.scarce.data import PHANTOM, PHANTOM_SHAPE, DataSet, forbidden, plans_lock
from benchmarks.scarce.oracle import pretrain_oracle
from benchmarks.shapes import write_shapes
from diffaug.errors import DiffaugError
from diffaug.files import read_json, write_json
from diffaug.nnunet.families import family_of, trainer_name
from diffaug.nnunet.plans import read_plans
from diffaug.nnunet.weights.format import ENCODER
from diffaug.pretraining.pretexts import PRETEXTS
from diffaug.stages import pipeline
from diffaug.stages.requests import FitRequest, PretrainRequest, SampleRequest
from diffaug.stages.stage import MANIFEST
from diffaug.workspace import PLAN, Workspace, nnunet_folder
from nnunet_plugin.settings import read_settings

SELF = "self-"
UNTRAINED = ("scratch", "stock", "gin", *(f"{SELF}{pool}" for pool in ("own", "real", "synthetic")))
IMAGES = ("real", "own", "synthetic", "shapes")
STARTS = (*UNTRAINED, *IMAGES, "oracle")
LONG = "-long"
EPOCHS, ITERATIONS = 50, 20  # most epochs of a training, fewest iterations of an epoch
SAMPLES = 400  # synthetic volumes
SHAPES = 300  # volumes of structures that never were a scan


@dataclass(frozen=True)
class Arm:
    """What a network starts from, and how it goes on.

    Attributes:
        name: As it was written.
        start: Some of `STARTS`.
        is_long: Whether its training has the steps of a pretraining, too.
        pretext: A key of diffaug's pretexts, or of those that were tried; None for the family's own.
        steps: Of the pretraining; None for the data set's own.
        settings: What the plan's `diffaug` block has beyond the benchmark's.
    """

    name: str
    start: tuple[str, ...]
    is_long: bool = False
    pretext: str | None = None
    steps: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Read an arm as the command line has it.

        Args:
            text: See this module.

        Returns:
            The arm.

        Raises:
            DiffaugError: If it is none.
        """
        head, _, tail = text.partition("@")
        start, pretext, steps, *rest = *head.split(":"), *[""] * (3 - len(head.split(":")))
        starts, is_long = tuple(start.removesuffix(LONG).split("+")), start.endswith(LONG)
        pairs = [setting.partition("=") for setting in tail.split(",") if setting]
        try:
            settings = {key: json.loads(value) for key, _, value in pairs}
            count = int(steps) if steps else None
        except ValueError:
            rest = [text]
        of_images = set(starts) <= set(IMAGES)
        known = set(starts) <= set(STARTS) and (len(starts) == 1 or of_images)
        fits = not pretext or (pretext in PRETEXTS and of_images)
        fits &= not steps or is_long or not set(starts) & set(UNTRAINED)
        if rest or not known or not fits or (steps and (count or 0) < 1):
            raise DiffaugError(
                f"--arms {text}: no such arm, expected START[{LONG}][:PRETEXT[:STEPS]][@SETTING=VALUE], START being some "
                f"of {', '.join(STARTS)} and PRETEXT one of {', '.join(PRETEXTS)}; fix the option"
            )
        return cls(text, starts, is_long, pretext or None, count, settings)

    @property
    def is_pretrained(self) -> bool:
        """Whether it starts from anything but random weights."""
        return self.start[0] not in UNTRAINED

    @property
    def pool(self) -> str | None:
        """Whose volumes a network labels that few labels have taught; None where none does."""
        return self.start[0].removeprefix(SELF) if self.start[0].startswith(SELF) else None

    @property
    def encoder(self) -> str:
        """Name of the arm whose encoder it starts from: neither settings nor length make another one."""
        start, colon, rest = self.name.partition("@")[0].partition(":")
        return f"{start.removesuffix(LONG)}{colon}{rest}"

    def length(self, data: DataSet) -> int:
        """Tell how many steps its pretraining has."""
        return self.steps or data.pretraining

    def trainer(self, network: str) -> str:
        """Name the trainer that trains it."""
        if self.start == ("stock",):
            return "nnUNetTrainer"
        return trainer_name(network, scratch=not self.is_pretrained)

    def workspace(self, data: DataSet, network: str) -> Workspace:
        """Tell the workspace of this arm's configuration."""
        return self._workspace(data, network, self.name)

    def pretrained(self, data: DataSet, network: str) -> Workspace:
        """Tell the workspace of the encoder."""
        return self._workspace(data, network, self.encoder)

    @staticmethod
    def _workspace(data: DataSet, network: str, name: str) -> Workspace:
        configuration = f"{data.configuration_of(network)}__{data.varied(in_path(name))}"
        return Workspace(data.task, configuration=configuration, network=network)


def add_configuration(data: DataSet, network: str, arm: Arm) -> None:
    """Add the arm's configuration to nnU-Net's plans.

    Args:
        data: The data set.
        network: A key of `NETWORKS`.
        arm: The arm.
    """
    workspace = arm.workspace(data, network)
    with plans_lock():  # several processes add theirs
        plans = read_json(workspace.plans_file, "run: scarce_labels.py run")
        base = data.configuration_of(network)
        steps = data.steps + (arm.length(data) if arm.is_long else 0)
        rate = {"initial_lr": data.rates[network]} if network in data.rates else {}
        epochs = max(
            each for each in range(1, EPOCHS + 1) if steps % each == 0 and (steps >= each * ITERATIONS or each == 1)
        )
        ours = {"epochs": epochs, "iterations_per_epoch": steps // epochs, **rate}
        block = {**plans["configurations"][base]["diffaug"], **ours, **arm.settings}
        if arm.encoder != arm.name and arm.is_pretrained:
            block["encoder_file"] = str(arm.pretrained(data, network).encoder / ENCODER)
        settings = read_settings(block, f"--arms {arm.name}", family_of(network).recipe)
        is_stock = arm.start == ("stock",)
        if is_stock and network != PLAN:
            raise DiffaugError(
                f"--arms stock: found network {network}, expected plan, which nnU-Net's own trainer builds"
            )
        if (settings.restyle and not arm.is_pretrained) or (is_stock and arm.settings):
            raise DiffaugError(f"--arms {arm.name}: its settings have no effect there, expected an arm that has them")
        wanted = {"inherits_from": base, "diffaug": block}
        if plans["configurations"].get(workspace.configuration) != wanted:
            plans["configurations"][workspace.configuration] = wanted
            write_json(workspace.plans_file, plans)


def pretrain_arm(data: DataSet, network: str, arm: Arm, device: str = "auto") -> Path | None:
    """Pretrain the arm's encoder, or go on; what is finished stays.

    Args:
        data: The data set.
        network: A key of `NETWORKS`.
        arm: The arm.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        The encoder file, if the arm has one.

    Raises:
        DiffaugError: If it cannot be made.
        Timeout: If another process makes what it needs.
    """
    add_configuration(data, network, arm)
    if not arm.is_pretrained:
        if arm.pool:
            folder_of(data, arm.pool, device)
        return None
    workspace = arm.pretrained(data, network)
    if (workspace.encoder / ENCODER).is_file():
        return workspace.encoder / ENCODER
    add_configuration(data, network, Arm.parse(arm.encoder))
    if arm.start == ("oracle",):
        if data.pool != PHANTOM.pool:
            raise DiffaugError(
                f"--arms {arm.name}: {data.pool} has no true masks, expected {PHANTOM.pool}; leave it out"
            )
        return pretrain_oracle(workspace, data.pool, PHANTOM_SHAPE, arm.length(data), device)
    request = PretrainRequest(
        images=tuple(str(folder_of(data, start, device)) for start in arm.start),
        pretext=arm.pretext or family_of(network).recipe.pretext,
        budget=data.budget,
        exclude=forbidden(data),
        pretext_steps=arm.length(data),
    )
    return pipeline.pretrain(workspace, request, device=device)


def folder_of(data: DataSet, start: str, device: str) -> Path:
    """Give the folder of images, made where it is missing."""
    if start == "shapes":
        return _shapes(data)
    workspace = Workspace(data.task, configuration=data.configuration_of(PLAN))
    pool = workspace if data.pool == data.task else Workspace(data.pool)
    if start == "synthetic":
        if _finished(pool.synthetic):
            return pool.synthetic
        exclude = forbidden(data) if data.pool == data.task else ("none",)
        # arms, networks and tasks share it; who does not get the lock has other things to do
        with FileLock(nnunet_folder("nnUNet_preprocessed") / f"scarce_{data.pool}.lock", blocking=False):
            if not (pool.generator / MANIFEST).is_file():  # what somebody has begun goes on as it was begun
                pipeline.fit(pool, FitRequest(budget=data.budget, exclude=exclude), device=device)
            begun = (pool.synthetic / MANIFEST).is_file()
            return pipeline.sample(pool, None if begun else SampleRequest(count=SAMPLES), device=device)
    return pool.raw if start == "real" else workspace.raw


def _finished(folder: Path) -> bool:
    file = folder / MANIFEST
    return file.is_file() and bool(read_json(file, "run again").get("finished"))


def _shapes(data: DataSet) -> Path:
    workspace = Workspace(data.task, configuration=data.configuration_of(PLAN))
    plans, configuration = read_plans(workspace)
    # many patches in each
    size = [round(1.5 * configuration.patch_size[axis]) for axis in plans.transpose_backward]
    spacing = [configuration.spacing[axis] for axis in plans.transpose_backward]
    names = read_json(workspace.raw / "dataset.json", "restore it")["channel_names"]
    with FileLock(workspace.preprocessed / "scarce_shapes.lock", blocking=False):
        return write_shapes(workspace.run / "shapes", SHAPES, size=size, spacing=spacing, channels=list(names.values()))
