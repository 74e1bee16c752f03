"""A network's tensors, each once, whatever the network is wrapped in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


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
