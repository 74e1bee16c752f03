"""Masked autoencoding: fill in masked blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.nnunet.families import Network
from diffaug.pretraining.pretexts.pretext import Pretext, Shown
from diffaug.training.together import processes, total, uniform

LARGEST_BLOCK = 16  # voxels


@dataclass(frozen=True)
class Mae(Pretext):
    """Fill in masked blocks (masked autoencoder, arXiv 2111.06377; for U-Nets in 3D, arXiv 2410.23132).

    Attributes:
        masked: Share of the blocks; 0.6 to 0.75 is what works for 3D scans (arXiv 2410.23132).
        blocks: How many along the shortest axis of a patch.
        token: Voxels per axis that a transformer takes together first: blocks are whole tokens, so that none is half seen.
    """

    masked: float = 0.7
    blocks: int = 4
    token: tuple[int, ...] = (1, 1, 1)

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`."""
        return channels

    def suited(self, network: Network, channels: int) -> Mae:
        """See `Pretext.suited`: hide whole tokens of the network."""
        return replace(self, token=network.family.token(network.kwargs))

    def predict(self, network: nn.Module, seen: Tensor, masked: Tensor) -> Tensor:
        """Have the network fill in what is hidden.

        Args:
            network: From `(B, C, Z, Y, X)` to the same.
            seen: Volumes, 0 where they are hidden.
            masked: `(B, 1, Z, Y, X)`, 1 where they are hidden.

        Returns:
            Whole volumes.
        """
        return network(seen)  # type: ignore[no-any-return]

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`; the loss is the mean squared error over the masked voxels."""
        size = clean.shape[2:]
        edge = max(1, min(LARGEST_BLOCK, min(size) // self.blocks))
        block = [-(-edge // token) * token for token in self.token]
        cells = [-(-n // edge) for n, edge in zip(size, block, strict=True)]
        masked = (uniform((len(clean), 1, *cells), clean.device) < self.masked).float()
        z, y, x = size
        masked = F.interpolate(masked, scale_factor=tuple(map(float, block)), mode="nearest")[..., :z, :y, :x]
        seen = clean * (1 - masked)  # zero is the mean of a normalised scan
        predicted = self.predict(network, seen, masked).float()
        error = (predicted - clean).square() * masked
        hidden = total(masked.sum()) / processes()  # each process' loss is a part of the whole batch's mean
        loss = error.sum() / (hidden * clean.shape[1]).clamp_min(1)
        return Shown(loss, seen, seen + predicted * masked, clean)
