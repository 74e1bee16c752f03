"""Where the encoder file lies and what it holds: weights as nnU-Net's and nnssl's tools read them, and who was seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from diffaug.errors import DiffaugError
from diffaug.files import atomic_path, file_hash
from diffaug.nnunet.families import ENCODER_PARTS, PLAN, network_of
from diffaug.patients import known_patients
from diffaug.shapes import require_shape
from diffaug.workspace import encoder_folder

FORMAT = 1  # of the block `diffaug`


class Architecture(TypedDict):
    """What an encoder file says of its network: of a standard one nnssl tells but the name."""

    arch_class_name: str
    arch_kwargs: dict[str, Any] | None


@dataclass(frozen=True)
class EncoderFile:
    """What an encoder file holds.

    Attributes:
        path: The file.
        hash: Sixteen hexadecimal digits of its SHA-256.
        weights: Tensors by their name in the network.
        adaptation_plan: nnssl's `nnssl_adaptation_plan`: architecture, input channels, names of stem and encoder.
        provenance: What the weights have seen, and how; empty for a file that diffaug did not write.
        styles: What restyles scans (`diffaug.nnunet.restyling`): the output layers that make tissue maps, the painter, and
            the appearances' codes; None where the pretext has none.
    """

    path: Path
    hash: str
    weights: dict[str, Tensor] = field(repr=False)
    adaptation_plan: dict[str, Any] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)
    styles: dict[str, Any] | None = field(default=None, repr=False)

    def summary(self) -> str:
        """Tell the provenance in one line: plain values as they are, lists by their length."""
        told = {
            key: len(value) if isinstance(value, (list, tuple, dict)) else value
            for key, value in self.provenance.items()
            if not isinstance(value, dict)
        }
        return ", ".join(f"{key} {value}" for key, value in told.items()) or "unknown, diffaug did not write this file"


def save_encoder(
    path: Path,
    network: nn.Module,
    *,
    name: str,
    configuration: Mapping[str, Any],
    provenance: Mapping[str, Any],
    kind: str = PLAN,
    styles: Mapping[str, Any] | None = None,
) -> None:
    """Write a network's encoder and decoder body, without its output layers, atomically.

    Args:
        path: The file to write.
        network: Built from `configuration`, wrapped or not.
        name: Name of the configuration, for example `3d_fullres`.
        configuration: The configuration with its inheritance resolved (`ConfigurationManager.configuration`).
        provenance: What the weights have seen, and how: `case_ids` lists every real case that the encoder, or the
            generator of its images, was trained on; further keys are free (pretext, images, steps, version ...).
            Plain Python values only.
        kind: A key of `diffaug.nnunet.families.NETWORKS`.
        styles: `painter`, its weights, and `codes` `(N, CODE)`; the output layers, which are then needed, are added.
    """
    bare, planned = unwrapped(network), network_of(configuration, kind)
    weights, head = {}, {}
    for tensor, names in tensors_of(bare):
        # One copy under all its names, which torch.save then stores once; other names of the encoder are left to the reader.
        copy = tensor.detach().cpu().clone()
        own = [n for n in names if planned.family.part(n) in (*ENCODER_PARTS, "decoder")]
        weights.update({n: copy for n in own if not n.startswith("decoder.encoder.")})
        head.update({n: copy for n in names if planned.family.part(n) == "head"})
    keys, architecture, patch_size = planned.family.keys(bare), planned.architecture, list(planned.patch_size)
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
            "pretrain_num_input_channels": weights[f"{keys.inputs[0]}.weight"].shape[1],
            "recommended_downstream_patchsize": patch_size,
            "key_to_encoder": keys.encoder,
            "key_to_stem": keys.stem,
            "keys_to_in_proj": keys.inputs,
            "key_to_lpe": keys.position,
        },
        "citations": [],
        "diffaug": dict(provenance),
        **({"diffaug_styles": {"head": head, **styles}} if styles else {}),
    }
    write_encoder(path, content)


def write_encoder(path: Path, content: Mapping[str, Any]) -> None:
    """Write an encoder file's content, atomically.

    Args:
        path: The file to write.
        content: What `save_encoder` describes; tensors and plain Python values only.
    """
    with atomic_path(path) as temporary:
        torch.save({**content, "diffaug": {"format": FORMAT, **content["diffaug"]}}, temporary)
        # A value that only unsafe unpickling restores (a NumPy scalar, a Path) must show now, not when training starts.
        torch.load(temporary, map_location="cpu", weights_only=True)


def read_encoder(path: Path, fix: str = "make it with: diffaug pretrain --task <dataset>") -> EncoderFile:
    """Read an encoder file that diffaug or nnssl wrote, without running any code in it.

    Args:
        path: The file.
        fix: What the user should do when it is missing or broken.

    Returns:
        Its content.

    Raises:
        DiffaugError: If the file is missing, truncated, or something else.
    """
    if not path.is_file():
        raise DiffaugError(f"{path}: no such file, expected a pretrained encoder; {fix}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types here, and advice on unsafe loading in their messages
        raise DiffaugError(
            f"{path}: cannot be read ({type(error).__name__}), expected an encoder file of tensors and plain values; "
            f"it is truncated or of another kind: {fix}"
        ) from error
    plan = content.get("nnssl_adaptation_plan") if isinstance(content, dict) else None
    weights = content.get("network_weights") if isinstance(content, dict) else None
    if not (
        isinstance(weights, dict)
        and all(isinstance(tensor, Tensor) for tensor in weights.values())
        and isinstance(plan, dict)
        and {"architecture_plans", "key_to_encoder", "key_to_stem"} <= plan.keys()
        and isinstance(content.get("diffaug", {}), dict)
        and isinstance(content.get("diffaug", {}).get("preprocessing", {}), dict)
    ):
        raise DiffaugError(
            f"{path}: not an encoder file, expected the keys network_weights and nnssl_adaptation_plan; {fix}"
        )
    require_shape(plan["architecture_plans"], Architecture, path, fix)
    provenance = dict(content.get("diffaug", {}))
    if (written := provenance.pop("format", FORMAT)) != FORMAT:
        raise DiffaugError(f"{path}: is of format {written}, expected {FORMAT}; a newer diffaug wrote it: upgrade")
    return EncoderFile(path, file_hash(path), weights, plan, provenance, content.get("diffaug_styles"))


def overlap(provenance: Mapping[str, Any], case_ids: Iterable[str]) -> list[str]:
    """Find the cases whose patients pretraining has seen and that therefore cannot judge the model.

    Args:
        provenance: The provenance of an encoder file.
        case_ids: Validation or test cases.

    Returns:
        Those of `case_ids` that are, or are of one patient with, any of `provenance["case_ids"]`, sorted.
    """
    return known_patients(case_ids, provenance.get("case_ids", ()))


def unwrapped(network: nn.Module) -> Any:
    """Take a network out of what trains it.

    Args:
        network: Wrapped or not.

    Returns:
        The network itself.
    """
    # DistributedDataParallel and Fabric keep the network in `module`, torch.compile in `_orig_mod`; they nest.
    while (inner := getattr(network, "_orig_mod", getattr(network, "module", None))) is not None:
        network = inner
    return network


def tensors_of(network: nn.Module) -> Iterator[tuple[Tensor, list[str]]]:
    """Give every tensor of a network once, with all its names.

    nnU-Net's blocks hold a convolution as `conv` and as `all_modules.0`, its U-Nets the encoder again as `decoder.encoder`.

    Args:
        network: The network.

    Yields:
        Tensor and names.
    """
    found: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in network.state_dict().items():
        found.setdefault(tensor.data_ptr(), (tensor, []))[1].append(name)
    yield from found.values()


IMPORTED = "imported.json"  # beside an encoder file that came from elsewhere


ENCODER = "encoder.pt"


def encoder_path(
    results: str | PathLike[str], dataset: str, plans: str, configuration: str, network: str = PLAN
) -> Path:
    """Tell where `diffaug pretrain` leaves the encoder file and the trainer looks for it.

    Args:
        results: The folder `nnUNet_results`.
        dataset: Folder name of the dataset, `DatasetXXX_Name`.
        plans: Name of nnU-Net's plans.
        configuration: Name of nnU-Net's configuration.
        network: A key of `diffaug.nnunet.families.NETWORKS`.

    Returns:
        The path of the encoder file, which may not exist yet.
    """
    return Path(results) / dataset / f"diffaug__{plans}__{configuration}" / encoder_folder(network) / ENCODER
