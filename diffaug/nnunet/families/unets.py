"""nnU-Net's own convolutional networks, PlainConvUNet and ResidualEncoderUNet: built from nnU-Net's plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pydoc import locate
from typing import Annotated, Any, Literal

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from pydantic import AfterValidator, Field
from torch import nn
from typing_extensions import NotRequired, TypedDict

from diffaug.nnunet.families.family import Family, Keys

# What two networks must share for one to start from the other's weights, the telling differences first. Equal tensor
# shapes are not enough: strides, for instance, leave no trace in them. Values are the networks' own defaults.
ENCODER_KEYS: dict[str, Any] = {
    "n_stages": None,
    "conv_op": None,
    "features_per_stage": None,
    "strides": None,
    "kernel_sizes": None,
    "n_conv_per_stage": None,
    "n_blocks_per_stage": None,
    "conv_bias": False,
    "norm_op": None,
    "norm_op_kwargs": None,
    "nonlin": None,
    "nonlin_first": False,
    "block": "BasicBlockD",
    "bottleneck_channels": None,
    "stem_channels": None,
}
DECODER_KEYS: dict[str, Any] = {"n_conv_per_stage_decoder": None}
PER_STAGE = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
# Forward and backward of the plain network, one thread beside another job, a batch of 2 with 24 x 32 x 48 voxels: 0.19 s,
# with twice the features 0.43 s.
CPU_FEATURES = (8, 16, 32, 64)


def _layer(name: str) -> str:
    """Require that a name is a layer's or a network's."""
    found = locate(name)
    if not (isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith(OURS)):
        raise ValueError("no layer of torch or of nnU-Net's networks")
    return name


# whatever a plan names is imported, and what that has imported can be reached through it: layers alone, and nobody else's
OURS = ("torch.nn.modules.", "dynamic_network_architectures.")
Imported = Annotated[
    str, Field(pattern=r"^(torch\.nn|dynamic_network_architectures)(\.\w+)*\.[A-Z]\w*$"), AfterValidator(_layer)
]
Count = Annotated[int, Field(gt=0, le=4096)]


class Arguments(TypedDict):
    """What the arguments of both networks are made of."""

    n_stages: Annotated[int, Field(gt=0, le=20)]
    features_per_stage: Count | list[Count]
    strides: Count | list[Count | list[Count]]
    kernel_sizes: Count | list[Count | list[Count]]
    n_conv_per_stage_decoder: Count | list[Count]
    conv_op: Imported
    norm_op: NotRequired[Imported | None]
    nonlin: NotRequired[Imported | None]
    dropout_op: NotRequired[Imported | None]
    block: NotRequired[Imported | None]


class Architecture(TypedDict):
    """How nnU-Net's plans spell a network."""

    network_class_name: Imported
    arch_kwargs: Arguments
    _kw_requires_import: list[Literal["conv_op", "norm_op", "dropout_op", "nonlin", "block"]]


class UNets(Family):
    """See `Family`; both hold the encoder a second time, as `decoder.encoder`."""

    deep_supervision = True
    sparse = True
    # nnssl writes the mere name of its standard network: nnU-Net's ResEnc L at isotropic spacing
    known = {
        "ResEncL": (
            "ResidualEncoderUNet",
            {
                "n_stages": 6,
                "conv_op": "Conv3d",
                "features_per_stage": [32, 64, 128, 256, 320, 320],
                "strides": [1, 2, 2, 2, 2, 2],
                "kernel_sizes": 3,
                "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
                "n_conv_per_stage_decoder": 1,
                "conv_bias": True,
                "norm_op": "InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "nonlin": "LeakyReLU",
            },
        )
    }

    def build(
        self, architecture: Mapping[str, Any], channels: int, outputs: int, *, deep_supervision: bool
    ) -> nn.Module:
        """See `Family.build`."""
        return get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            channels,
            outputs,
            deep_supervision=deep_supervision,
        )

    def keys(self, network: Any) -> Keys:
        """See `Family.keys`."""
        return Keys(network.key_to_encoder, network.key_to_stem, tuple(network.keys_to_in_proj))

    def part(self, tensor: str) -> str:
        """See `Family.part`."""
        if tensor.startswith(("encoder.", "decoder.encoder.")):
            return "encoder"
        if tensor.startswith("decoder.seg_layers."):
            return "head"
        return "decoder" if tensor.startswith("decoder.") else "unused"

    def identity(self, kwargs: Mapping[str, Any], *, with_decoder: bool) -> dict[str, Any]:
        """See `Family.identity`: class names without modules, one entry per stage, one stride per axis."""
        keys = ENCODER_KEYS | DECODER_KEYS if with_decoder else ENCODER_KEYS
        values = {key: short(kwargs.get(key, default)) for key, default in keys.items()}
        stages, axes = values["n_stages"] or 0, 2 if values["conv_op"] == "Conv2d" else 3
        for key in ("features_per_stage", "n_conv_per_stage", "n_blocks_per_stage"):
            values[key] = _spread(values[key], stages)
        for key in ("strides", "kernel_sizes"):
            values[key] = [_spread(size, axes) for size in _spread(values[key], stages) or ()]
        if with_decoder:
            values["n_conv_per_stage_decoder"] = _spread(values["n_conv_per_stage_decoder"], stages - 1)
        return values

    def step(self, kwargs: Mapping[str, Any]) -> list[int]:
        """See `Family.step`: what the network pools."""
        axes = 2 if short(kwargs.get("conv_op")) == "Conv2d" else 3
        sizes = [_spread(size, axes) for size in _spread(kwargs["kernel_sizes"], kwargs["n_stages"])]
        if {len(size) for size in sizes} != {axes}:
            raise ValueError(f"kernel_sizes {kwargs['kernel_sizes']} where there are {axes} axes")
        strides = [_spread(stride, axes) for stride in _spread(kwargs["strides"], kwargs["n_stages"])]
        return [math.prod(axis) for axis in zip(*strides, strict=True)]

    def small(self, architecture: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.small`: the stages of highest resolution stay, one convolution or block in each."""
        kwargs = dict(architecture["arch_kwargs"])
        stages = min(kwargs["n_stages"], len(CPU_FEATURES))
        kwargs |= {
            "n_stages": stages,
            "features_per_stage": [min(pair) for pair in zip(kwargs["features_per_stage"], CPU_FEATURES, strict=False)],
            "kernel_sizes": kwargs["kernel_sizes"][:stages],
            "strides": kwargs["strides"][:stages],
            PER_STAGE[short(architecture["network_class_name"])]: [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
        }
        return {"architecture": {**architecture, "arch_kwargs": kwargs}}


def short(name: Any) -> Any:
    """Take the module off a class's name.

    Args:
        name: Of the class; what is no text stays as it is.

    Returns:
        The bare name.
    """
    return name.rpartition(".")[2] if isinstance(name, str) else name


def _spread(value: Any, count: int) -> Any:
    if value is None:
        return None
    return [value] * count if isinstance(value, int) else list(value)
