"""The networks that diffaug can pretrain: the plan's own, and those that a trainer brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from diffaug.errors import DiffaugError
from diffaug.nnunet.families import primus, swin_unetr, unets
from diffaug.nnunet.families.family import ENCODER_PARTS, Family, Keys, Recipe
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
        trainer: Its name, diffaug's or another's.

    Returns:
        A key of `NETWORKS`; the plan's for trainers that are not diffaug's.
    """
    return next(
        (name for name in NETWORKS for twin in (False, True) if trainer_name(name, scratch=twin) == trainer), PLAN
    )


def family_of(name: str) -> Family:
    """Tell the kind of a network.

    Args:
        name: A key of `NETWORKS`.

    Returns:
        Its family; that of nnU-Net's own plans where the network is the plan's.
    """
    brought = NETWORKS[name]
    return UNETS if brought is None else brought.family


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
        """
        return self.family.build(self.architecture, channels, outputs, deep_supervision=deep_supervision)


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
    if name not in NETWORKS:
        raise DiffaugError(f"--network: found {name}, expected one of {', '.join(NETWORKS)}; fix the option")
    patch, brought = [int(edge) for edge in configuration["patch_size"]], NETWORKS[name]
    if brought is None:
        architecture = configuration["architecture"]
        if unets.short(architecture["network_class_name"]) not in unets.PER_STAGE:
            raise DiffaugError(
                f"{architecture['network_class_name']}: no network that diffaug knows, expected "
                f"{' or '.join(unets.PER_STAGE)}; use plans of nnU-Net's own planners"
            )
        return Network(name, UNETS, architecture, patch, "nnUNetTrainer")
    changed = configuration.get("diffaug", {}).get("architecture", {})
    if unknown := changed.keys() - brought.kwargs.keys():
        raise DiffaugError(
            f"diffaug block: architecture has {', '.join(sorted(unknown))}, expected of {name} some of "
            f"{', '.join(brought.kwargs)}; fix it in the plans"
        )
    kwargs = {**brought.kwargs, **changed}
    if not any_patch and not brought.family.takes(patch, kwargs):
        step = " x ".join(map(str, brought.family.step(kwargs)))
        raise DiffaugError(
            f"patch size {' x '.join(map(str, patch))}: found with network {name}, expected multiples of {step} voxels"
            f"{'' if brought.family.takes(brought.family.step(kwargs), kwargs) else ', and more than one of them'}; add a "
            f"configuration that has them: diffaug plan --network {name}"
        )
    if brought.shaped:
        kwargs["input_shape"] = patch
    spelt = {"network_class_name": brought.class_name, "arch_kwargs": kwargs, "_kw_requires_import": []}
    return Network(name, brought.family, spelt, patch, None if changed else brought.stock)
