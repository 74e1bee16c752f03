"""What diffaug must know of a kind of network: how it is built, its parts, what tells two apart, what it takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from torch import nn

ENCODER_PARTS = ("stem", "encoder", "position")  # what `encoder` means where weights are loaded


class Keys(NamedTuple):
    """Names of modules and tensors, as nnssl's adaptation plan lists them.

    Attributes:
        encoder: The module that is most of the encoder.
        stem: The module that sees the image first; within the encoder or beside it.
        inputs: Modules whose weights depend on the number of input channels.
        position: The learnt position embedding, a tensor; None where there is none.
    """

    encoder: str
    stem: str
    inputs: tuple[str, ...]
    position: str | None = None


@dataclass(frozen=True)
class Recipe:
    """How a family is trained where the plan's `diffaug` block says nothing else.

    Attributes:
        optimizer: `sgd` or `adamw`.
        learning_rates: Of each optimiser, at its peak.
        weight_decay: Of AdamW; SGD keeps nnU-Net's own.
        betas: Of AdamW.
        gradient_clip: Largest norm of the gradients; None for nnU-Net's own.
        pretraining_rate: The highest learning rate of its pretraining.
        pretext: A key of `diffaug.pretraining.pretexts.PRETEXTS`: what helped most.
    """

    optimizer: str = "sgd"
    learning_rates: Mapping[str, float] = field(default_factory=lambda: {"sgd": 1e-2, "adamw": 3e-3})
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float | None = None
    pretraining_rate: float = 1.0
    pretext: str = "denoise"


# arXiv 2503.01835, and nnU-Net's own trainers of such networks
TRANSFORMERS = Recipe(
    "adamw", {"sgd": 1e-2, "adamw": 3e-4}, 5e-2, (0.9, 0.98), gradient_clip=1.0, pretraining_rate=1e-3, pretext="mae"
)


def as_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """Spell arguments as JSON gives them back, so that two spellings are one.

    Args:
        values: By name.

    Returns:
        The same, lists in place of tuples.
    """
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


class Family(ABC):
    """A kind of network; stateless, one entry of the registry per kind."""

    recipe: ClassVar[Recipe] = Recipe()
    deep_supervision: ClassVar[bool] = False
    sparse: ClassVar[bool] = False  # whether its encoder's convolutions can leave hidden voxels out
    # names under which others store weights of networks whose arguments they do not write
    known: ClassVar[Mapping[str, tuple[str, Mapping[str, Any]]]] = {}

    @abstractmethod
    def build(
        self, architecture: Mapping[str, Any], channels: int, outputs: int, *, deep_supervision: bool
    ) -> nn.Module:
        """Build a network.

        Args:
            architecture: As nnU-Net's plans spell it: `network_class_name`, `arch_kwargs`, `_kw_requires_import`.
            channels: C of the volumes.
            outputs: Of the last layer.
            deep_supervision: Whether it also answers at lower resolutions, where the family can.

        Returns:
            The network.
        """

    @abstractmethod
    def keys(self, network: Any) -> Keys:
        """Name the modules that others' tools look for.

        Args:
            network: Of this family, unwrapped.

        Returns:
            Their names.
        """

    @abstractmethod
    def part(self, tensor: str) -> str:
        """Tell which part of a network a tensor belongs to.

        Args:
            tensor: Its name.

        Returns:
            `stem`, `encoder`, `position`, `decoder`, `head`, which no pretraining is carried over in, or `unused`.
        """

    @abstractmethod
    def identity(self, kwargs: Mapping[str, Any], *, with_decoder: bool) -> dict[str, Any]:
        """Give what two networks must share for one to start from the other's weights.

        Args:
            kwargs: The network's arguments.
            with_decoder: Whether its decoder is carried over, too.

        Returns:
            Argument and value, spelt one way, the telling ones first.
        """

    @abstractmethod
    def step(self, kwargs: Mapping[str, Any]) -> list[int]:
        """Tell what a patch size must be a multiple of.

        Args:
            kwargs: The network's arguments.

        Returns:
            Voxels, for each axis.
        """

    def takes(self, patch: Sequence[int], kwargs: Mapping[str, Any]) -> bool:
        """Tell whether the network can take patches of a size.

        Args:
            patch: In voxels.
            kwargs: The network's arguments.

        Returns:
            Whether it can.
        """
        step = self.step(kwargs)
        return len(patch) == len(step) and not any(edge % each for edge, each in zip(patch, step, strict=True))

    def token(self, kwargs: Mapping[str, Any]) -> tuple[int, ...]:
        """Tell how many voxels the network takes together first, which a mask then hides or shows as one.

        Args:
            kwargs: The network's arguments.

        Returns:
            Voxels, for each axis.
        """
        return (1, 1, 1)

    @abstractmethod
    def small(self, architecture: Mapping[str, Any]) -> dict[str, Any]:
        """Shrink a network to what two CPU cores can train.

        Args:
            architecture: As nnU-Net's plans spell it.

        Returns:
            Entries for a configuration of nnU-Net's plans.
        """
