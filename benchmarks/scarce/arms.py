"""The benchmark's arms: what nnU-Net starts from. An arm is a configuration in nnU-Net's plans, so stock commands run it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import benchmarks.tried.pretexts  # noqa: F401 (adds them to PRETEXTS)
from benchmarks.scarce.data import PHANTOM, PHANTOM_SHAPE, DataSet, forbidden
from benchmarks.scarce.oracle import pretrain_oracle
from benchmarks.shapes import write_shapes
from benchmarks.tried.self_training.labelling import LabelRequest, label
from diffaug.errors import DiffaugError
from diffaug.files import read_json, write_json
from diffaug.nnunet.plans import read_plans
from diffaug.pretraining.pretexts import PRETEXTS
from diffaug.stages.pipeline import pretrain
from diffaug.stages.requests import PretrainRequest
from diffaug.workspace import Workspace


@dataclass(frozen=True)
class Arm:
    """What nnU-Net starts from, and how it goes on.

    Attributes:
        name: What tables call it, and the end of the configuration's name.
        trainer: Name of nnU-Net's trainer class.
        images: What the encoder is pretrained on: `pool`, `synthetic` (of the pool's generator), `synthetic@NAME` (of one
            that was fitted or sampled otherwise, under that configuration), `shapes` (structures that never were a scan);
            empty for none.
        pretext: A key of diffaug's pretexts, or of those that were tried.
        steps: Of the pretraining; None for the budget's own.
        encoder: Name of the arm whose encoder is used, where it is not this one's own.
        teacher: Name of the arm whose model labels `images` for this one (self-training); nothing is pretrained then.
        settings: What the plan's `diffaug` block has beyond the budget's.
    """

    name: str
    trainer: str = "nnUNetTrainerDiffAug"
    images: tuple[str, ...] = ()
    pretext: str = "denoise"
    steps: int | None = None
    encoder: str | None = None
    teacher: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def workspace(self, data: DataSet) -> Workspace:
        """Tell the workspace of this arm's configuration."""
        return data.workspace if self.is_plain else _workspace(data, self.name)

    @property
    def is_plain(self) -> bool:
        """Whether the arm needs no configuration of its own."""
        return not self.images and not self.settings and self.encoder is None


ORACLE = "true masks"  # the one pretext that is none
TRIAL = 2000  # pretraining steps of the tournament of pretexts
LONG = 4000  # of the arms in the final table
SCHEDULES: dict[str, dict[str, Any]] = {  # the tournament of schedules: what differs from the budget's own
    "rate-0.001": {"initial_lr": 1e-3},
    "rate-0.006": {"initial_lr": 6e-3},
    "decoder-first": {"decoder_first": 10},
    "warm-up-10": {"warmup_epochs": 10},
    "encoder-alone": {"load": "encoder"},
    "epochs-10": {"epochs": 10},
    "epochs-10-rate-0.001": {"epochs": 10, "initial_lr": 1e-3},
    "epochs-100": {"epochs": 100},
    "epochs-200": {"epochs": 200},
}
SHAPES = 300  # volumes of structures that never were a scan, as many as the phantoms' pool has scans
STUDENT = "nnUNetTrainerSelfTraining"
_ALL = (
    Arm("scratch", "nnUNetTrainerDiffAugScratch"),
    Arm("stock", "nnUNetTrainer"),
    Arm("real", images=("pool",), steps=LONG),
    Arm("synthetic", images=("synthetic",), steps=LONG),
    Arm("both", images=("pool", "synthetic"), steps=LONG),
    Arm("shapes", images=("shapes",), steps=LONG),
    Arm("synthetic+self", STUDENT, images=("synthetic",), encoder="synthetic", teacher="synthetic"),
    Arm("real+self", STUDENT, images=("pool",), encoder="real", teacher="real"),
    *(
        Arm(f"real-{name}", images=("pool",), pretext=name, steps=TRIAL)
        for name in PRETEXTS
        if not PRETEXTS[name].taught
    ),
    Arm("oracle", images=("pool",), pretext=ORACLE, steps=LONG),
    *(
        Arm(f"{arm}@{name}", trainer, encoder=arm if arm != "scratch" else None, settings=settings)
        for arm, trainer in (
            ("scratch", "nnUNetTrainerDiffAugScratch"),
            ("real", "nnUNetTrainerDiffAug"),
            ("synthetic", "nnUNetTrainerDiffAug"),
            ("oracle", "nnUNetTrainerDiffAug"),
        )
        for name, settings in SCHEDULES.items()
    ),
    *(Arm(f"synthetic-{name}", images=("synthetic",), pretext=name, steps=TRIAL) for name in PRETEXTS),
    *(
        Arm(f"synthetic-{name}@{kind}", images=(f"synthetic@{kind}",), pretext=name, steps=TRIAL)
        for kind in ("smooth", "long")
        for name in ("denoise", "mae", "clusters")
    ),
)
ARMS = {arm.name: arm for arm in _ALL}


