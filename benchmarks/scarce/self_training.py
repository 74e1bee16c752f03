"""Self-training: a network that few labels have taught labels the pool, and a second one learns from both.

The first is the cell `scratch` of the same draw; its labels are taken as they are. The second has other random weights (the
same seed, another order of cases), as many steps, and in half of its draws a volume of the pool. Both together are as long
as `scratch-long::STEPS`, STEPS being those of a training.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from benchmarks.scarce.data import DataSet, drawn_from
from diffaug.nnunet.predictor import make_predictor
from diffaug.scans.dataset import RawDataset, open_dataset

POOLED = "pooled_"  # how names of labelled volumes of the pool begin


def unlabelled(data: DataSet, pool: str, folder: Path, labelled: Sequence[str]) -> RawDataset:
    """List the volumes that are labelled by a network.

    Args:
        data: The data set.
        pool: `own`, `real` or `synthetic`.
        folder: Where they lie.
        labelled: Ids of the cases whose true labels are known.

    Returns:
        Of `own` those cases that might have been drawn and were not; of the others all.
    """
    everything = open_dataset(folder)
    if pool != "own":
        return everything
    wanted = set(drawn_from(data)) - set(labelled)
    return open_dataset(folder, exclude={case.id for case in everything.cases} - wanted)


def label(teacher: nnUNetTrainer, volumes: RawDataset, folder: Path) -> list[str]:
    """Label volumes and preprocess them as nnU-Net preprocesses labelled cases.

    Args:
        teacher: After its training.
        volumes: What is labelled.
        folder: Where the cases go; emptied first.

    Returns:
        Their names.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plans, configuration, dataset_json = teacher.plans_manager, teacher.configuration_manager, teacher.dataset_json
    teacher.set_deep_supervision_enabled(False)
    teacher.network.eval()
    predictor = make_predictor(teacher.network, plans, configuration, dataset_json, device=teacher.device)
    preprocessor, reader = configuration.preprocessor_class(verbose=False), volumes.reader()
    names = []
    for number, case in enumerate(volumes.cases):
        image, properties = reader.read_images([str(file) for file in case.files])
        labels = predictor.predict_single_npy_array(image.copy(), dict(properties))[None].astype(np.int16)
        made = preprocessor.run_case_npy(image, labels, dict(properties), plans, configuration, dataset_json)
        voxels, segmentation = made[0].astype(np.float32), made[1].astype(np.int16)
        (blocks, chunks), (blocks_seg, chunks_seg) = (
            comp_blosc2_params(each.shape, tuple(configuration.patch_size), each.itemsize)
            for each in (voxels, segmentation)
        )
        names.append(f"{POOLED}{number:05d}")
        nnUNetDatasetBlosc2.save_case(
            voxels,
            segmentation,
            made[2],
            str(folder / names[-1]),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=chunks_seg,
            blocks_seg=blocks_seg,
        )
    return names


class MixedCases:
    """Labelled cases and labelled volumes of the pool as one dataset of nnU-Net's loader, which draws identifiers evenly.

    Attributes:
        identifiers: Of the cases as often as of the volumes, as nearly as whole repetitions allow.
    """

    identifiers: list[str]

    def __init__(self, labelled: nnUNetDatasetBlosc2, pooled: nnUNetDatasetBlosc2) -> None:
        """Mix them."""
        self._labelled, self._pooled = labelled, pooled
        few, many = len(labelled.identifiers), len(pooled.identifiers)
        self.identifiers = [
            *labelled.identifiers * max(1, round(many / few)),
            *pooled.identifiers * max(1, round(few / many)),
        ]

    def load_case(self, identifier: str) -> tuple[Any, ...]:
        """Give a case as nnU-Net's own datasets do."""
        part = self._pooled if identifier.startswith(POOLED) else self._labelled
        return part.load_case(identifier)  # type: ignore[no-any-return]

    __getitem__ = load_case


def with_pool(kind: type[nnUNetTrainer], folder: Path) -> type[nnUNetTrainer]:
    """Make the trainer that takes half of what it draws from labelled volumes of the pool.

    Args:
        kind: The trainer that it is otherwise.
        folder: What `label` wrote.

    Returns:
        Its class.
    """

    def get_tr_and_val_datasets(self: Any) -> tuple[Any, Any]:
        training, validation = kind.get_tr_and_val_datasets(self)
        return MixedCases(training, nnUNetDatasetBlosc2(str(folder))), validation

    content = {"__module__": __name__, "get_tr_and_val_datasets": get_tr_and_val_datasets}
    return type(f"{kind.__name__}Pool", (kind,), content)
