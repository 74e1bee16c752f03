"""The `diffaug` block of a configuration in nnU-Net's plans: what may stand there, and what it means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from diffaug.errors import DiffaugError
from diffaug.nnunet.families import Recipe
from diffaug.nnunet.weights.transfer import PARTS


@dataclass(frozen=True)
class Settings:
    """The `diffaug` block of a configuration in nnU-Net's plans.

    Attributes:
        epochs: Length of the training.
        iterations_per_epoch: Training batches per epoch.
        val_iterations_per_epoch: Validation batches per epoch.
        optimizer: `sgd` as nnU-Net has it, or `adamw`, which learns more in few steps.
        initial_lr: Learning rate at the end of the warm-up; where the block does not say, that of the network's family:
            0.01 for SGD as in nnU-Net, for AdamW 0.003 or, for transformers, 0.0003.
        warmup_epochs: Epochs of linear warm-up; 5 % of `epochs` if the block does not say.
        decoder_first: Epochs in which the encoder keeps its weights.
        load: `encoder+decoder` (all but the output layers) or `encoder`.
        encoder_file: The encoder file, relative to `nnUNet_results` or absolute; None for diffaug's own run folder.
        allow_leakage: Whether to go on when the encoder has seen validation cases of the fold.
        restyle: Share of the training patches that are painted anew, in appearances of the scans that the encoder was
            pretrained on; needs a file of the pretext anatomy.
        architecture: Arguments of a network that a trainer brings along, where they shall not be the usual ones.
    """

    epochs: int = 1000
    iterations_per_epoch: int = 250
    val_iterations_per_epoch: int = 50
    optimizer: str = "sgd"
    initial_lr: float = 1e-2
    warmup_epochs: int = 50
    decoder_first: int = 0
    load: str = "encoder+decoder"
    encoder_file: str | None = None
    allow_leakage: bool = False
    restyle: float = 0.0
    architecture: dict[str, Any] = field(default_factory=dict)


def _is_count(value: Any, least: int = 1) -> bool:
    return type(value) is int and value >= least


OPTIMIZERS = ("sgd", "adamw")
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (_is_count, "a whole number above 0"),
    "iterations_per_epoch": (_is_count, "a whole number above 0"),
    "val_iterations_per_epoch": (_is_count, "a whole number above 0"),
    "optimizer": (lambda value: isinstance(value, str) and value in OPTIMIZERS, " or ".join(OPTIMIZERS)),
    "initial_lr": (lambda value: type(value) in (int, float) and 0 < value < 1, "a number between 0 and 1"),
    "warmup_epochs": (lambda value: _is_count(value, least=0), "a whole number below epochs"),
    "decoder_first": (lambda value: _is_count(value, least=0), "a whole number below epochs"),
    "load": (lambda value: isinstance(value, str) and value in PARTS, " or ".join(PARTS)),
    "encoder_file": (lambda value: value is None or isinstance(value, str), "a path or null"),
    "allow_leakage": (lambda value: isinstance(value, bool), "true or false"),
    "restyle": (lambda value: type(value) in (int, float) and 0 <= value <= 1, "a number from 0 to 1"),
    "architecture": (lambda value: isinstance(value, dict), "a JSON object of arguments"),
}


def read_settings(block: Any, place: str, recipe: Recipe) -> Settings:
    """Check the `diffaug` block of a configuration and fill in what it leaves out.

    Args:
        block: The block's JSON.
        place: Where it stands, for messages.
        recipe: What its network's family does where the block does not say.

    Returns:
        The settings.

    Raises:
        DiffaugError: If the block has an unknown key or a value out of range.
    """
    if not isinstance(block, dict):
        raise DiffaugError(f"{place}: is {block!r}, expected a JSON object of settings; fix it in the plans")
    for key, value in block.items():
        if key not in RULES:
            raise DiffaugError(f"{place}: unknown setting {key!r}, expected {', '.join(RULES)}; fix it in the plans")
        is_valid, expected = RULES[key]
        if not is_valid(value):
            raise DiffaugError(f"{place}: {key} is {value!r}, expected {expected}; fix it in the plans")
    epochs = block.get("epochs", Settings.epochs)
    optimizer = block.get("optimizer", recipe.optimizer)
    usual = {
        "warmup_epochs": round(0.05 * epochs),
        "optimizer": optimizer,
        "initial_lr": recipe.learning_rates[optimizer],
    }
    settings = Settings(**{**usual, **block})
    for key in ("warmup_epochs", "decoder_first"):
        if getattr(settings, key) >= epochs:
            raise DiffaugError(
                f"{place}: {key} is {getattr(settings, key)}, expected fewer than the {epochs} epochs; fix it in the plans"
            )
    return settings