def add_configuration(data: DataSet, arm: Arm) -> None:
    """Add the arm's configuration to nnU-Net's plans.

    Args:
        data: The data set.
        arm: The arm.
    """
    if arm.is_plain:
        return
    workspace = arm.workspace(data)
    plans = read_json(workspace.plans_file, "run: scarce_labels.py run")
    block = {**plans["configurations"][data.configuration]["diffaug"], **arm.settings}
    if arm.encoder is not None:
        block["encoder_file"] = str(_workspace(data, arm.encoder).encoder / "encoder.pt")
    wanted = {"inherits_from": data.configuration, "diffaug": block}
    if plans["configurations"].get(workspace.configuration) != wanted:
        plans["configurations"][workspace.configuration] = wanted
        write_json(workspace.plans_file, plans)


def pretrain_arm(data: DataSet, arm: Arm, device: str = "auto") -> Path | None:
    """Pretrain the arm's encoder, or go on; what is finished stays.

    Args:
        data: The data set.
        arm: The arm.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        The encoder file, if the arm has one of its own.
    """
    add_configuration(data, arm)
    if not arm.images or arm.teacher:
        return None
    if arm.pretext == ORACLE:
        if data.pool != PHANTOM.pool:
            raise DiffaugError(
                f"--arms {arm.name}: {data.pool} has no true masks, expected {PHANTOM.pool}; leave it out"
            )
        assert arm.steps is not None
        return pretrain_oracle(arm.workspace(data), data.pool, PHANTOM_SHAPE, arm.steps, device)
    request = PretrainRequest(
        images=_folders(data, arm),
        pretext=arm.pretext,
        budget=data.budget,
        exclude=forbidden(data),
        pretext_steps=arm.steps,
    )
    return pretrain(arm.workspace(data), request, device=device)


def label_volumes(data: DataSet, arm: Arm, fold: int, device: str = "auto") -> None:
    """Have the teacher's model of a fold label the arm's volumes.

    Args:
        data: The data set.
        arm: The student's arm.
        fold: nnU-Net's fold.
        device: `auto`, `cpu` or `cuda`.
    """
    if arm.teacher is None:
        return
    teacher = ARMS[arm.teacher]
    request = LabelRequest(
        fold=str(fold),
        trainer=teacher.trainer,
        teacher=teacher.workspace(data).configuration,
        images=_folders(data, arm),
        exclude=forbidden(data),
    )
    label(arm.workspace(data), request, device=device)


def _workspace(data: DataSet, arm: str) -> Workspace:
    return Workspace(data.task, configuration=f"{data.configuration}__{arm}")


def _folders(data: DataSet, arm: Arm) -> tuple[str, ...]:
    pool = Workspace(data.pool, configuration="3d_fullres" if data.pool != data.task else data.configuration)
    places = {"pool": pool.raw, "synthetic": pool.synthetic, "shapes": data.workspace.run / "shapes"}
    if "shapes" in arm.images:
        plans, configuration = read_plans(data.workspace)
        size = [
            round(1.5 * configuration.patch_size[axis]) for axis in plans.transpose_backward
        ]  # many patches in each
        spacing = [configuration.spacing[axis] for axis in plans.transpose_backward]
        names = read_json(data.workspace.raw / "dataset.json", "restore it")["channel_names"]
        write_shapes(places["shapes"], SHAPES, size=size, spacing=spacing, channels=list(names.values()))
    return tuple(
        str(Workspace(data.pool, configuration=kind.partition("@")[2]).synthetic if "@" in kind else places[kind])
        for kind in arm.images
    )
