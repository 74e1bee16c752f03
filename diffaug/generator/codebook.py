"""The codebook of the VQ-GAN: exponential moving averages, initialised from data, dead codes restarted."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

DECAY = 0.99  # of the moving averages, as in VQ-VAE-2 (arXiv 1906.00446)
DEAD = (
    0.05  # a code used less than this share of the mean is restarted (as Jukebox does, arXiv 2005.00341, section 3.2)
)
CHUNK = 1024  # positions compared at a time, so that memory does not grow with the volume


class Codebook(nn.Module):
    """Replaces each latent vector by the nearest of `size` learned codes (VQ-VAE, arXiv 1711.00937, appendix A.1).

    All of its state is in buffers, the flag `filled` too: a resumed run never initialises the codes a second time.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor
    filled: Tensor

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(size, channels))
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", torch.zeros(size, channels))
        self.register_buffer("filled", torch.tensor(False))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Find the nearest code.

        Args:
            vectors: `(N, C)`.

        Returns:
            Indices `(N,)`.
        """
        half_norms = 0.5 * self.codes.square().sum(1)
        with torch.autocast(vectors.device.type, enabled=False):  # distances in half precision pick wrong codes
            # |v - c|^2 without the part that all codes share
            parts = [torch.addmm(half_norms, v, self.codes.T, alpha=-1).argmin(1) for v in vectors.float().split(CHUNK)]
        return torch.cat(parts)

    def quantise(self, latent: Tensor) -> Tensor:
        """Snap a latent to the codebook.

        Args:
            latent: `(B, C, Z, Y, X)`.

        Returns:
            The same shape.
        """
        vectors = latent.movedim(1, -1)
        codes = F.embedding(self.nearest(vectors.flatten(0, -2)), self.codes)
        return codes.view_as(vectors).movedim(-1, 1)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise for training; in training mode the codes move too.

        Args:
            latent: `(B, C, Z, Y, X)`.

        Returns:
            The quantised latent with straight-through gradient, the commitment loss, and the perplexity of the codes'
            use (1: one code only; `size`: all alike).
        """
        latent = latent.float()
        vectors = latent.detach().movedim(1, -1).flatten(0, -2)
        if self.training and not self.filled:
            self._fill(vectors)
        indices = self.nearest(vectors)
        moved = latent.movedim(1, -1)
        quantised = F.embedding(indices, self.codes).view_as(moved).movedim(-1, 1)
        share = torch.bincount(indices, minlength=len(self.codes)) / len(indices)
        if self.training:
            self._move(vectors, indices)
        commitment = F.mse_loss(latent, quantised)
        return latent + (quantised - latent).detach(), commitment, torch.exp(torch.special.entr(share).sum())

    def _candidates(self, vectors: Tensor) -> Tensor:
        """Draw as many latent vectors as there are codes, the same ones in every process."""
        picks = torch.randint(len(vectors), (len(self.codes),), device=vectors.device)
        drawn = vectors[picks]
        if dist.is_initialized():
            dist.broadcast(drawn, 0)
        return drawn

    def _fill(self, vectors: Tensor) -> None:
        self.codes.copy_(self._candidates(vectors))
        self.sums.copy_(self.codes)
        self.filled.fill_(True)

    def _move(self, vectors: Tensor, indices: Tensor) -> None:
        counts = torch.bincount(indices, minlength=len(self.codes)).to(vectors)
        sums = torch.zeros_like(self.sums).index_add_(0, indices, vectors)
        if dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.counts.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(sums, 1 - DECAY)
        mean = self.counts.mean()
        dead = self.counts < DEAD * mean
        self.sums.copy_(torch.where(dead[:, None], self._candidates(vectors) * mean, self.sums))
        self.counts.copy_(torch.where(dead, mean, self.counts))
        self.codes.copy_(self.sums / self.counts[:, None])
