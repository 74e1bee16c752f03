"""nnU-Net's spatial augmentation, as pretraining uses it: fine-tuning then brings nothing unheard of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from torch import Tensor


def spatial_augmentation(patch_size: Sequence[int]) -> Callable[[Tensor, int], Tensor]:
    """Rotate, scale and mirror as nnU-Net does in training.

    Args:
        patch_size: Voxels (Z, Y, X) of what comes out.

    Returns:
        A function of an image `(C, Z, Y, X)`, larger than the patch, and a seed; it gives `(C, *patch_size)`.
    """
    spatial = SpatialTransform(
        tuple(patch_size),
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=0,
        p_rotation=0.2,
        rotation=(-np.pi / 6, np.pi / 6),
        p_scaling=0.2,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
    )
    augment = ComposeTransforms([spatial, MirrorTransform(allowed_axes=(0, 1, 2))])

    def augmented(image: Tensor, seed: int) -> Tensor:
        np.random.seed(seed)  # noqa: NPY002 (batchgeneratorsv2 draws from the global generators)
        torch.manual_seed(seed)
        return augment(image=image)["image"].contiguous()

    return augmented
