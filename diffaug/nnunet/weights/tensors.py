"""A network's tensors, each once, and the part of the network that each belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from diffaug.errors import DiffaugError


def unwrapped(network: nn.Module) -> Any:
    """Take a network out of what trains it.

    Args:
        network: A U-Net of nnU-Net, wrapped or not.

    Returns:
        The U-Net itself.

    Raises:
        DiffaugError: If it is another network.
    """
    # DistributedDataParallel and Fabric keep the network in `module`, torch.compile in `_orig_mod`; they nest.
    while (inner := getattr(network, "_orig_mod", getattr(network, "module", None))) is not None:
        network = inner
    if not hasattr(network, "keys_to_in_proj"):
        raise DiffaugError(
            f"{type(network).__name__}: this network does not say where its stem is, expected PlainConvUNet or "
            "ResidualEncoderUNet; use plans of nnU-Net's own planners"
        )
    return network


def tensors_of(network: nn.Module) -> Iterator[tuple[Tensor, list[str]]]:
    """Give every tensor of a network once, with all its names.

    The U-Nets hold a convolution as `conv` and as `all_modules.0`, and the encoder a second time as `decoder.encoder`.

    Args:
        network: The network.

    Yields:
        Tensor and names.
    """
    found: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in network.state_dict().items():
        found.setdefault(tensor.data_ptr(), (tensor, []))[1].append(name)
    yield from found.values()


def part_of(name: str) -> str:
    """Tell which part of a network a tensor belongs to.

    Args:
        name: Of the tensor.

    Returns:
        `encoder`, `decoder`, `output layers` or `other`.
    """
    if name.startswith(("encoder.", "decoder.encoder.")):
        return "encoder"
    if name.startswith("decoder.seg_layers."):
        return "output layers"
    return "decoder" if name.startswith("decoder.") else "other"
