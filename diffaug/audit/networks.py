"""Feature spaces from published weights that the user has on disk: MedicalNet's 3D and RadImageNet's 2D ResNets."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import monai.networks.nets as nets
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.errors import DiffaugError
from diffaug.files import file_hash

EXPECTED = (
    "expected the state dict of a MedicalNet ResNet-10, 18, 34 or 50 (3D, one channel) or of RadImageNet's ResNet-50 "
    "(2D, three channels)"
)
DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {  # by whether blocks are bottlenecks, and blocks per layer
    (False, (1, 1, 1, 1)): 10,
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
}
SEQUENTIAL = {
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}  # RadImageNet's names
HEADS = ("fc.", "conv_seg.")  # what published files carry beyond the features
SLICES = 8  # per plane
EDGE = 224  # pixels of a slice that RadImageNet's networks were trained with


def load_network(path: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Load a feature extractor.

    Args:
        path: The weights' file, read with `weights_only=True`.

    Returns:
        A name to print beside figures, with the file's hash, and the extractor: volumes `(B, C, Z, Y, X)` in [-1, 1] to
        features `(B, F)`, on the volumes' device. Channels are looked at one by one and their features concatenated.

    Raises:
        DiffaugError: If the file is not the weights of such a network.
    """
    weights = _read(path)
    stem = weights.get("conv1.weight", torch.empty(0))
    bottleneck = "layer1.0.conv3.weight" in weights
    blocks = tuple(len({key.split(".")[1] for key in weights if key.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4))
    depth = DEPTHS.get((bottleneck, blocks))
    kind = {(5, 1): "3D", (4, 3): "2D"}.get((stem.ndim, stem.shape[1] if stem.ndim > 1 else 0))
    if depth is None or kind is None or (kind == "2D" and depth != 50):
        raise DiffaugError(
            f"{path}: found {len(weights)} tensors, the first of them {next(iter(weights), 'none')}, conv1 of shape "
            f"{tuple(stem.shape)} and {blocks} blocks, {EXPECTED}; download one of those"
        )
    network = getattr(nets, f"resnet{depth}")(
        spatial_dims=stem.ndim - 2,
        n_input_channels=stem.shape[1],
        conv1_t_stride=2,
        feed_forward=False,
        shortcut_type="B" if any("downsample" in key for key in weights) else "A",
        bias_downsample="layer2.0.downsample.0.bias" in weights,
    )
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise DiffaugError(f"{path}: does not fit a {kind} ResNet-{depth} ({reason}), {EXPECTED}") from error
    network.eval().requires_grad_(False)
    described = "MedicalNet ResNet" if kind == "3D" else "RadImageNet ResNet"
    name = f"{described}-{depth} ({path.name}, sha256 {file_hash(path)[:12]})"
    extract = _volume_features if kind == "3D" else _slice_features

    @torch.no_grad()
    def features(volumes: Tensor) -> Tensor:
        network.to(volumes.device)
        return torch.cat([extract(network, volumes[:, i : i + 1].float()) for i in range(volumes.shape[1])], 1)

    return name, features


def _read(path: Path) -> dict[str, Tensor]:
    """Read a state dict and give its tensors the names that torchvision's and MONAI's ResNets have."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DiffaugError(
            f"{path}: cannot be read as plain weights ({type(error).__name__}: {reason}), {EXPECTED}; a file that holds "
            "a whole pickled model may run any code: save its state_dict() where it comes from"
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DiffaugError(f"{path}: found a {type(content).__name__} that is no state dict, {EXPECTED}")
    weights = {}
    for key, tensor in content.items():
        key = key.removeprefix("module.")
        if key.startswith("backbone."):
            place, _, rest = key.removeprefix("backbone.").partition(".")
            key = f"{SEQUENTIAL.get(place, place)}.{rest}"
        if not key.startswith(HEADS):
            weights[key] = tensor
    return weights


def _volume_features(network: nn.Module, volumes: Tensor) -> Tensor:
    """Look at whole volumes `(B, 1, Z, Y, X)`, each with mean 0 and deviation 1 as in MedicalNet (arXiv 1904.00625).

    There only voxels above 0 count. Here all do: a generator's background is not exactly empty as a scanner's can be, and
    features must not tell the sets apart by that.
    """
    mean = volumes.mean((1, 2, 3, 4), keepdim=True)
    deviation = volumes.std((1, 2, 3, 4), keepdim=True).clamp_min(1e-6)
    return network((volumes - mean) / deviation)


def _slice_features(network: nn.Module, volumes: Tensor) -> Tensor:
    """Look at slices of the three planes of `(B, 1, Z, Y, X)`: eight of the middle half, averaged, planes side by side.

    RadImageNet's networks expect three equal channels in [-1, 1], which volumes already span.
    """
    planes = []
    for axis in (2, 3, 4):
        size = volumes.shape[axis]
        places = torch.linspace(0.25, 0.75, SLICES, device=volumes.device).mul(size - 1).round().long()
        slices = volumes.index_select(axis, places).movedim(axis, 1).flatten(0, 1)
        slices = F.interpolate(slices, (EDGE, EDGE), mode="bilinear", antialias=True)
        planes.append(network(slices.expand(-1, 3, -1, -1)).unflatten(0, (len(volumes), SLICES)).mean(1))
    return torch.cat(planes, 1)
