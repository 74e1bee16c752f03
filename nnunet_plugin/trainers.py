"""nnU-Net trainers: one that starts from diffaug's pretrained weights, and its twin that starts from random ones.

Network, loss, data, batch size and deep supervision are nnU-Net's own, and so is the optimiser unless the plans ask for
another. The twin has the same schedule, so that comparing the two tells what pretraining is worth and nothing else. For each
network that no plan describes (`diffaug.nnunet.families`) there is such a pair more, named after it:
`nnUNetTrainerDiffAugPrimusS` and `nnUNetTrainerDiffAugPrimusSScratch`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from diffaug.errors import DiffaugError
from diffaug.nnunet.families import ENCODER_PARTS, NETWORKS, PLAN, family_of, network_of, trainer_name
from diffaug.nnunet.networks import build_network
from diffaug.nnunet.plans import ConfigurationManager, PlansManager, differences, preprocessing_of
from diffaug.nnunet.restyling import Restyler
from diffaug.nnunet.weights.format import encoder_path, overlap, read_encoder, unwrapped
from diffaug.nnunet.weights.transfer import load_encoder
from diffaug.workspace import Workspace
from nnunet_plugin.schedule import WarmupPolyLR
from nnunet_plugin.settings import read_settings

CUDA = torch.device("cuda")


class nnUNetTrainerDiffAugScratch(nnUNetTrainer):
    """The from-scratch twin: the schedule of `nnUNetTrainerDiffAug`, random weights."""

    network_name = PLAN  # a key of NETWORKS

    # nnU-Net rebuilds trainers from exactly these parameters, read from the signature.
    def __init__(
        self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device = CUDA
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        place = f"{self.plans_manager.plans_name}.json, configuration {configuration}, diffaug block"
        if nnUNet_preprocessed.is_set():
            place = str(Path(nnUNet_preprocessed) / self.plans_manager.dataset_name / place)
        self.family = family_of(self.network_name)
        block = self.configuration_manager.configuration.get("diffaug", {})
        self.settings = read_settings(block, place, self.family.recipe)
        if self.network_name != PLAN or self.settings.architecture:  # what it cannot take is told first
            network_of(self.configuration_manager.configuration, self.network_name)
        self.enable_deep_supervision = self.family.deep_supervision
        self.num_epochs = self.settings.epochs
        self.num_iterations_per_epoch = self.settings.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.settings.val_iterations_per_epoch
        self.initial_lr = self.settings.initial_lr
        # nnU-Net's 50 epochs would leave a short training without a checkpoint to go on from.
        self.save_every = max(1, min(50, self.num_epochs // 10))

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPolyLR]:
        """Keep nnU-Net's optimiser, unless the settings say otherwise; give it the schedule with warm-up."""
        optimizer, _ = super().configure_optimizers()
        settings, recipe = self.settings, self.family.recipe
        if settings.optimizer == "adamw":
            parameters = self.network.parameters()
            optimizer = torch.optim.AdamW(
                parameters, self.initial_lr, recipe.betas, weight_decay=recipe.weight_decay, fused=True
            )
        if recipe.gradient_clip is not None:  # tighter than nnU-Net's own, which comes before
            optimizer.register_step_pre_hook(self._clip)
        if settings.decoder_first:
            group, part = optimizer.param_groups[0], self.family.part
            named = unwrapped(self.network).named_parameters()
            encoder = {id(parameter) for name, parameter in named if part(name) in ENCODER_PARTS}
            rest = [parameter for parameter in group["params"] if id(parameter) not in encoder]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) in encoder]
            optimizer.add_param_group({**group, "params": rest})
        scheduler = WarmupPolyLR(
            optimizer, self.initial_lr, settings.warmup_epochs, self.num_epochs, settings.decoder_first
        )
        return optimizer, scheduler

    def _clip(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.family.recipe.gradient_clip or math.inf)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch answers at lower resolutions on or off, where the network has them."""
        if self.family.deep_supervision:
            super().set_deep_supervision_enabled(enabled)


class nnUNetTrainerDiffAug(nnUNetTrainerDiffAugScratch):
    """The stock training, started from an encoder file of `diffaug pretrain`.

    The file is read when a training starts, and only then: validating and predicting never need it, resuming only where
    volumes are restyled.
    """

    resumed = False
    restyler: Restyler | None = None

    def load_checkpoint(self, checkpoint: str) -> None:
        """Load a checkpoint of this trainer, which makes the encoder file needless."""
        super().load_checkpoint(checkpoint)
        self.resumed = True

    def on_train_start(self) -> None:
        """Load the encoder into a fresh network, or say why not before any data worker has started."""
        encoder = None
        if not self.resumed:
            if self.was_initialized:
                # Of nnU-Net's ways to get here only -pretrained_weights initialises without a checkpoint.
                raise DiffaugError(
                    f"-pretrained_weights: given together with -tr {type(self).__name__}, which loads the encoder file "
                    "itself, expected one of the two; leave the option out, or use -tr "
                    f"{trainer_name(self.network_name, scratch=True)}"
                )
            if len(self.configuration_manager.patch_size) != 3 or self.is_cascaded:
                kind = "a cascade's second stage" if self.is_cascaded else "2D"
                # nnU-Net looks for the first stage's masks under the second one's trainer
                fix = "train it, and the stage before it, with" if self.is_cascaded else "train it with"
                raise DiffaugError(
                    f"-tr {type(self).__name__}: configuration {self.configuration_name} is {kind}, which diffaug does not "
                    f"pretrain, expected a 3D one such as 3d_fullres; {fix} -tr nnUNetTrainer"
                )
            # Every rank reads the file: DDP broadcasts weights only when it is built.
            path, fix = self._encoder_file()
            encoder = read_encoder(path, fix)
            anew = "--exclude labelled --fresh"
            fix = f"{self._command('pretrain')} {anew} (before it, where a generator has seen them: "
            self.refuse_leakage(encoder.path, encoder.provenance, f"{fix}{self._command('fit')} {anew})")
            self.initialize()
            report = load_encoder(
                self.network,
                encoder,
                configuration=self.configuration_manager.configuration,
                parts=self.settings.load,
                kind=self.network_name,
            )
            self.print_to_log_file(f"diffaug: {report}; from {encoder.path} (sha256 {encoder.hash})")
            now = preprocessing_of(self.plans_manager, self.configuration_manager)
            for text in differences(encoder.provenance.get("preprocessing", {}), now, "the preprocessing"):
                self.print_to_log_file(
                    f"diffaug: WARNING: {text}: the encoder was pretrained on images that look otherwise"
                )
            self.print_to_log_file(f"diffaug: provenance of the encoder: {encoder.summary()}")
        if self.settings.restyle:
            self.restyler = Restyler.read(
                encoder or read_encoder(*self._encoder_file()),
                self.configuration_manager.configuration,
                self.network_name,
                self.settings.restyle,
                self.device,
            )
            self.print_to_log_file(f"diffaug: {self.settings.restyle:.0%} of the training patches are restyled")
        super().on_train_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Take nnU-Net's step, on restyled volumes where the settings ask for some."""
        if self.restyler is not None:
            batch = {**batch, "data": self.restyler(batch["data"].to(self.device, non_blocking=True))}
        return super().train_step(batch)

    def _encoder_file(self) -> tuple[Path, str]:
        """Tell where the encoder file should be, and how to make it."""
        dataset, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
        if self.settings.encoder_file is not None:
            path = Path(nnUNet_results) / Path(os.path.expandvars(self.settings.encoder_file)).expanduser()
            return path, "fix encoder_file in the plan's diffaug block, or leave it out for diffaug's own run folder"
        path = encoder_path(nnUNet_results, dataset, plans, self.configuration_name, self.network_name)
        return path, f"run: {self._command('pretrain')}"

    def _command(self, verb: str) -> str:
        """Write diffaug's command for this training."""
        dataset, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
        return Workspace(dataset, plans, self.configuration_name, self.network_name).command(verb)

    def refuse_leakage(self, path: Path, provenance: Mapping[str, Any], fix: str) -> None:
        """Stop when what this training starts from comes from cases that will judge the model.

        Args:
            path: The file.
            provenance: What it says about itself.
            fix: How to make it without those cases, for all folds at once, or the next fold would be refused likewise.

        Raises:
            DiffaugError: If it has seen a validation case of the fold, and the settings do not allow that.
        """
        if self.fold == "all":
            self.print_to_log_file("diffaug: fold all holds no case back, so there is no leakage to check")
            return
        if not isinstance(provenance.get("case_ids"), (list, tuple)):  # an exported file tells their number alone
            self.print_to_log_file(f"diffaug: WARNING: {path} does not say which cases it has seen")
            return
        for origin in provenance.get("origins", ()):
            self.print_to_log_file(
                f"diffaug: WARNING: {path} comes from a generator of {origin}: whether it has seen cases of this fold, its "
                "sender alone can tell"
            )
        _, validation = self.do_split()
        seen = overlap(provenance, validation)
        if not seen:
            return
        found = (
            f"{path}: has seen {len(seen)} of the {len(validation)} validation cases of fold {self.fold} "
            f"({', '.join(seen[:3])}{' ...' if len(seen) > 3 else ''})"
        )
        if not self.settings.allow_leakage:
            raise DiffaugError(
                f'{found}, expected none; run: {fix}, or set "allow_leakage": true in the plan\'s diffaug block'
            )
        self.print_to_log_file(f"\n{'!' * 80}\ndiffaug: WARNING: {found}: its validation score is too good\n{'!' * 80}")


def _bring(base: type[nnUNetTrainerDiffAugScratch], network: str, name: str) -> type[nnUNetTrainerDiffAugScratch]:
    """Make the trainer of a network that no plan describes."""

    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> torch.nn.Module:
        return build_network(configuration_manager, num_input_channels, num_output_channels, network=network)

    body = {
        "__doc__": f"`{base.__name__}` for the network {network}.",
        "__module__": __name__,  # so that it can be pickled
        "network_name": network,
        "build_network_architecture": staticmethod(build_network_architecture),
    }
    return type(name, (base,), body)


TRAINERS = {base.__name__: base for base in (nnUNetTrainerDiffAug, nnUNetTrainerDiffAugScratch)}
for _network in NETWORKS:
    if _network != PLAN:
        for _base, _scratch in ((nnUNetTrainerDiffAug, False), (nnUNetTrainerDiffAugScratch, True)):
            _name = trainer_name(_network, scratch=_scratch)
            TRAINERS[_name] = _bring(_base, _network, _name)
globals().update(TRAINERS)
