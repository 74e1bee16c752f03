"""How the encoder file gets into a network: all of the asked parts, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.errors import DiffaugError
from diffaug.nnunet.families import ENCODER_PARTS, PLAN, Keys, Network, network_of
from diffaug.nnunet.weights.format import EncoderFile, tensors_of, unwrapped
from diffaug.nnunet.weights.identity import require_same_architecture

PARTS = {"encoder": ENCODER_PARTS, "encoder+decoder": (*ENCODER_PARTS, "decoder")}


@dataclass(frozen=True)
class LoadReport:
    """What `load_encoder` did.

    Attributes:
        loaded: Number of tensors that came from the file.
        total: Number of tensors of the network, each counted once.
        left_random: Modules that keep their random initialisation.
        channels_repeated: Whether one pretrained input channel was spread over several.
        positions_resampled: Whether the position embedding is that of another patch size, interpolated.
    """

    loaded: int
    total: int
    left_random: tuple[str, ...]
    channels_repeated: bool
    positions_resampled: bool = False

    def __str__(self) -> str:
        text = f"{self.loaded} of {self.total} tensors, left random: {', '.join(self.left_random) or 'none'}"
        text += ", one input channel repeated and averaged over all" if self.channels_repeated else ""
        return text + (", position embedding resampled to the patch size" if self.positions_resampled else "")


def load_encoder(
    network: nn.Module,
    encoder: EncoderFile,
    *,
    configuration: Mapping[str, Any],
    parts: str = "encoder+decoder",
    kind: str = PLAN,
) -> LoadReport:
    """Copy pretrained weights into a network: all of the asked parts, or nothing.

    Args:
        network: Built from `configuration`, wrapped or not.
        encoder: The weights.
        configuration: The configuration with its inheritance resolved (`ConfigurationManager.configuration`).
        parts: `encoder`, or `encoder+decoder` for all but the output layers.
        kind: A key of `diffaug.nnunet.families.NETWORKS`.

    Returns:
        What was loaded and what keeps its random initialisation.

    Raises:
        DiffaugError: If file and network differ in architecture, names, shapes or input channels.
    """
    bare, planned, wanted = unwrapped(network), network_of(configuration, kind), PARTS[parts]
    theirs = require_same_architecture(encoder, planned, with_decoder="decoder" in wanted)
    keys, part = planned.family.keys(bare), planned.family.part
    weights = _renamed(encoder, keys)
    input_weights = {f"{key}.weight" for key in keys.inputs}
    pairs, left_random, known = [], [], set()
    channels_repeated = positions_resampled = False
    for target, names in tensors_of(bare):
        known.update(names)
        if part(names[0]) == "unused":
            continue
        if part(names[0]) not in wanted:
            left_random.append(".".join(names[0].split(".")[:2]))
            continue
        source = _source(weights, names, parts, encoder.path)
        if input_weights & set(names) and source.ndim == target.ndim and source.shape[1] != target.shape[1]:
            source = _repeat_channel(source, target.shape[1], encoder.path)
            channels_repeated = True
        if part(names[0]) == "position":
            source, positions_resampled = _positions(source, encoder, theirs, planned)
        _require_fit(encoder.path, names[0], source, target)
        pairs.append((target, source))
    unknown = [name for name in weights if part(name) in wanted and name not in known]
    if unknown:
        raise DiffaugError(
            f"{encoder.path}: {len(unknown)} tensors have no place in the network, the first is {unknown[0]}; "
            "make the file again with diffaug pretrain for these plans"
        )
    with torch.no_grad():
        for target, source in pairs:
            target.copy_(source)
    total = len(pairs) + len(left_random)
    return LoadReport(len(pairs), total, tuple(dict.fromkeys(left_random)), channels_repeated, positions_resampled)


def _source(weights: Mapping[str, Tensor], names: Sequence[str], parts: str, path: Path) -> Tensor:
    """Find a tensor under any of its names."""
    for name in names:
        if name in weights:
            return weights[name]
    raise DiffaugError(
        f"{path}: holds no {names[0]}, expected every tensor of {parts}; make the file again with diffaug pretrain, or set "
        '"load": "encoder" in the plan\'s diffaug block if only the decoder is missing'
    )


def _renamed(encoder: EncoderFile, keys: Keys) -> dict[str, Tensor]:
    """Give the file's tensors the network's names; nnssl calls the encoder after its pretext (`online_encoder`...)."""
    plan = encoder.adaptation_plan
    # The stem first: in some networks its name begins with the encoder's.
    prefixes = ((plan["key_to_stem"], keys.stem), (plan["key_to_encoder"], keys.encoder))
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


def _positions(
    source: Tensor, encoder: EncoderFile, theirs: Mapping[str, Any], planned: Network
) -> tuple[Tensor, bool]:
    """Bring the position embedding from the file's patch size to the network's, and tell whether they differ."""
    token = planned.family.token(planned.kwargs)
    now = [edge // each for edge, each in zip(planned.patch_size, token, strict=True)]
    # the most trusted first: nnssl recommends another patch than the one that some of its pretexts have seen
    plan = encoder.adaptation_plan
    seen = plan.get("pretrain_plan", {}).get("configurations", {}).values()
    patches = [plan.get("pretrain_patch_size"), *(each.get("patch_size") for each in seen), theirs.get("input_shape")]
    for patch in (*patches, plan.get("recommended_downstream_patchsize")):
        before = [edge // each for edge, each in zip(patch or (), token, strict=False)]
        if len(before) == len(now) and source.ndim == 3 and math.prod(before) == source.shape[1]:
            if before == now:
                return source, False
            return resampled(source.float(), before, now).to(source.dtype), True
    raise DiffaugError(
        f"{encoder.path}: its position embedding has {source.shape[1]} tokens, which no patch size in the file has, expected "
        f"as many as one of them, or {math.prod(now)}; make the file again with diffaug pretrain"
    )


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


def resampled(embedding: Tensor, before: Sequence[int], now: Sequence[int]) -> Tensor:
    """Interpolate a position embedding between the tokens of one grid and those of another.

    Args:
        embedding: `(1, tokens, D)`, the last axis of the grid fastest.
        before: Tokens along each axis.
        now: The same, wanted.

    Returns:
        `(1, tokens, D)`.

    Raises:
        ValueError: If the embedding has not as many tokens as the grid.
    """
    if embedding.ndim != 3 or embedding.shape[1] != math.prod(before):
        raise ValueError(f"{tuple(embedding.shape)} is no embedding of {math.prod(before)} tokens")
    grid = embedding.movedim(1, 2).unflatten(2, tuple(before))
    return F.interpolate(grid, tuple(now), mode="trilinear", align_corners=False).flatten(2).movedim(1, 2)
