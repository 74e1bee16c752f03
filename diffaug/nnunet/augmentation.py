"""nnU-Net's spatial augmentation, as pretraining uses it: fine-tuning then brings nothing unheard of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from torch import Tensor


class SpatialAugmentation:
    """Rotates, scales and mirrors patches as nnU-Net does in training: flat patches slice by slice, within the plane.

    Attributes:
        region: Voxels (Z, Y, X) of what it reads for a patch, which is in the middle of them.
    """

    region: tuple[int, ...]

    def __init__(self, patch_size: Sequence[int]) -> None:
        """Prepare.

        Args:
            patch_size: Voxels (Z, Y, X) of what comes out.
        """
        # across thick slices a rotation in voxels would shear anatomy, and look for it beyond the patch
        flat = max(patch_size) / patch_size[0] > ANISO_THRESHOLD
        angle = np.pi if flat else np.pi / 6
        rotation = (-angle, angle)
        region = [int(n) for n in get_patch_size(list(patch_size), rotation, rotation, rotation, (0.85, 1.25))]
        self.region = (patch_size[0], *region[1:]) if flat else tuple(region)
        spatial = SpatialTransform(
            tuple(patch_size[1:] if flat else patch_size),
            patch_center_dist_from_border=0,
            random_crop=False,
            p_elastic_deform=0,
            p_rotation=0.2,
            rotation=rotation,
            p_scaling=0.2,
            scaling=(0.7, 1.4),
            p_synchronize_scaling_across_axes=1,
        )
        turned = [Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform()] if flat else [spatial]
        self._augment = ComposeTransforms([*turned, MirrorTransform(allowed_axes=(0, 1, 2))])

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Augment a patch.

        Args:
            image: `(C, *region)`.
            seed: Of all that is random.

        Returns:
            `(C, *patch_size)`.
        """
        np.random.seed(seed)  # noqa: NPY002 (batchgeneratorsv2 draws from the global generators)
        torch.manual_seed(seed)
        return self._augment(image=image)["image"].contiguous()  # type: ignore[no-any-return]
