"""The student's trainer, and the labelled cases and volumes of a teacher that it mixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.paths import nnUNet_results

from diffaug.errors import DiffaugError
from diffaug.files import atomic_path, read_json
from diffaug.nnunet.weights.format import encoder_path
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


FINE = 10  # repetitions of the rarer kind, at most: shares come out right within a hundredth or two


PLACES = 2000  # voxels of each label that are remembered, for nnU-Net's oversampling of foreground


def pseudo_labels_path(results: str | PathLike[str], dataset: str, plans: str, configuration: str, fold: Any) -> Path:
    """Tell where `label` leaves the volumes of a fold and the trainer looks for them.

    Args:
        results: The folder `nnUNet_results`.
        dataset: Folder name of the dataset, `DatasetXXX_Name`.
        plans: Name of nnU-Net's plans.
        configuration: Name of nnU-Net's configuration.
        fold: nnU-Net's fold.

    Returns:
        The folder, which may not exist yet.
    """
    run = encoder_path(results, dataset, plans, configuration).parent.parent
    return run / "labelled" / f"fold_{fold}"


def save_labelled(folder: Path, name: str, image: np.ndarray, labels: np.ndarray, foreground: Sequence[int]) -> None:
    """Write one volume and its labels, atomically.

    Args:
        folder: Where to.
        name: Of the volume.
        image: In the network's space, `(C, Z, Y, X)`.
        labels: `(Z, Y, X)`, with one value more than the labels have where the teacher was unsure.
        foreground: Values whose places are remembered.
    """
    rng = np.random.default_rng(0)
    places: dict[str, np.ndarray] = {}
    for value in foreground:
        found = np.argwhere(labels == value)
        chosen = rng.choice(len(found), min(PLACES, len(found)), replace=False)
        places[str(value)] = np.pad(found[chosen], ((0, 0), (1, 0)))  # nnU-Net counts a channel axis, too
    # the image last: a volume counts as written when its image is there
    for ending, values in (("_places.npz", places), ("_seg.npy", labels[None].astype(np.int16)), (".npy", image)):
        with atomic_path(folder / f"{name}{ending}") as temporary, temporary.open("wb") as file:
            if isinstance(values, dict):
                np.savez(file, **values)  # type: ignore[arg-type]
            else:
                np.save(file, values.astype(np.float16) if ending == ".npy" else values)


class MixedCases:
    """nnU-Net's labelled cases and a teacher's volumes, as one dataset of nnU-Net's loader.

    The loader draws identifiers evenly, so those of one kind are repeated until the share is right.
    """

    def __init__(self, labelled: Any, folder: Path, share: float) -> None:
        """Mix.

        Args:
            labelled: nnU-Net's dataset of the fold's training cases.
            folder: The teacher's volumes.
            share: Of all draws that are the teacher's, between 0 and 1.

        Raises:
            DiffaugError: If the folder is not finished.
        """
        number = folder.name.removeprefix("fold_")
        self.manifest = read_json(folder / "manifest.json", f"have a teacher label volumes for fold {number}")
        self.labelled = labelled
        self.folder = folder
        if not self.manifest["finished"]:
            raise DiffaugError(f"{folder}: not finished, expected labelled volumes; label again, it goes on")
        names = list(self.manifest["volumes"])
        wanted = share / (1 - share) * len(labelled.identifiers) / len(names)  # draws of one of them per labelled case
        self.volumes = set(names)
        often = (
            1 / Fraction(1 / wanted).limit_denominator(FINE) if wanted < 1 else Fraction(wanted).limit_denominator(FINE)
        )
        made = names * often.numerator
        self.identifiers = list(labelled.identifiers) * often.denominator + made
        self.share = len(made) / len(self.identifiers)

    def load_case(self, identifier: str) -> tuple[Any, Any, None, Mapping[str, Any]]:
        """Give a case as nnU-Net's own datasets do.

        Args:
            identifier: One of `identifiers`.

        Returns:
            Image `(C, Z, Y, X)`, labels `(1, Z, Y, X)`, no labels of an earlier stage, properties.
        """
        if identifier not in self.volumes:
            return self.labelled.load_case(identifier)
        image = np.load(self.folder / f"{identifier}.npy", mmap_mode="r")
        labels = np.load(self.folder / f"{identifier}_seg.npy", mmap_mode="r")
        with np.load(self.folder / f"{identifier}_places.npz") as stored:
            places = {int(value): stored[value] for value in stored.files}
        return image, labels, None, {"class_locations": places}
