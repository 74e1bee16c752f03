"""Denoising: remove noise of an unknown, log-normal level."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.pretraining.pretexts.pretext import Pretext, Shown
from diffaug.training.together import normal


@dataclass(frozen=True)
class Denoise(Pretext):
    """Remove noise of an unknown, log-normal level; trains encoder and decoder.

    The network predicts what is missing between a linear estimate and the truth, scaled to unit variance at every
    level (EDM's preconditioning, arXiv 2206.00364, table 1), but is not told the level: nnU-Net's networks have no
    input for it, and finding it out is part of the task. A useless network has a loss of about one.

    Attributes:
        log_mean: Mean of the logarithm of the noise's standard deviation; a normalised scan's own is 1.
        log_std: Its standard deviation; the default gives noise of 0.1 to 2.5.
    """

    log_mean: float = -0.7
    log_std: float = 0.8

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`."""
        return channels

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`."""
        sigma = (normal((len(clean), 1, 1, 1, 1), clean.device) * self.log_std + self.log_mean).exp()
        total = (1 + sigma.square()).sqrt()
        noisy = clean + sigma * normal(clean.shape, clean.device)
        raw = network(noisy / total).float()
        target = (clean - noisy / total.square()) * total / sigma
        predicted = noisy / total.square() + raw * sigma / total
        return Shown(F.mse_loss(raw, target), noisy, predicted, clean)
