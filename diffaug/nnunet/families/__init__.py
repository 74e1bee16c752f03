"""The networks that diffaug can pretrain: the plan's own, and those that a trainer brings along."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from diffaug.errors import DiffaugError
from diffaug.nnunet.families import primus, swin_unetr, unets
from diffaug.nnunet.families.family import ENCODER_PARTS, Family, Keys, Recipe
from diffaug.nnunet.families.requirements import require_arguments, require_patch
from diffaug.shapes import require_shape
from diffaug.workspace import PLAN

__all__ = [
    "ENCODER_PARTS",
    "NETWORKS",
    "PLAN",
    "Family",
    "Keys",
    "Network",
    "Recipe",
    "family_of",
    "network_of",
    "require_network",
    "trained_network",
    "trainer_name",
]

UNETS, PRIMUS, SWIN_UNETR = unets.UNets(), primus.Primus(), swin_unetr.SwinUNETR()


@dataclass(frozen=True)
class Brought:
    """A network that a trainer brings along.

    Attributes:
        family: Its kind.
        class_name: With its module.
        kwargs: Its arguments, but for channels and outputs.
        stock: nnU-Net's own trainer of it; None where nnU-Net has none.
        shaped: Whether it must be told the patch size.
    """

    family: Family
    class_name: str
    kwargs: Mapping[str, Any]
    stock: str | None = None
    shaped: bool = False


# Name of the network, which is the ending of its trainers' names -> the network; None stands for the plan's own.
NETWORKS: dict[str, Brought | None] = {PLAN: None}
for _size, _kwargs in primus.SIZES.items():
    _all = {**primus.COMMON, **_kwargs}
    NETWORKS[f"Primus{_size}"] = Brought(
        PRIMUS, primus.CLASSES["Primus"], _all, f"nnUNet_Primus_{_size}_Trainer", shaped=True
    )
NETWORKS["PrimusV3S"] = Brought(
    PRIMUS,
    primus.CLASSES["PrimusV3"],
    {**primus.COMMON, **primus.SIZES["S"], **primus.V3},
    "nnUNet_PrimusV3S_Trainer",
    shaped=True,
)
NETWORKS["SwinUNETR"] = Brought(SWIN_UNETR, swin_unetr.CLASS, swin_unetr.KWARGS)


def trainer_name(network: str, *, scratch: bool = False) -> str:
    """Name the trainer of a network.

    Args:
        network: A key of `NETWORKS`.
        scratch: Whether it starts from random weights.

    Returns:
        The name for nnU-Net's `-tr`.
    """
    return f"nnUNetTrainerDiffAug{'' if network == PLAN else network}{'Scratch' if scratch else ''}"


def trained_network(trainer: str) -> str:
    """Tell which network a trainer trains.

    Args:
        trainer: Its name, diffaug's, nnU-Net's or another's.

    Returns:
        A key of `NETWORKS`; the plan's for trainers that are not known.
    """
    ours = {trainer_name(name, scratch=twin): name for name in NETWORKS for twin in (False, True)}
    stock = {brought.stock: name for name, brought in NETWORKS.items() if brought is not None and brought.stock}
    return ours.get(trainer) or stock.get(trainer) or PLAN


def family_of(name: str) -> Family:
    """Tell the kind of a network.

    Args:
        name: A key of `NETWORKS`.

    Returns:
        Its family; that of nnU-Net's own plans where the network is the plan's.
    """
    brought = NETWORKS[name]
    return UNETS if brought is None else brought.family


def require_network(name: str) -> None:
    """Require that there is a network of that name.

    Args:
        name: A key of `NETWORKS`.

    Raises:
        DiffaugError: If there is none.
    """
    if name not in NETWORKS:
        raise DiffaugError(f"--network: found {name}, expected one of {', '.join(NETWORKS)}; fix the option")


@dataclass(frozen=True)
class Network:
    """The network of a configuration.

    Attributes:
        name: A key of `NETWORKS`.
        family: Its kind.
        architecture: As nnU-Net's plans spell it.
        patch_size: Of the configuration, in voxels.
        stock: nnU-Net's own trainer that builds the very same; None where there is none.
    """

    name: str
    family: Family
    architecture: Mapping[str, Any]
    patch_size: Sequence[int]
    stock: str | None

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """The network's arguments."""
        return self.architecture["arch_kwargs"]

    def build(self, channels: int, outputs: int, *, deep_supervision: bool = False) -> nn.Module:
        """Build it with random weights.

        Args:
            channels: C of the volumes.
            outputs: Of the last layer.
            deep_supervision: Whether it also answers at lower resolutions, where its family can.

        Returns:
            The network.

        Raises:
            DiffaugError: If its arguments do not fit each other.
        """
        try:
            return self.family.build(self.architecture, channels, outputs, deep_supervision=deep_supervision)
        except (
            AssertionError,
            AttributeError,
            ArithmeticError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            told = ", ".join(
                f"{key} {value}" for key, value in self.kwargs.items() if isinstance(value, (int, float, list))
            )
            raise DiffaugError(
                f"network {self.name}: cannot be built ({error or type(error).__name__}), found {told}, expected arguments "
                "that fit each other; fix architecture in the plans"
            ) from error

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it another network, patch size included, as JSON would give it back."""
        arguments = self.family.identity(self.kwargs, with_decoder=True)
        kind = unets.short(self.architecture["network_class_name"])
        return json.loads(json.dumps({"class": kind, **arguments, "patch_size": list(self.patch_size)}))  # type: ignore[no-any-return]


def network_of(configuration: Mapping[str, Any], name: str = PLAN, *, any_patch: bool = False) -> Network:
    """Tell all about a network of a configuration.

    Args:
        configuration: The configuration with its inheritance resolved (`ConfigurationManager.configuration`).
        name: A key of `NETWORKS`.
        any_patch: Whether its patch size is still to be chosen.

    Returns:
        The network.

    Raises:
        DiffaugError: If there is no such network, it is none that diffaug knows, or it cannot take the patch size.
    """
    require_network(name)
    patch, brought = [int(edge) for edge in configuration["patch_size"]], NETWORKS[name]
    changed = configuration.get("diffaug", {}).get("architecture", {})
    if brought is None:
        if changed:
            raise DiffaugError(
                "diffaug block: architecture found with the plan's own network, expected a network that a trainer brings "
                "along; name it (--network, -tr nnUNetTrainerDiffAug<network>), or choose another configuration"
            )
        architecture = configuration["architecture"]
        require_shape(architecture, unets.Architecture, "architecture in nnU-Net's plans", "make the plans anew")
        if unets.short(architecture["network_class_name"]) not in unets.PER_STAGE:
            raise DiffaugError(
                f"{architecture['network_class_name']}: no network that diffaug knows, expected "
                f"{' or '.join(unets.PER_STAGE)}; use plans of nnU-Net's own planners"
            )
        if not any_patch:
            require_patch(UNETS, name, patch, architecture["arch_kwargs"])
        return Network(name, UNETS, architecture, patch, "nnUNetTrainer")
    require_arguments(name, changed, brought.kwargs)
    kwargs = {**brought.kwargs, **changed}
    if not any_patch:
        require_patch(brought.family, name, patch, kwargs)
    if brought.shaped:
        kwargs["input_shape"] = patch
    spelt = {"network_class_name": brought.class_name, "arch_kwargs": kwargs, "_kw_requires_import": []}
    return Network(name, brought.family, spelt, patch, None if changed else brought.stock)
