"""The encoder file: pretrained weights in the format nnU-Net's and nnssl's tools read, and the cases they have seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffaug.errors import DiffaugError
from diffaug.workspace import atomic_path, file_hash

__all__ = [
    "DiffaugError",
    "EncoderFile",
    "LoadReport",
    "encoder_path",
    "load_encoder",
    "overlap",
    "read_encoder",
    "save_encoder",
    "write_encoder",
]

IMPORTED = "imported.json"  # beside an encoder file that came from elsewhere
PARTS = ("encoder", "encoder+decoder")

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


@dataclass(frozen=True)
class EncoderFile:
    """What an encoder file holds.

    Attributes:
        path: The file.
        hash: Sixteen hexadecimal digits of its SHA-256.
        weights: Tensors by their name in the network.
        adaptation_plan: nnssl's `nnssl_adaptation_plan`: architecture, input channels, names of stem and encoder.
        provenance: What the weights have seen, and how; empty for a file that diffaug did not write.
    """

    path: Path
    hash: str
    weights: dict[str, Tensor] = field(repr=False)
    adaptation_plan: dict[str, Any] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    def summary(self) -> str:
        """Tell the provenance in one line: plain values as they are, lists by their length."""
        told = {
            key: len(value) if isinstance(value, (list, tuple, dict)) else value
            for key, value in self.provenance.items()
        }
        return ", ".join(f"{key} {value}" for key, value in told.items()) or "unknown, diffaug did not write this file"


@dataclass(frozen=True)
class LoadReport:
    """What `load_encoder` did.

    Attributes:
        loaded: Number of tensors that came from the file.
        total: Number of tensors of the network, each counted once.
        left_random: Modules that keep their random initialisation.
        channels_repeated: Whether one pretrained input channel was spread over several.
    """

    loaded: int
    total: int
    left_random: tuple[str, ...]
    channels_repeated: bool

    def __str__(self) -> str:
        text = f"{self.loaded} of {self.total} tensors, left random: {', '.join(self.left_random) or 'none'}"
        return text + (", one input channel repeated and averaged over all" if self.channels_repeated else "")


def encoder_path(results: str | PathLike[str], dataset: str, plans: str, configuration: str) -> Path:
    """Tell where `diffaug pretrain` leaves the encoder file and the trainer looks for it.

    Args:
        results: The folder `nnUNet_results`.
        dataset: Folder name of the dataset, `DatasetXXX_Name`.
        plans: Name of nnU-Net's plans.
        configuration: Name of nnU-Net's configuration.

    Returns:
        The path of the encoder file, which may not exist yet.
    """
    return Path(results) / dataset / f"diffaug__{plans}__{configuration}" / "encoder" / "encoder.pt"


def save_encoder(
    path: Path, network: nn.Module, *, name: str, configuration: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Write a network's encoder and decoder body, without its output layers, atomically.

    Args:
        path: The file to write.
        network: A `PlainConvUNet` or `ResidualEncoderUNet` built from `configuration`, wrapped or not.
        name: Name of the configuration, for example `3d_fullres`.
        configuration: The configuration with its inheritance resolved (`ConfigurationManager.configuration`).
        provenance: What the weights have seen, and how: `case_ids` lists every real case that the encoder, or the
            generator of its images, was trained on; further keys are free (pretext, images, steps, version ...).
            Plain Python values only.
    """
    unet = _unwrapped(network)
    weights = {}
    for tensor, names in _tensors(unet):
        # One copy under all its names, which torch.save then stores once.
        copy = tensor.detach().cpu().clone()
        weights.update({n: copy for n in names if n.startswith("encoder.") or _part(n) == "decoder"})
    architecture = configuration["architecture"]
    patch_size = [int(size) for size in configuration["patch_size"]]
    content = {
        "network_weights": weights,
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": architecture["network_class_name"],
                "arch_kwargs": dict(architecture["arch_kwargs"]),
                "arch_kwargs_requiring_import": list(architecture["_kw_requires_import"]),
            },
            "pretrain_plan": {
                "configurations": {
                    name: {"spacing": [float(mm) for mm in configuration["spacing"]], "patch_size": patch_size}
                }
            },
            "pretrain_num_input_channels": weights[f"{unet.keys_to_in_proj[0]}.weight"].shape[1],
            "recommended_downstream_patchsize": patch_size,
            "key_to_encoder": unet.key_to_encoder,
            "key_to_stem": unet.key_to_stem,
            "keys_to_in_proj": tuple(unet.keys_to_in_proj),
            "key_to_lpe": None,
        },
        "citations": [],
        "diffaug": dict(provenance),
    }
    write_encoder(path, content)


