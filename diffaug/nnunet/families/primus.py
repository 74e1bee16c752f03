"""Primus, a plain vision transformer for 3D scans (arXiv 2503.01835): built by a trainer, as in nnU-Net 2.8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from diffaug.nnunet.families.family import TRANSFORMERS, Family, Keys, as_lists

CLASSES = {
    "Primus": "dynamic_network_architectures.architectures.primus.Primus",
    "PrimusV3": "dynamic_network_architectures.architectures.primus.PrimusV3",
}
COMMON = {"patch_embed_size": [8, 8, 8], "drop_path_rate": 0.2, "scale_attn_inner": True, "init_values": 0.1}
SIZES = {
    "S": {"embed_dim": 396, "eva_depth": 12, "eva_numheads": 6},
    "B": {"embed_dim": 792, "eva_depth": 12, "eva_numheads": 12},
    "M": {"embed_dim": 864, "eva_depth": 16, "eva_numheads": 12},
    "L": {"embed_dim": 1056, "eva_depth": 24, "eva_numheads": 16},
}
V3 = {"depth_per_level": [1, 1, 1], "ch_per_level": [32, 64, 256, 1024]}
SAME = ("embed_dim", "patch_embed_size", "eva_depth", "eva_numheads", "depth_per_level", "ch_per_level")
# Forward and backward, one thread, a batch of 2 with 24 x 32 x 48 voxels: 0.22 s, with the deeper stem of V3 0.32 s.
PRIMUS_ON_CPU = {"embed_dim": 96, "eva_depth": 6, "eva_numheads": 4, "patch_embed_size": [4, 4, 4]}
CPU_V3 = {"depth_per_level": [1, 1], "ch_per_level": [16, 32, 64]}


class Primus(Family):
    """See `Family`; its decoder's widths follow the number of outputs, so that no part of it can be carried over."""

    recipe = TRANSFORMERS
    known = {f"Primus{size}": ("Primus", {**COMMON, **kwargs}) for size, kwargs in SIZES.items()}

    def build(
        self, architecture: Mapping[str, Any], channels: int, outputs: int, *, deep_supervision: bool
    ) -> nn.Module:
        """See `Family.build`."""
        kwargs = architecture["arch_kwargs"]
        levels = len(kwargs.get("depth_per_level", ()))
        if levels and set(kwargs["patch_embed_size"]) != {2**levels}:  # it would be found out in the first step
            raise ValueError(f"depth_per_level has {levels} levels, which halve to tokens of {2**levels} voxels")
        return get_network_from_plans(architecture["network_class_name"], kwargs, [], channels, outputs)

    def keys(self, network: Any) -> Keys:
        """See `Family.keys`; the deeper stem of V3 takes the image along its first shortcut, too."""
        inputs = tuple(network.keys_to_in_proj)
        skips = [name for name, _ in network.named_modules() if name.startswith("down_projection.stem.blocks.0.skip.")]
        inputs += tuple(name for name in skips if isinstance(network.get_submodule(name), nn.Conv3d))
        return Keys(network.key_to_encoder, network.key_to_stem, inputs, network.key_to_lpe)

    def part(self, tensor: str) -> str:
        """See `Family.part`."""
        if tensor == "eva.pos_embed":
            return "position"
        if tensor == "mask_token":  # zeros that no training changes
            return "unused"
        return {"down_projection": "stem", "eva": "encoder"}.get(tensor.partition(".")[0], "head")

    def identity(self, kwargs: Mapping[str, Any], *, with_decoder: bool) -> dict[str, Any]:
        """See `Family.identity`; the patch may differ, for the position embedding can be resampled."""
        return as_lists({key: kwargs.get(key) for key in SAME})

    def step(self, kwargs: Mapping[str, Any]) -> list[int]:
        """See `Family.step`: whole tokens."""
        return list(kwargs["patch_embed_size"])

    def token(self, kwargs: Mapping[str, Any]) -> tuple[int, ...]:
        """See `Family.token`."""
        return tuple(kwargs["patch_embed_size"])

    def small(self, architecture: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.small`."""
        levels = CPU_V3 if "depth_per_level" in architecture["arch_kwargs"] else {}
        return {"diffaug": {"architecture": {**PRIMUS_ON_CPU, **levels}, "initial_lr": 1e-3}}
