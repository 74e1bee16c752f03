"""What the loop trains: networks, optimisers, losses, held-out figures, a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from diffaug.training.overfitting import Watch


class Objective(Protocol):
    """What is trained, and towards what."""

    networks: dict[str, nn.Module]
    """All networks, by name; their weights and buffers are the state."""

    averaged: str | None
    """The network whose weights are averaged, if any."""

    watch: Watch | None
    """What ends the fit early; None where only the number of steps does."""

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimisers, by name."""

    def losses(self, batch: Any, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield (optimiser, loss, figures) one after another; each is stepped before the next is asked for.

        `progress` is the share of the training that is done, 0 to 1.
        """

    def validate(self, average: nn.Module | None) -> dict[str, float]:
        """Measure held-out data; `average` is the averaged network, if any."""

    def preview(self, file: Path, average: nn.Module | None) -> None:
        """Draw a picture of the state of things."""
