"""What a plan may ask of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffaug.errors import DiffaugError, times
from diffaug.nnunet.families.family import Family
from diffaug.workspace import PLAN


def require_patch(family: Family, name: str, patch: Sequence[int], kwargs: Mapping[str, Any]) -> None:
    """Require that a network can take patches of a size.

    Args:
        family: Its kind.
        name: A key of `NETWORKS`.
        patch: In voxels.
        kwargs: The network's arguments.

    Raises:
        DiffaugError: If it cannot.
    """
    try:
        taken, step = family.takes(patch, kwargs), family.step(kwargs)
    except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise DiffaugError(
            f"network {name}: its arguments do not fit each other ({error}), expected those that nnU-Net wrote; fix "
            "architecture in the plans"
        ) from error
    if taken:
        return
    more = "" if family.takes(step, kwargs) else ", and more than one of them"
    fix = "choose the configuration's own network with --network, or fix patch_size in the plans"
    if name != PLAN:
        fix = f"add a configuration that has them: diffaug plan --task <dataset> --network {name}"
    raise DiffaugError(
        f"patch size {times(patch)}: found with network {name}, expected multiples of {times(step)} voxels{more}; {fix}"
    )


def require_arguments(name: str, changed: Any, usual: Mapping[str, Any]) -> None:
    """Require that changed arguments of a network are known, and of the kind of the usual ones.

    Args:
        name: A key of `NETWORKS`.
        changed: The arguments that the plan's `diffaug` block has.
        usual: All arguments of the network.

    Raises:
        DiffaugError: If one is not.
    """
    if not isinstance(changed, dict):
        raise DiffaugError(f"diffaug block: architecture is {changed!r}, expected a JSON object; fix it in the plans")
    if unknown := changed.keys() - usual.keys():
        raise DiffaugError(
            f"diffaug block: architecture has {', '.join(sorted(unknown))}, expected of {name} some of "
            f"{', '.join(usual)}; fix it in the plans"
        )

    def alike(value: Any, like: Any) -> bool:
        if isinstance(like, list):
            return isinstance(value, list) and bool(value) and all(alike(each, like[0]) for each in value)
        if isinstance(like, bool):
            return isinstance(value, bool)
        if isinstance(like, int):
            return type(value) is int and value > 0
        return type(value) in (int, float) and value >= 0

    for key, value in changed.items():
        if not alike(value, usual[key]):
            raise DiffaugError(
                f"diffaug block: architecture's {key} is {value!r}, expected a value like {usual[key]!r}; fix it in the plans"
            )
