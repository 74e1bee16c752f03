"""Swin UNETR (arXiv 2201.01266), the network of the paper: MONAI's, built by a trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from diffaug.nnunet.families.family import TRANSFORMERS, Family, Keys, as_lists

CLASS = "monai.networks.nets.swin_unetr.SwinUNETR"
KWARGS = {"feature_size": 48, "depths": [2, 2, 2, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
# Forward and backward, one thread, a batch of 2 with 32 x 32 x 64 voxels: 0.57 s; with windows of 7, which patches as small
# as these are no multiple of, 2.1 s.
SWIN_ON_CPU = {"feature_size": 12, "window_size": 4}
STAGES = 4
PATCH_HALVINGS = STAGES + 1


class SwinUNETR(Family):
    """See `Family`; positions are relative, so that patches of any size share weights."""

    recipe = TRANSFORMERS  # arXiv 2201.01266 itself has AdamW with 1e-4 for a batch of 1, and 1e-5 of decay

    def build(
        self, architecture: Mapping[str, Any], channels: int, outputs: int, *, deep_supervision: bool
    ) -> nn.Module:
        """See `Family.build`."""
        from monai.networks.nets import SwinUNETR as Network  # two seconds that others need not wait for

        kwargs = architecture["arch_kwargs"]
        if {len(kwargs["depths"]), len(kwargs["num_heads"])} != {STAGES}:  # it would be found out in the first step
            raise ValueError(f"depths and num_heads must have {STAGES} entries each")
        return Network(in_channels=channels, out_channels=outputs, **kwargs)

    def keys(self, network: Any) -> Keys:
        """See `Family.keys`; the highest skip connection takes the image, too."""
        inputs = ("swinViT.patch_embed.proj", "encoder1.layer.conv1.conv", "encoder1.layer.conv3.conv")
        return Keys("swinViT", "swinViT.patch_embed", inputs)

    def part(self, tensor: str) -> str:
        """See `Family.part`; the convolutions on the skip connections count as decoder."""
        if tensor.startswith("swinViT."):
            return "stem" if tensor.startswith("swinViT.patch_embed.") else "encoder"
        return "head" if tensor.startswith("out.") else "decoder"

    def identity(self, kwargs: Mapping[str, Any], *, with_decoder: bool) -> dict[str, Any]:
        """See `Family.identity`."""
        return as_lists({key: kwargs.get(key, default) for key, default in KWARGS.items()})

    def step(self, kwargs: Mapping[str, Any]) -> list[int]:
        """See `Family.step`."""
        return [2**PATCH_HALVINGS] * 3

    def takes(self, patch: Sequence[int], kwargs: Mapping[str, Any]) -> bool:
        """See `Family.takes`; its deepest layer is normalised over a volume, which needs more than one voxel."""
        return super().takes(patch, kwargs) and math.prod(patch) > math.prod(self.step(kwargs))

    def token(self, kwargs: Mapping[str, Any]) -> tuple[int, ...]:
        """See `Family.token`."""
        return (2, 2, 2)

    def small(self, architecture: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.small`."""
        return {"diffaug": {"architecture": SWIN_ON_CPU, "initial_lr": 1e-3}}
