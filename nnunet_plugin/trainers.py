"""nnU-Net trainers: one that starts from diffaug's pretrained weights, and its twin that starts from random ones.

Network, loss, data, batch size and deep supervision are nnU-Net's own, and so is the optimiser unless the plans ask for
another. The twin has the same schedule, so that comparing the two tells what pretraining is worth and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from diffaug.errors import DiffaugError
from diffaug.nnunet.weights.format import overlap, read_encoder
from diffaug.nnunet.weights.path import encoder_path
from diffaug.nnunet.weights.transfer import PARTS, load_encoder
from diffaug.pretraining.pseudo_labels import MixedCases, pseudo_labels_path

CUDA = torch.device("cuda")


@dataclass(frozen=True)
class Settings:
    """The `diffaug` block of a configuration in nnU-Net's plans.

    Attributes:
        epochs: Length of the training.
        iterations_per_epoch: Training batches per epoch.
        val_iterations_per_epoch: Validation batches per epoch.
        optimizer: `sgd` as nnU-Net has it, or `adamw`, which learns more in few steps.
        initial_lr: Learning rate at the end of the warm-up; where the block does not say, 0.01 for SGD as in nnU-Net,
            0.003 for AdamW.
        warmup_epochs: Epochs of linear warm-up; 5 % of `epochs` if the block does not say.
        decoder_first: Epochs in which the encoder keeps its weights.
        load: `encoder+decoder` (all but the output layers) or `encoder`.
        encoder_file: The encoder file, relative to `nnUNet_results` or absolute; None for diffaug's own run folder.
        allow_leakage: Whether to go on when the encoder has seen validation cases of the fold.
        synthetic_share: Share of the training batches' cases that are volumes labelled by a teacher (`diffaug label`).
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
    synthetic_share: float = 0.0


def _is_count(value: Any, least: int = 1) -> bool:
    return type(value) is int and value >= least


LEARNING_RATES = {"sgd": 1e-2, "adamw": 3e-3}
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (_is_count, "a whole number above 0"),
    "iterations_per_epoch": (_is_count, "a whole number above 0"),
    "val_iterations_per_epoch": (_is_count, "a whole number above 0"),
    "optimizer": (lambda value: value in LEARNING_RATES, " or ".join(LEARNING_RATES)),
    "initial_lr": (lambda value: type(value) in (int, float) and 0 < value < 1, "a number between 0 and 1"),
    "warmup_epochs": (lambda value: _is_count(value, least=0), "a whole number below epochs"),
    "decoder_first": (lambda value: _is_count(value, least=0), "a whole number below epochs"),
    "load": (lambda value: value in PARTS, " or ".join(PARTS)),
    "encoder_file": (lambda value: value is None or isinstance(value, str), "a path or null"),
    "allow_leakage": (lambda value: isinstance(value, bool), "true or false"),
    "synthetic_share": (lambda value: type(value) in (int, float) and 0 <= value < 1, "a number from 0 to below 1"),
}


def read_settings(block: Any, place: str) -> Settings:
    """Check the `diffaug` block of a configuration and fill in what it leaves out.

    Args:
        block: The block's JSON.
        place: Where it stands, for messages.

    Returns:
        The settings.

    Raises:
        DiffaugError: If the block has an unknown key or a value out of range.
    """
    if not isinstance(block, dict):
        raise DiffaugError(f"{place}: is {block!r}, expected a JSON object of settings; mend it in the plans")
    for key, value in block.items():
        if key not in RULES:
            raise DiffaugError(f"{place}: unknown setting {key!r}, expected {', '.join(RULES)}; mend it in the plans")
        is_valid, expected = RULES[key]
        if not is_valid(value):
            raise DiffaugError(f"{place}: {key} is {value!r}, expected {expected}; mend it in the plans")
    epochs = block.get("epochs", Settings.epochs)
    rate = LEARNING_RATES[block.get("optimizer", Settings.optimizer)]
    settings = Settings(**{"warmup_epochs": round(0.05 * epochs), "initial_lr": rate, **block})
    for key in ("warmup_epochs", "decoder_first"):
        if getattr(settings, key) >= epochs:
            raise DiffaugError(
                f"{place}: {key} is {getattr(settings, key)}, expected fewer than the {epochs} epochs; mend it in the plans"
            )
    return settings


