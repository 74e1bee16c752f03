"""How two networks are told apart: what they must share for one to start from the other's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffaug.errors import DiffaugError
from diffaug.nnunet.families import Network
from diffaug.nnunet.families.unets import short
from diffaug.nnunet.weights.format import EncoderFile


def require_same_architecture(encoder: EncoderFile, planned: Network, *, with_decoder: bool) -> Mapping[str, Any]:
    """Require that a file is of the network that is planned.

    Args:
        encoder: The file.
        planned: The network that is to start from it.
        with_decoder: Whether the decoder counts, too.

    Returns:
        The arguments of the file's network.

    Raises:
        DiffaugError: If it is of another; the first difference is named.
    """
    stored = encoder.adaptation_plan["architecture_plans"]
    written, kwargs = short(stored.get("arch_class_name")), stored.get("arch_kwargs")
    name = written
    if not kwargs and written in planned.family.known:
        name, kwargs = planned.family.known[written]
    expected = short(planned.architecture["network_class_name"])
    if name != expected or not kwargs:
        raise _mismatch(encoder.path, "network class", written, expected)
    try:
        theirs = planned.family.identity(kwargs, with_decoder=with_decoder)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _mismatch(encoder.path, f"arch_kwargs ({error})", kwargs, "own") from error
    ours = planned.family.identity(planned.kwargs, with_decoder=with_decoder)
    for key, value in ours.items():
        if theirs[key] != value:
            raise _mismatch(encoder.path, key, theirs[key], value)
    return kwargs


def _mismatch(path: Path, key: str, stored: Any, planned: Any) -> DiffaugError:
    return DiffaugError(
        f"{path}: {key} is {stored} in the file, expected the plan's {planned}; run diffaug pretrain --fresh for "
        "these plans and this configuration, or train with those the file was made for"
    )
