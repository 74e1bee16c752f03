"""Images brought into the network's space, each exactly as nnU-Net preprocesses the dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from diffaug.errors import DiffaugError
from diffaug.nnunet.dataset_json import channels_and_ending
from diffaug.nnunet.plans import ConfigurationManager, PlansManager
from diffaug.nnunet.readers import nonzero_box, nonzero_mask
from diffaug.pretraining.sources import ScanStatistics, Source, require_channels, require_teacher
from diffaug.pretraining.teacher import FITTED, Teacher
from diffaug.scans.cache import VolumeCache

UNSCALED = ("NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization")  # of nnU-Net's schemes


def preprocess(
    source: Source,
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    folder: Path,
    teacher: Callable[[], Teacher] | None = None,
) -> tuple[VolumeCache, list[str]]:
    """Bring all images of a source into the network's space, once.

    Args:
        source: The images.
        plans: nnU-Net's plans.
        configuration: nnU-Net's configuration.
        dataset_json: The task's `dataset.json`.
        folder: Where the cache goes.
        teacher: Gives the one whose features follow the image's own channels; asked only where a volume is missing.

    Returns:
        The cache and the ids in it.

    Raises:
        DiffaugError: If the images have another number of channels than the task.
    """
    require_channels(source, channels_and_ending(dataset_json)[0])
    for inventory in source.dataset.inventories if source.generator is None else ():
        print(f"images: {inventory.text}", flush=True)
    cache = VolumeCache(folder)
    cases = {case.id: case for case in source.dataset.cases}
    preprocessor = configuration.preprocessor_class(verbose=False)

    def make(case: str) -> np.ndarray:
        scan = source.dataset.read(cases[case])
        voxels, used = scan.voxels.copy(), configuration
        if source.statistics is not None:
            voxels, used = _as_part_of_a_scan(voxels, source.statistics, configuration)
        properties = {"spacing": list(scan.geometry.spacing)}
        try:
            data, _, properties = preprocessor.run_case_npy(voxels, None, properties, plans, used, dataset_json)
        except (LookupError, TypeError) as error:  # of settings that nnU-Net looks at no sooner
            raise DiffaugError(
                f"{cases[case].files[0]}: cannot be preprocessed as nnU-Net's plans say ({type(error).__name__} {error}), "
                "expected settings that nnU-Net wrote; make the plans anew with nnUNetv2_plan_experiment"
            ) from error
        image = data if source.statistics else _standardised(data, configuration.normalization_schemes)
        if teacher is None:
            return image
        return np.concatenate([image, _in_place(teacher().features(scan), data.shape[1:], properties)])

    def _in_place(features: np.ndarray, shape: Sequence[int], properties: dict[str, Any]) -> np.ndarray:
        """Bring features to where nnU-Net's preprocessor has brought the image's voxels."""
        turned = features.transpose(0, *(axis + 1 for axis in plans.transpose_forward))
        z, y, x = (slice(low, high) for low, high in properties["bbox_used_for_cropping"])
        inside = torch.from_numpy(np.ascontiguousarray(turned[:, z, y, x]))
        # linear, so that shares of clusters stay between 0 and 1
        return F.interpolate(inside[None], tuple(shape), mode="trilinear")[0].numpy()

    cache.fill(tqdm(cases, f"preprocessing {Path(source.name).name}", unit="scan", ascii=True), make)
    return cache, sorted(cases)


def find_teacher(source: Source, device: torch.device) -> Teacher:
    """Make a teacher of the generator that made a source's images.

    Args:
        source: Synthetic images.
        device: Where it computes.

    Returns:
        The teacher.

    Raises:
        DiffaugError: If the images are no generator's.
    """
    generator, cases = require_teacher(source), source.dataset.cases
    return Teacher.fit(generator, [source.dataset.read(case) for case in cases[:FITTED]], device)


def _standardised(data: np.ndarray, schemes: Sequence[str]) -> np.ndarray:
    """Z-score what nnU-Net leaves in its own units: no pretext learns from losses of 1e5."""
    for channel, scheme in enumerate(schemes):
        if scheme in UNSCALED:
            values = data[channel].astype(np.float64)
            data[channel] = (values - values.mean()) / max(values.std(), 1e-8)
    return data


def _as_part_of_a_scan(
    voxels: np.ndarray, statistics: ScanStatistics, configuration: ConfigurationManager
) -> tuple[np.ndarray, ConfigurationManager]:
    """Z-score a window by its scan's statistics: by its own, a window of air would come out as loud noise.

    Give the window, and the configuration by which nnU-Net leaves it so. CT has fixed statistics in any case.
    """
    schemes, mask = list(configuration.normalization_schemes), nonzero_mask(voxels)
    box = np.zeros_like(mask)
    box[nonzero_box(mask)] = True  # nnU-Net cuts off what is zero round it
    for channel, (scheme, masked) in enumerate(zip(schemes, configuration.use_mask_for_norm, strict=True)):
        if scheme == "CTNormalization":
            continue
        mean, std = statistics.of_channel(channel, masked=masked)
        scaled = (voxels[channel] - mean) / max(std, 1e-8)
        voxels[channel] = np.where(mask if masked else box, scaled, 0)
        schemes[channel] = "NoNormalization"
    return voxels, ConfigurationManager({**configuration.configuration, "normalization_schemes": schemes})
