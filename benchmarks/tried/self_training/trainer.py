"""The student's trainer: labelled cases and volumes that a teacher has labelled, mixed."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.paths import nnUNet_results

from benchmarks.tried.self_training.mixed_cases import MixedCases, pseudo_labels_path
from diffaug.errors import DiffaugError
from nnunet_plugin.trainers import nnUNetTrainerDiffAug


class nnUNetTrainerSelfTraining(nnUNetTrainerDiffAug):
    """`nnUNetTrainerDiffAug`, and in half of the draws a volume in place of a case."""

    share = 0.5

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Mix volumes that a teacher has labelled into the training cases."""
        training, validation = super().get_tr_and_val_datasets()
        dataset, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
        folder = pseudo_labels_path(nnUNet_results, dataset, plans, self.configuration_name, self.fold)
        mixed = MixedCases(training, folder, self.share)
        self.refuse_leakage(folder, mixed.manifest, "the labelling without them")
        self.print_to_log_file(
            f"diffaug: {len(mixed.volumes)} labelled volumes of {folder}, {mixed.share:.0%} of all draws"
        )
        return mixed, validation

    def _build_loss(self) -> torch.nn.Module:
        """Keep nnU-Net's loss; leave out voxels of which a teacher was not sure."""
        loss = super()._build_loss()
        if self.label_manager.has_regions or self.label_manager.has_ignore_label:
            raise DiffaugError(
                f"self-training: {self.plans_manager.dataset_name} has regions or an ignore label, expected plain labels"
            )
        inner = loss.loss if self.enable_deep_supervision else loss
        inner.ignore_label = inner.ce.ignore_index = self.label_manager.num_segmentation_heads
        return loss
