"""What all pretexts have in common."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Shown(NamedTuple):
    """What a pretext gives: the loss, and volumes `(B, C, Z, Y, X)` to look at."""

    loss: Tensor
    seen: Tensor
    predicted: Tensor
    truth: Tensor


class Pretext(Protocol):
    """A task for the network of an nnU-Net plan."""

    @property
    def taught(self) -> int:
        """Tell how many channels of a teacher's features follow the volume's own."""

    def outputs(self, channels: int) -> int:
        """Tell how many outputs the network needs for volumes of so many channels."""

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """Set the network the task and measure how well it does.

        Args:
            network: From `(B, C, Z, Y, X)` to `(B, outputs, Z, Y, X)`.
            clean: Normalised volumes, about unit variance, `(B, C + taught, Z, Y, X)`.

        Returns:
            The loss, what the network saw, what it predicted, and what would have been right.
        """
