"""What a killed run goes on from: weights, optimisers, averages, figures, step."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diffaug.errors import DiffaugError
from diffaug.files import atomic_path
from diffaug.training.overfitting import Onset, Watch, find_onset
from diffaug.training.step import Objective

SAVING = 0.005  # share of the time that checkpoints may take


class Checkpoint:
    """The resumable state: weights, buffers, optimisers, average, step. Randomness needs none, see `batches`."""

    def __init__(self, file: Path, identity: str) -> None:
        self.file = file
        self.identity = identity
        self.history: list[dict[str, float]] = []  # figures of every validation
        self.best: dict[str, Tensor] = {}  # averaged weights of the best of them
        self.saved, self.cost = 0.0, 0.0  # when the last checkpoint was written, and how many seconds it took

    def due(self) -> bool:
        """Tell whether enough time has gone by for another checkpoint to be cheap."""
        return self.cost <= SAVING * (time.monotonic() - self.saved)

    def remember(self, figures: dict[str, float], watch: Watch, average: nn.Module | None) -> Onset:
        """Add a validation, and keep the averaged weights if it is the best so far."""
        self.history.append(figures)
        onset = find_onset(self.history, watch)
        if onset.best == len(self.history) - 1 and average is not None:
            self.best = {key: value.detach().clone() for key, value in average.state_dict().items()}
        return onset

    def save(
        self, step: int, objective: Objective, optimizers: dict[str, Optimizer], average: nn.Module | None
    ) -> None:
        """Write everything, atomically."""
        content = {
            "identity": self.identity,
            "step": step,
            "networks": {name: network.state_dict() for name, network in objective.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
            "average": average.state_dict() if average is not None else None,
            "history": self.history,
            "best": self.best,
        }
        begun = time.monotonic()
        with atomic_path(self.file) as temporary:
            torch.save(content, temporary)
        self.saved = time.monotonic()
        self.cost = self.saved - begun

    def load(self, objective: Objective, optimizers: dict[str, Optimizer], average: nn.Module | None) -> int:
        """Read everything back, and tell the step; 0 where there is no checkpoint."""
        if not self.file.is_file():
            return 0
        try:
            content = torch.load(self.file, map_location="cpu", weights_only=True)
            identity = content["identity"]
        except Exception as error:  # torch raises many kinds for a broken file
            raise DiffaugError(
                f"{self.file}: not a whole checkpoint ({type(error).__name__}), expected one of diffaug's; delete it "
                "to start this fit anew"
            ) from error
        if identity != self.identity:
            raise DiffaugError(
                f"{self.file}: belongs to other settings or data, expected those of this run; restore them (an "
                "edited plan.json?), or delete the file to begin this network anew"
            )
        for name, network in objective.networks.items():
            network.load_state_dict(content["networks"][name])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(content["optimizers"][name])
        if average is not None:
            average.load_state_dict(content["average"])
        self.history, self.best = content["history"], content["best"]
        return int(content["step"])
