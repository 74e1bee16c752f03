"""Pretraining turns patches as nnU-Net turns them in training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from diffaug.nnunet.augmentation import SpatialAugmentation

SPATIAL = (Convert3DTo2DTransform, SpatialTransform, Convert2DTo3DTransform, MirrorTransform)
FLAT = (4, 24, 20)


@pytest.mark.parametrize("patch", [(16, 16, 16), FLAT, (8, 12, 24)])
def test_patches_are_turned_as_nnunet_turns_them(patch):
    asked = SimpleNamespace(
        configuration_manager=SimpleNamespace(patch_size=list(patch)), print_to_log_file=lambda *text: None
    )
    rotation, flat, region, mirrored = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(asked)
    theirs = nnUNetTrainer.get_training_transforms(list(patch), rotation, None, mirrored, flat)
    spatial = ComposeTransforms([one for one in theirs.transforms if isinstance(one, SPATIAL)])
    ours = SpatialAugmentation(patch)
    assert tuple(region) == ours.region
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *ours.region)).astype(np.float32))
    turned = 0
    for seed in range(20):
        made = ours(image, seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        assert torch.equal(made, spatial(image=image)["image"])
        start = [(read - kept) // 2 for read, kept in zip(ours.region, patch, strict=True)]
        z, y, x = (slice(low, low + kept) for low, kept in zip(start, patch, strict=True))
        middle = image[:, z, y, x]
        turned += not any(
            torch.equal(made.flip(axes), middle) for axes in ((), 1, 2, 3, (1, 2), (1, 3), (2, 3), (1, 2, 3))
        )
    assert turned >= 4, "rotated or scaled, not only mirrored"


def test_slices_of_a_flat_patch_are_not_mixed():
    augmentation = SpatialAugmentation(FLAT)
    image = torch.arange(1.0, FLAT[0] + 1)[None, :, None, None].expand(1, *augmentation.region)
    for seed in range(30):
        highest = augmentation(image, seed).amax((0, 2, 3)).tolist()
        assert sorted(highest) == pytest.approx([1, 2, 3, 4], abs=1e-4)
        assert highest in (sorted(highest), sorted(highest, reverse=True))
