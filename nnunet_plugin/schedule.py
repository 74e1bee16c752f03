"""The learning-rate schedule of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class WarmupPolyLR:
    """Linear warm-up, then nnU-Net's polynomial decay: a pure function of the epoch, so a resumed run needs no state.

    Attributes:
        optimizer: Whose learning rate is set.
        initial_lr: Learning rate at the end of the warm-up.
        warmup_epochs: Epochs of linear warm-up.
        epochs: Epochs in all.
        decoder_first: Epochs in which the first group of parameters, the encoder, keeps its weights.
    """

    optimizer: torch.optim.Optimizer
    initial_lr: float
    warmup_epochs: int
    epochs: int
    decoder_first: int = 0

    def lr(self, epoch: int) -> float:
        """Tell the learning rate of an epoch, counted from 0."""
        if epoch < self.warmup_epochs:
            return self.initial_lr * (epoch + 1) / self.warmup_epochs
        return self.initial_lr * (1 - (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)) ** 0.9

    def step(self, epoch: int) -> None:
        """Set the learning rate of an epoch; nnU-Net calls this as the epoch starts."""
        for number, group in enumerate(self.optimizer.param_groups):
            group["lr"] = 0.0 if number == 0 and epoch < self.decoder_first else self.lr(epoch)
