"""How two networks are told apart: what they must share for one to start from the other's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffaug.errors import DiffaugError
from diffaug.nnunet.weights.format import EncoderFile

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

# nnssl writes the mere name of its standard network: nnU-Net's ResEnc L at isotropic spacing.
NNSSL_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
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


def require_same_architecture(encoder: EncoderFile, planned: Mapping[str, Any], *, with_decoder: bool) -> None:
    """Require that a file is of the network that is planned.

    Args:
        encoder: The file.
        planned: `architecture` of nnU-Net's configuration.
        with_decoder: Whether the decoder counts, too.

    Raises:
        DiffaugError: If it is of another; the first difference is named.
    """
    stored = encoder.adaptation_plan["architecture_plans"]
    stored_class, stored_kwargs = _short(stored.get("arch_class_name")), stored.get("arch_kwargs")
    if not stored_kwargs and stored_class in NNSSL_NETWORKS:
        stored_class, stored_kwargs = NNSSL_NETWORKS[stored_class]
    planned_class = _short(planned["network_class_name"])
    if stored_class != planned_class or not stored_kwargs:
        raise _mismatch(encoder.path, "network class", stored_class, planned_class)
    keys = ENCODER_KEYS | DECODER_KEYS if with_decoder else ENCODER_KEYS
    theirs, ours = _canonical(stored_kwargs, keys), _canonical(planned["arch_kwargs"], keys)
    for key in keys:
        if theirs[key] != ours[key]:
            raise _mismatch(encoder.path, key, theirs[key], ours[key])


def _mismatch(path: Path, key: str, stored: Any, planned: Any) -> DiffaugError:
    return DiffaugError(
        f"{path}: {key} is {stored} in the file, expected the plan's {planned}; run diffaug pretrain for these plans "
        "and this configuration, or train with those the file was made for"
    )


def _short(name: Any) -> Any:
    return name.rpartition(".")[2] if isinstance(name, str) else name


def _canonical(kwargs: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Spell an architecture one way: class names without modules, one entry per stage, one stride per axis."""
    values = {key: _short(kwargs.get(key, default)) for key, default in keys.items()}
    stages, axes = values["n_stages"] or 0, 2 if values["conv_op"] == "Conv2d" else 3
    for key in ("features_per_stage", "n_conv_per_stage", "n_blocks_per_stage"):
        values[key] = _spread(values[key], stages)
    for key in ("strides", "kernel_sizes"):
        values[key] = [_spread(size, axes) for size in _spread(values[key], stages) or ()]
    if "n_conv_per_stage_decoder" in values:
        values["n_conv_per_stage_decoder"] = _spread(values["n_conv_per_stage_decoder"], stages - 1)
    return values


def _spread(value: Any, count: int) -> Any:
    if value is None:
        return None
    return [value] * count if isinstance(value, int) else list(value)
