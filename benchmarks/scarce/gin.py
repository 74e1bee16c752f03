"""GIN, the control of restyling: patches through small random networks, which need neither generator nor pool."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from diffaug.pretraining.pretexts.appearance import random_network

SHARE = 0.5  # of the training patches


def with_gin(kind: type[nnUNetTrainer]) -> type[nnUNetTrainer]:
    """Make the trainer that sees a share of its patches in random appearance (arXiv 2111.12525).

    Args:
        kind: The trainer that it is otherwise.

    Returns:
        Its class.
    """

    def train_step(self: Any, batch: dict[str, Any]) -> dict[str, Any]:
        changed = [random_network(volume) if torch.rand(()) < SHARE else volume for volume in batch["data"]]
        return kind.train_step(self, {**batch, "data": torch.stack(changed)})  # type: ignore[no-any-return]

    return type(f"{kind.__name__}Gin", (kind,), {"__module__": __name__, "train_step": train_step})