@dataclass
class WarmupPolyLR:
    """Linear warm-up, then nnU-Net's polynomial decay: a pure function of the epoch, so a resumed run needs no state.

    Attributes:
        optimizer: Whose learning rate is set.
        initial_lr: Learning rate at the end of the warm-up.
        warmup_epochs: Epochs of linear warm-up.
        epochs: Epochs in all.
        decoder_first: Epochs in which the first group of parameters, the encoder, keeps its weights.
    """

    optimizer: torch.optim.Optimizer
    initial_lr: float
    warmup_epochs: int
    epochs: int
    decoder_first: int = 0

    def lr(self, epoch: int) -> float:
        """Tell the learning rate of an epoch, counted from 0."""
        if epoch < self.warmup_epochs:
            return self.initial_lr * (epoch + 1) / self.warmup_epochs
        return self.initial_lr * (1 - (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)) ** 0.9

    def step(self, epoch: int) -> None:
        """Set the learning rate of an epoch; nnU-Net calls this as the epoch starts."""
        for number, group in enumerate(self.optimizer.param_groups):
            group["lr"] = 0.0 if number == 0 and epoch < self.decoder_first else self.lr(epoch)


class nnUNetTrainerDiffAugScratch(nnUNetTrainer):
    """The from-scratch twin: the schedule of `nnUNetTrainerDiffAug`, random weights."""

    # nnU-Net rebuilds trainers from exactly these parameters, read from the signature.
    def __init__(
        self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device = CUDA
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        place = f"{self.plans_manager.plans_name}.json, configuration {configuration}, diffaug block"
        if nnUNet_preprocessed.is_set():
            place = str(Path(nnUNet_preprocessed) / self.plans_manager.dataset_name / place)
        self.settings = read_settings(self.configuration_manager.configuration.get("diffaug", {}), place)
        self.num_epochs = self.settings.epochs
        self.num_iterations_per_epoch = self.settings.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.settings.val_iterations_per_epoch
        self.initial_lr = self.settings.initial_lr
        # nnU-Net's 50 epochs would leave a short training without a checkpoint to go on from.
        self.save_every = max(1, min(50, self.num_epochs // 10))

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPolyLR]:
        """Keep nnU-Net's optimiser, unless the settings say otherwise; give it the schedule with warm-up."""
        optimizer, _ = super().configure_optimizers()
        settings = self.settings
        if settings.optimizer == "adamw":
            optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=1e-2)
        if settings.decoder_first:
            group = optimizer.param_groups[0]
            encoder = {id(parameter) for parameter in self.network.encoder.parameters()}
            rest = [parameter for parameter in group["params"] if id(parameter) not in encoder]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) in encoder]
            optimizer.add_param_group({**group, "params": rest})
        scheduler = WarmupPolyLR(
            optimizer, self.initial_lr, settings.warmup_epochs, self.num_epochs, settings.decoder_first
        )
        return optimizer, scheduler


