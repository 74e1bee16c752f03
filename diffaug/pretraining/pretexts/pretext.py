"""What all pretexts have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from diffaug.nnunet.families import Network


class Shown(NamedTuple):
    """What a pretext gives: the loss, and volumes `(B, C, Z, Y, X)` to look at."""

    loss: Tensor
    seen: Tensor
    predicted: Tensor
    truth: Tensor


class Pretext(ABC):
    """A task for the network of an nnU-Net plan.

    Attributes:
        taught: How many channels of a teacher's features follow the volume's own.
        helper: What is trained along with the network and is no part of it; None where nothing is.
    """

    taught: ClassVar[int] = 0
    helper: nn.Module | None = None

    @abstractmethod
    def outputs(self, channels: int) -> int:
        """Tell how many outputs the network needs for volumes of so many channels."""

    @abstractmethod
    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """Set the network the task and measure how well it does.

        Args:
            network: From `(B, C, Z, Y, X)` to `(B, outputs, Z, Y, X)`.
            clean: Normalised volumes, about unit variance, `(B, C + taught, Z, Y, X)`.

        Returns:
            The loss, what the network saw, what it predicted, and what would have been right.
        """

    def styles(self, volumes: Iterable[Tensor]) -> dict[str, Any] | None:
        """Tell what the weights file shall hold so that scans can be restyled, where the pretext has learnt that.

        Args:
            volumes: Patches `(C, Z, Y, X)`, one of each scan.

        Returns:
            See `save_encoder`; None where it has not.
        """
        return None

    def suited(self, network: Network, channels: int) -> Pretext:
        """Fit the task to who is to solve it.

        Args:
            network: Which.
            channels: C of the volumes.

        Returns:
            The task; with a helper of its own, random weights drawn from torch's generator, where it needs one.
        """
        return self
