"""The generator's plan: everything that `fit` decides, as JSON that you can edit."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import NotRequired, TypedDict

from diffaug.budgets import Training
from diffaug.errors import DiffaugError
from diffaug.files import read_json, write_json
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.conditions import ConditionPlan
from diffaug.generator.denoiser import Denoiser
from diffaug.generator.refiner import Refiner
from diffaug.scans.grid import Grid
from diffaug.shapes import require_shape

# Voxels that the patch discriminator needs along every axis, by the number of its layers: fewer, and nothing is left of
# a volume after its strides (hearts have 6 to 12 slices)
DISCRIMINATOR_NEEDS = {2: 12, 1: 6, 0: 4}
FITS = ("autoencoder_training", "refiner_training", "denoiser_training")
MOST_VOXELS = 2**30  # of a volume: a whole body of 1 mm has a third of it


class Written(TypedDict):
    """A plan as JSON."""

    budget: str
    channels: list[str]
    grid: Grid
    cases: list[str]
    held_out: list[str]
    autoencoder: dict[str, Any]
    autoencoder_crop: list[int]
    denoiser: dict[str, Any]
    refiner: dict[str, Any] | None
    views: int
    autoencoder_training: Training
    refiner_training: Training
    denoiser_training: Training
    conditions: NotRequired[ConditionPlan]
    discriminator_layers: NotRequired[int | None]


@dataclass(frozen=True)
class GeneratorPlan:
    """What `fit` decided.

    Attributes:
        budget: Name of the budget it came from.
        channels: nnU-Net's channel names.
        grid: The canonical grid.
        cases: Ids of the scans to train on; empty, as is `held_out`, in a generator that came from elsewhere.
        held_out: Ids of the scans kept for measuring; move ids here so that no patient is in both lists.
        autoencoder: Arguments of `Autoencoder`.
        autoencoder_crop: Voxels (Z, Y, X) of what the autoencoder trains on.
        denoiser: Arguments of `Denoiser`.
        refiner: Arguments of `Refiner`; None leaves volumes as the autoencoder makes them.
        views: Windows cached per scan.
        autoencoder_training: How long and fast.
        refiner_training: How long and fast.
        denoiser_training: How long and fast.
        conditions: What else the denoiser is told of a scan.
        discriminator_layers: Of the autoencoder's critic, a key of `DISCRIMINATOR_NEEDS`; None trains without one.
    """

    budget: str
    channels: tuple[str, ...]
    grid: Grid
    cases: tuple[str, ...]
    held_out: tuple[str, ...]
    autoencoder: dict[str, Any]
    autoencoder_crop: tuple[int, ...]
    denoiser: dict[str, Any]
    refiner: dict[str, Any] | None
    views: int
    autoencoder_training: Training
    refiner_training: Training
    denoiser_training: Training
    conditions: ConditionPlan = field(default_factory=ConditionPlan)
    discriminator_layers: int | None = max(DISCRIMINATOR_NEEDS)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Cells (Z, Y, X) of a latent."""
        factors = np.prod(self.autoencoder["strides"], axis=0)
        return tuple(int(n // f) for n, f in zip(self.grid.shape, factors, strict=True))

    @property
    def trainings(self) -> dict[str, Training]:
        """How long and fast each network is trained, in order; the refiner only where there is one."""
        found = {fit.removesuffix("_training"): getattr(self, fit) for fit in FITS}
        return {
            network: training for network, training in found.items() if network != "refiner" or self.refiner is not None
        }

    def make_denoiser(self) -> Denoiser:
        """Build the denoiser.

        Returns:
            An untrained one.
        """
        return Denoiser(**self.denoiser, condition_channels=self.conditions.channels)

    def make_refiner(self) -> Refiner | None:
        """Build the refiner.

        Returns:
            An untrained one; None where the plan has none.
        """
        if self.refiner is None:
            return None
        # folded as the autoencoder's first level folds: long voxels less
        return Refiner(image_channels=len(self.channels), stride=self.autoencoder["strides"][0], **self.refiner)

    def changes(self, before: GeneratorPlan) -> list[str]:
        """Name in what it differs from another plan, each by its key in the file.

        Args:
            before: The other one.

        Returns:
            Texts such as `denoiser_training.batch_size was 16 and is 8`.
        """
        old, new = _flat(asdict(before)), _flat(asdict(self))
        return [
            f"{key} was {old.get(key)} and is {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)
        ]

    def save(self, file: Path) -> None:
        """Write the plan.

        Args:
            file: The JSON file.
        """
        write_json(file, asdict(self))

    @staticmethod
    def from_dict(content: dict[str, Any], source: Path) -> GeneratorPlan:
        """Rebuild a plan.

        Args:
            content: What `asdict` gave, possibly edited.
            source: Where it was read, for the message.

        Returns:
            The plan.

        Raises:
            DiffaugError: If a key is missing or unknown, or the grid does not fit the strides.
        """
        require_shape(content, Written, source, "fix it or delete it to plan anew")
        try:
            grid = Grid(**{k: _tuples(v) for k, v in content["grid"].items()})
            training = {k: Training(**content[k]) for k in FITS}
            lists = {k: tuple(content[k]) for k in ("channels", "cases", "held_out", "autoencoder_crop")}
            conditions = ConditionPlan.from_dict(content.get("conditions", {}))
            plan = GeneratorPlan(**{**content, **lists, **training, "grid": grid, "conditions": conditions})
            factors = np.prod(plan.autoencoder["strides"], axis=0)
            for name, shape, steps in (
                ("grid shape", plan.grid.shape, factors),
                ("autoencoder_crop", plan.autoencoder_crop, 2 * factors),  # its latent is halved, see `Autoencoder`
            ):
                if any(n % s or n < s for n, s in zip(shape, steps, strict=True)):
                    raise ValueError(f"{name} {shape} is not a multiple of {tuple(map(int, steps))}")
            plan._require_sense()
            with torch.device("meta"):  # costs nothing, and finds every argument the networks do not take
                Autoencoder(**plan.autoencoder)
                plan.make_denoiser()
                plan.make_refiner()
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError, ZeroDivisionError) as error:
            raise DiffaugError(f"{source}: not a generator plan ({error}); fix it or delete it to plan anew") from error
        return plan

    def _require_sense(self) -> None:
        """Find numbers that would only fail, or mislead, hours later."""
        grid, conditions = self.grid, self.conditions
        fits = [getattr(self, fit) for fit in FITS]
        axes = sorted("".join(pair for pair in ("LR", "AP", "SI") if letter in pair) for letter in grid.orientation)
        rules = {
            "field_of_view is whole or patch": grid.field_of_view in ("whole", "patch"),
            "orientation names three axes, as LPS does": axes == ["AP", "LR", "SI"],
            f"shape holds at most {MOST_VOXELS} voxels": math.prod(grid.shape) <= MOST_VOXELS,
            "spacing has three positive numbers": len(grid.spacing) == 3 and min(grid.spacing) > 0,
            "ranges, mean and std have a value for each channel": len(grid.ranges) == len(self.channels)
            and len(grid.mean) == len(grid.std) == len(self.channels),
            "views is positive": self.views > 0,
            "latent_channels is the same in both networks": self.autoencoder["latent_channels"]
            == self.denoiser["latent_channels"],
            "steps, batch_size, learning_rate and gradient_clip are positive": all(
                min(t.steps, t.batch_size, t.learning_rate, t.gradient_clip) > 0 for t in fits
            ),
            f"discriminator_layers is one of {', '.join(map(str, DISCRIMINATOR_NEEDS))} or null": self.discriminator_layers
            in (None, *DISCRIMINATOR_NEEDS),
            "autoencoder_crop has the voxels that discriminator_layers need": min(self.autoencoder_crop)
            >= DISCRIMINATOR_NEEDS.get(self.discriminator_layers, 0),  # type: ignore[arg-type]
            "warmup_steps and workers are not negative": all(min(t.warmup_steps, t.workers) >= 0 for t in fits),
            "the conditions' sites are those of the cases to train on, each once": not self.cases
            or sorted(conditions.sites)
            == sorted({conditions.site_of[case] for case in self.cases if case in conditions.site_of}),
            "the conditions' site_of has no other sites": {*conditions.site_of.values()} <= {*conditions.sites},
            "the conditions' spacing is true or false": isinstance(conditions.spacing, bool),
            "the ema_decay of denoiser and refiner lies between 0 and 1": all(
                0 < (t.ema_decay or 0) < 1 for t in (self.denoiser_training, self.refiner_training)
            ),
        }
        for rule, kept in rules.items():
            if not kept:
                raise ValueError(f"expected that {rule}")

    @staticmethod
    def load(file: Path) -> GeneratorPlan:
        """Read the plan of a generator that is to be fitted.

        Args:
            file: The JSON file.

        Returns:
            The plan.

        Raises:
            DiffaugError: If it is none, a list of cases is empty, or a case is in both.
        """
        plan = GeneratorPlan.from_dict(read_json(file, "run: diffaug fit"), file)
        both = set(plan.cases) & set(plan.held_out)
        if both or not plan.cases or not plan.held_out:
            raise DiffaugError(
                f"{file}: found {len(plan.cases)} cases, {len(plan.held_out)} held_out and {len(both)} in both lists, "
                "expected at least 1, at least 1 and 0; fix the lists"
            )
        return plan


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    entries = ((f"{prefix}{key}", value) for key, value in content.items())
    nested = (_flat(value, f"{key}.") if isinstance(value, dict) and value else {key: value} for key, value in entries)
    return {key: value for part in nested for key, value in part.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
