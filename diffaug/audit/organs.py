"""Is the anatomy plausible? What a trained nnU-Net sees in synthetic volumes, beside what it sees in real ones."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area
from tqdm import tqdm

from diffaug.audit.figures import Compared, compare_sets, spread_distances, standardised
from diffaug.errors import DiffaugError
from diffaug.nnunet.predictor import load_predictor

CHECKPOINT = "checkpoint_final.pth"
QUANTITIES = ("volume_ml", "components", "largest_share", "elongation", "sphericity")


def measure_organs(
    model: Path, images: Sequence[list[Path]], device: torch.device
) -> list[dict[str, dict[str, float]]]:
    """Segment images with a trained nnU-Net, in this process, and measure each label.

    Mirroring at test time is left out: it costs eightfold, and what counts is that both sets are treated alike.

    Args:
        model: Folder of the trained model, such as `nnUNetTrainer__nnUNetPlans__3d_fullres`. nnU-Net unpickles its
            checkpoints, so it must come from someone you trust.
        images: Files of each image, one per channel in the model's order.
        device: Where to compute.

    Returns:
        For each image and label (region, where the model has regions) what `measure_labels` gives.

    Raises:
        DiffaugError: If the folder is no finished model, needs another model before it, or has other channels.
    """
    predictor = _load(model, device)
    channels = len(predictor.dataset_json["channel_names"])
    reader = predictor.plans_manager.image_reader_writer_class()
    measured = []
    for files in tqdm(images, "measuring organs", unit="volume", ascii=True):
        if len(files) != channels:
            raise DiffaugError(
                f"{model}: expects {channels} channels ({', '.join(predictor.dataset_json['channel_names'].values())}), "
                f"found {len(files)} files for {files[0] if files else 'an image'}; give a model of this dataset"
            )
        voxels, properties = reader.read_images([str(file) for file in files])
        segmentation = predictor.predict_single_npy_array(voxels, properties)
        measured.append(measure_labels(segmentation, predictor.dataset_json["labels"], properties["spacing"]))
    return measured


def measure_labels(
    segmentation: np.ndarray, labels: Mapping[str, int | Sequence[int]], spacing: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Measure each label of a label map.

    Args:
        segmentation: `(Z, Y, X)`.
        labels: Value or, for a region, values of each name; `background` and `ignore` are left out.
        spacing: In mm (Z, Y, X).

    Returns:
        By label: `volume_ml`; `components`, their number, voxels that touch in a corner belonging together;
        `largest_share`, of the volume; and of the largest component `elongation` (longest over shortest axis of inertia,
        1 for a ball or cube) and `sphericity` (surface of the ball of equal volume over its own, Wadell 1935). All 0 where
        the label is absent, which no present label has.
    """
    return {
        name: _measure(np.isin(segmentation, value), spacing)
        for name, value in labels.items()
        if name not in ("background", "ignore")
    }


def organ_distances(
    real: Sequence[Mapping[str, Mapping[str, float]]],
    synthetic: Sequence[Mapping[str, Mapping[str, float]]],
    seed: int,
    owners: Sequence[str] | None = None,
) -> dict[str, Compared]:
    """Compare how each quantity of each label is distributed in two sets.

    Args:
        real: What `measure_organs` gives for real images.
        synthetic: For synthetic images, by the same model.
        seed: Of everything drawn.
        owners: Whose each real image is; None: no two are of one patient.

    Returns:
        By `label quantity` the Wasserstein-1 distance in standard deviations of the real set (in the quantity's own unit
        where it is the same in all real images); empty where a set has fewer than four images.
    """
    images = [*real, *synthetic]
    names = {f"{label} {quantity}": (label, quantity) for label in images[0] for quantity in QUANTITIES}
    values = np.array([[image[label][quantity] for label, quantity in names.values()] for image in images])
    values = standardised(values, len(real))

    def measure(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
        return dict(zip(names, spread_distances(values, a, b), strict=True))

    return compare_sets(measure, len(real), len(synthetic), seed=seed, owners=owners)


def _load(model: Path, device: torch.device) -> Any:
    """Load every fold that was trained to its end."""
    missing = [name for name in ("dataset.json", "plans.json") if not (model / name).is_file()]
    folds = sorted(file.parent.name.removeprefix("fold_") for file in model.glob(f"fold_*/{CHECKPOINT}"))
    if missing or not folds:
        found = f"no {' and no '.join(missing)}" if missing else f"no fold_*/{CHECKPOINT}"
        raise DiffaugError(
            f"{model}: found {found}, expected the folder of a trained nnU-Net model "
            "($nnUNet_results/DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION); train it with nnUNetv2_train, or give another"
        )
    try:
        predictor = load_predictor(model, [f for f in folds if f != "all"] or ["all"], device)
    except (OSError, EOFError, RuntimeError, KeyError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DiffaugError(
            f"{model}: cannot be loaded ({type(error).__name__}: {reason}), expected a trained nnU-Net model; if its trainer "
            'is diffaug\'s, run: export nnUNet_extTrainer="$(diffaug trainer-path)"'
        ) from error
    stage = predictor.configuration_manager.previous_stage_name
    if stage is not None:
        raise DiffaugError(
            f"{model}: a cascade needs the model {stage} first, expected a model that stands alone; give that"
        )
    return predictor


def _measure(mask: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if not count:
        return dict.fromkeys(QUANTITIES, 0.0)
    sizes = np.bincount(parts.ravel())[1:]
    largest = int(sizes.argmax()) + 1
    shape = np.pad(parts[ndimage.find_objects(parts)[largest - 1]] == largest, 1)
    voxel = float(np.prod(spacing))  # mm^3
    # a voxel is a box, not a point: its own inertia makes the axes of boxes exact, and a lone voxel's none of them zero
    positions = np.argwhere(shape) * spacing
    inertia = np.atleast_2d(np.cov(positions.T, bias=True)) + np.diag(np.square(spacing) / 12)
    axes = np.sqrt(np.linalg.eigvalsh(inertia))
    vertices, faces, _, _ = marching_cubes(shape.astype(np.float32), 0.5, spacing=tuple(spacing))
    ball = np.pi ** (1 / 3) * (6 * voxel * sizes[largest - 1]) ** (2 / 3)  # mm^2
    values = (
        voxel * sizes.sum() / 1000,
        count,
        sizes[largest - 1] / sizes.sum(),
        axes[-1] / axes[0],
        ball / mesh_surface_area(vertices, faces),
    )
    return {name: float(value) for name, value in zip(QUANTITIES, values, strict=True)}