def write_encoder(path: Path, content: Mapping[str, Any]) -> None:
    """Write an encoder file's content, atomically.

    Args:
        path: The file to write.
        content: What `save_encoder` describes; tensors and plain Python values only.
    """
    with atomic_path(path) as temporary:
        torch.save(dict(content), temporary)
        # A value that only unsafe unpickling restores (a NumPy scalar, a Path) must show now, not when training starts.
        torch.load(temporary, map_location="cpu", weights_only=True)


def read_encoder(path: Path, mend: str = "make it with: diffaug pretrain --task <dataset>") -> EncoderFile:
    """Read an encoder file that diffaug or nnssl wrote, without running any code in it.

    Args:
        path: The file.
        mend: What the user should do when it is missing or broken.

    Returns:
        Its content.

    Raises:
        DiffaugError: If the file is missing, truncated, or something else.
    """
    if not path.is_file():
        raise DiffaugError(f"{path}: no such file, expected a pretrained encoder; {mend}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types here, and advice on unsafe loading in their messages
        raise DiffaugError(
            f"{path}: cannot be read ({type(error).__name__}), expected an encoder file of tensors and plain values; "
            f"it is truncated or of another kind: {mend}"
        ) from error
    plan = content.get("nnssl_adaptation_plan") if isinstance(content, dict) else None
    weights = content.get("network_weights") if isinstance(content, dict) else None
    if not (
        isinstance(weights, dict)
        and all(isinstance(tensor, Tensor) for tensor in weights.values())
        and isinstance(plan, dict)
        and {"architecture_plans", "key_to_encoder", "key_to_stem"} <= plan.keys()
    ):
        raise DiffaugError(
            f"{path}: not an encoder file, expected the keys network_weights and nnssl_adaptation_plan; {mend}"
        )
    return EncoderFile(path, file_hash(path), weights, plan, content.get("diffaug", {}))


def load_encoder(
    network: nn.Module, encoder: EncoderFile, *, configuration: Mapping[str, Any], parts: str = "encoder+decoder"
) -> LoadReport:
    """Copy pretrained weights into a network: all of the asked parts, or nothing.

    Args:
        network: A `PlainConvUNet` or `ResidualEncoderUNet` built from `configuration`, wrapped or not.
        encoder: The weights.
        configuration: The configuration with its inheritance resolved (`ConfigurationManager.configuration`).
        parts: `encoder`, or `encoder+decoder` for all but the output layers.

    Returns:
        What was loaded and what keeps its random initialisation.

    Raises:
        DiffaugError: If file and network differ in architecture, names, shapes or input channels.
    """
    unet = _unwrapped(network)
    wanted = parts.split("+")
    _require_same_architecture(encoder, configuration["architecture"], with_decoder="decoder" in wanted)
    weights = _renamed(encoder, unet)
    input_weights = {f"{key}.weight" for key in unet.keys_to_in_proj}
    pairs, left_random, known = [], [], set()
    channels_repeated = False
    for target, names in _tensors(unet):
        known.update(names)
        if _part(names[0]) not in wanted:
            left_random.append(".".join(names[0].split(".")[:2]))
            continue
        source = next((weights[name] for name in names if name in weights), None)
        if source is None:
            raise DiffaugError(
                f"{encoder.path}: holds no {names[0]}, expected every tensor of {parts}; make the file again with "
                'diffaug pretrain, or set "load": "encoder" in the plan\'s diffaug block if only the decoder is missing'
            )
        if input_weights & set(names) and source.ndim == target.ndim and source.shape[1] != target.shape[1]:
            source = _repeat_channel(source, target.shape[1], encoder.path)
            channels_repeated = True
        _require_fit(encoder.path, names[0], source, target)
        pairs.append((target, source))
    unknown = [name for name in weights if _part(name) in wanted and name not in known]
    if unknown:
        raise DiffaugError(
            f"{encoder.path}: {len(unknown)} tensors have no place in the network, the first is {unknown[0]}; "
            "make the file again with diffaug pretrain for these plans"
        )
    with torch.no_grad():
        for target, source in pairs:
            target.copy_(source)
    total = len(pairs) + len(left_random)
    return LoadReport(len(pairs), total, tuple(dict.fromkeys(left_random)), channels_repeated)


def overlap(provenance: Mapping[str, Any], case_ids: Iterable[str]) -> list[str]:
    """Find the cases that pretraining has seen and that therefore cannot judge the model.

    Args:
        provenance: The provenance of an encoder file.
        case_ids: Validation or test cases.

    Returns:
        Those of `case_ids` among `provenance["case_ids"]`, sorted.
    """
    return sorted(set(provenance.get("case_ids", ())) & set(case_ids))


def _unwrapped(network: nn.Module) -> Any:
    # DistributedDataParallel and Fabric keep the network in `module`, torch.compile in `_orig_mod`; they nest.
    while (inner := getattr(network, "_orig_mod", getattr(network, "module", None))) is not None:
        network = inner
    if not hasattr(network, "keys_to_in_proj"):
        raise DiffaugError(
            f"{type(network).__name__}: this network does not say where its stem is, expected PlainConvUNet or "
            "ResidualEncoderUNet; use plans of nnU-Net's own planners"
        )
    return network


def _tensors(network: nn.Module) -> Iterator[tuple[Tensor, list[str]]]:
    """Give every tensor of a network once, with all its names.

    The U-Nets hold a convolution as `conv` and as `all_modules.0`, and the encoder a second time as `decoder.encoder`.
    """
    found: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in network.state_dict().items():
        found.setdefault(tensor.data_ptr(), (tensor, []))[1].append(name)
    yield from found.values()


def _part(name: str) -> str:
    if name.startswith(("encoder.", "decoder.encoder.")):
        return "encoder"
    if name.startswith("decoder.seg_layers."):
        return "output layers"
    return "decoder" if name.startswith("decoder.") else "other"


def _renamed(encoder: EncoderFile, network: Any) -> dict[str, Tensor]:
    """Give the file's tensors the network's names; nnssl calls the encoder after its pretext (`online_encoder`...)."""
    plan = encoder.adaptation_plan
    # The stem first: in some networks its name begins with the encoder's.
    prefixes = ((plan["key_to_stem"], network.key_to_stem), (plan["key_to_encoder"], network.key_to_encoder))
    weights = {}
    for name, tensor in encoder.weights.items():
        for theirs, ours in prefixes:
            if name.startswith(f"{theirs}."):
                name = ours + name.removeprefix(theirs)
                break
        weights[name] = tensor
    return weights


def _repeat_channel(source: Tensor, channels: int, path: Path) -> Tensor:
    if source.shape[1] != 1:
        raise DiffaugError(
            f"{path}: pretrained on {source.shape[1]} input channels, expected the dataset's {channels} or 1; "
            "pretrain on images of this dataset with diffaug pretrain"
        )
    # Divided by their number, so that the same image in every channel gives the pretrained response.
    return source.repeat(1, channels, *[1] * (source.ndim - 2)) / channels


def _require_fit(path: Path, name: str, source: Tensor, target: Tensor) -> None:
    if source.shape != target.shape:
        raise DiffaugError(
            f"{path}: {name} has shape {tuple(source.shape)}, expected the network's {tuple(target.shape)}; "
            "make the file again with diffaug pretrain for these plans"
        )
    if not source.isfinite().all():
        raise DiffaugError(
            f"{path}: {name} holds NaN or infinity, expected finite weights; the pretraining diverged: "
            "delete the file and run diffaug pretrain again"
        )


def _require_same_architecture(encoder: EncoderFile, planned: Mapping[str, Any], *, with_decoder: bool) -> None:
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