class nnUNetTrainerDiffAug(nnUNetTrainerDiffAugScratch):
    """The stock training, started from an encoder file of `diffaug pretrain`.

    The file is read when a training starts, and only then: resuming, validating and predicting never need it.
    """

    resumed = False

    def load_checkpoint(self, checkpoint: str) -> None:
        """Load a checkpoint of this trainer, which makes the encoder file needless."""
        super().load_checkpoint(checkpoint)
        self.resumed = True

    def on_train_start(self) -> None:
        """Load the encoder into a fresh network, or say why not before any data worker has started."""
        if not self.resumed:
            if self.was_initialized:
                # Of nnU-Net's ways to get here only -pretrained_weights initialises without a checkpoint.
                raise DiffaugError(
                    f"-pretrained_weights: given together with -tr {type(self).__name__}, which loads the encoder file "
                    "itself, expected one of the two; leave the option out, or use -tr nnUNetTrainerDiffAugScratch"
                )
            if len(self.configuration_manager.patch_size) != 3 or self.is_cascaded:
                kind = "a cascade's second stage" if self.is_cascaded else "2D"
                raise DiffaugError(
                    f"-tr {type(self).__name__}: configuration {self.configuration_name} is {kind}, which diffaug does not "
                    "pretrain, expected a 3D one such as 3d_fullres; train it with -tr nnUNetTrainer"
                )
            # Every rank reads the file: DDP broadcasts weights only when it is built.
            path, mend = self._encoder_file()
            encoder = read_encoder(path, mend)
            self._refuse_leakage(encoder.path, encoder.provenance, "pretrain")
            self.initialize()
            report = load_encoder(
                self.network,
                encoder,
                configuration=self.configuration_manager.configuration,
                parts=self.settings.load,
            )
            self.print_to_log_file(f"diffaug: {report}; from {encoder.path} (sha256 {encoder.hash})")
            self.print_to_log_file(f"diffaug: provenance of the encoder: {encoder.summary()}")
        super().on_train_start()

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Mix volumes that a teacher has labelled into the training cases, where the settings ask for it."""
        training, validation = super().get_tr_and_val_datasets()
        if not self.settings.synthetic_share:
            return training, validation
        dataset, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
        folder = pseudo_labels_path(nnUNet_results, dataset, plans, self.configuration_name, self.fold)
        mixed = MixedCases(training, folder, self.settings.synthetic_share)
        self._refuse_leakage(folder, mixed.manifest, "label")
        self.print_to_log_file(
            f"diffaug: {len(mixed.volumes)} labelled volumes of {folder}, {mixed.share:.0%} of all draws"
        )
        return mixed, validation

    def _build_loss(self) -> torch.nn.Module:
        """Keep nnU-Net's loss; leave out voxels of which a teacher was not sure."""
        loss = super()._build_loss()
        if self.settings.synthetic_share:
            if self.label_manager.has_regions or self.label_manager.has_ignore_label:
                raise DiffaugError(
                    f"synthetic_share: {self.plans_manager.dataset_name} has regions or an ignore label, expected plain "
                    "labels; leave the setting out of the plan's diffaug block"
                )
            inner = loss.loss if self.enable_deep_supervision else loss
            inner.ignore_label = inner.ce.ignore_index = self.label_manager.num_segmentation_heads
        return loss

    def _encoder_file(self) -> tuple[Path, str]:
        """Tell where the encoder file should be, and how to make it."""
        dataset, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
        if self.settings.encoder_file is not None:
            path = Path(nnUNet_results) / Path(os.path.expandvars(self.settings.encoder_file)).expanduser()
            return path, "mend encoder_file in the plan's diffaug block, or leave it out for diffaug's own run folder"
        return encoder_path(
            nnUNet_results, dataset, plans, self.configuration_name
        ), f"run: {self._command('pretrain')}"

    def _command(self, verb: str) -> str:
        """Write diffaug's command for this training."""
        dataset, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
        return f"diffaug {verb} --task {dataset} --plans {plans} --configuration {self.configuration_name}"

    def _refuse_leakage(self, path: Path, provenance: Mapping[str, Any], verb: str) -> None:
        """Stop when an encoder or a labelled volume, made by a verb, comes from cases that will judge the model."""
        if self.fold == "all":
            self.print_to_log_file("diffaug: fold all holds no case back, so there is no leakage to check")
            return
        if not isinstance(provenance.get("case_ids"), (list, tuple)):  # an exported file tells their number alone
            self.print_to_log_file(f"diffaug: WARNING: {path} does not say which cases it has seen")
            return
        _, validation = self.do_split()
        seen = overlap(provenance, validation)
        if not seen:
            return
        found = (
            f"{path}: has seen {len(seen)} of the {len(validation)} validation cases of fold {self.fold} "
            f"({', '.join(seen[:3])}{' ...' if len(seen) > 3 else ''})"
        )
        if not self.settings.allow_leakage:
            # for all folds at once, or the next fold would be refused likewise; a generator that has seen them is, too
            mend = f"{self._command(verb)} --exclude labelled --fresh"
            if verb == "pretrain":
                mend += " (and before it fit, with the same options, where a generator has seen them)"
            else:
                mend += f" --fold {self.fold}"
            raise DiffaugError(
                f'{found}, expected none; run: {mend}, or set "allow_leakage": true in the plan\'s diffaug block'
            )
        self.print_to_log_file(f"\n{'!' * 80}\ndiffaug: WARNING: {found}: its validation score is too good\n{'!' * 80}")
