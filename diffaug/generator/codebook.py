"""The codebooks of the VQ-GAN: exponential moving averages, initialised from data, dead codes restarted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.training.together import chance, own_places, processes, total

COMMITMENT = 0.25  # VQ-VAE, arXiv 1711.00937, section 3.2
DECAY = 0.99  # of the moving averages, as in VQ-VAE-2 (arXiv 1906.00446)
DEAD = (
    0.05  # a code used less than this share of the mean is restarted (as Jukebox does, arXiv 2005.00341, section 3.2)
)
CHUNK = 1024  # positions compared at a time, so that memory does not grow with the volume


class Codebook(nn.Module):
    """Replaces each latent vector by the nearest of `size` learned codes (VQ-VAE, arXiv 1711.00937, appendix A.1).

    With several groups the vector is cut into as many parts, each with codes of its own (product quantisation, Jégou et
    al. 2011): as precise as `size ** groups` codes, at the price of `groups * size`. All of its state is in buffers,
    the flag `filled` too: a resumed run never initialises the codes a second time. Part g of a vector has its channels
    g, g + groups, g + 2 groups ...
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor
    filled: Tensor

    def __init__(self, size: int, channels: int, groups: int = 1) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} latent channels do not divide into {groups} groups")
        self.groups = groups
        self.register_buffer("codes", torch.zeros(groups, size, channels // groups))
        self.register_buffer("counts", torch.ones(groups, size))
        self.register_buffer("sums", torch.zeros(groups, size, channels // groups))
        self.register_buffer("filled", torch.tensor(False))

    def _parts(self, latent: Tensor) -> Tensor:
        """Lay vectors side by side: `(B, C, Z, Y, X)` to `(groups, N, C / groups)`."""
        vectors = latent.movedim(1, -1)
        return vectors.reshape(-1, vectors.shape[-1] // self.groups, self.groups).permute(2, 0, 1)

    def nearest(self, parts: Tensor) -> Tensor:
        """Find the nearest code of each part.

        Args:
            parts: `(groups, N, C / groups)`.

        Returns:
            Indices `(groups, N)`.
        """
        half_norms = 0.5 * self.codes.square().sum(2, keepdim=True).mT
        with torch.autocast(parts.device.type, enabled=False):  # distances in half precision pick wrong codes
            # |v - c|^2 without the part that all codes share
            pieces = [
                torch.baddbmm(half_norms, v, self.codes.mT, alpha=-1).argmin(2) for v in parts.float().split(CHUNK, 1)
            ]
        return torch.cat(pieces, 1)

    def indices(self, latent: Tensor) -> Tensor:
        """Tell the codes of a latent.

        Args:
            latent: `(B, C, Z, Y, X)`.

        Returns:
            Indices `(groups, B * Z * Y * X)`.
        """
        return self.nearest(self._parts(latent))

    def _look_up(self, indices: Tensor, latent: Tensor) -> Tensor:
        parts = self.codes.gather(1, indices[..., None].expand(-1, -1, self.codes.shape[2]))
        vectors = parts.permute(1, 2, 0).reshape(latent.movedim(1, -1).shape)
        return vectors.movedim(-1, 1)

    def quantise(self, latent: Tensor) -> Tensor:
        """Snap a latent to the codebook.

        Args:
            latent: `(B, C, Z, Y, X)`.

        Returns:
            The same shape.
        """
        return self._look_up(self.indices(latent), latent)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantise for training; in training mode the codes move too.

        Args:
            latent: `(B, C, Z, Y, X)`.

        Returns:
            The quantised latent with straight-through gradient, the weighted commitment loss, and as a figure the
            perplexity of the codes' use (1: one code only; `size`: all alike), mean over the groups.
        """
        latent = latent.float()
        parts = self._parts(latent.detach())
        if self.training and not self.filled:
            self._fill(parts)
        indices = self.nearest(parts)
        quantised = self._look_up(indices, latent)
        used = total(
            torch.zeros_like(self.counts).scatter_add_(1, indices, torch.ones_like(indices, dtype=latent.dtype))
        )
        if self.training:
            self._move(parts, indices, used)
        share = used / used.sum(1, keepdim=True)
        perplexity = torch.exp(torch.special.entr(share).sum(1)).mean()
        commitment = COMMITMENT * F.mse_loss(latent, quantised)
        return latent + (quantised - latent).detach(), commitment, {"perplexity": perplexity}

    def _candidates(self, parts: Tensor) -> Tensor:
        """Draw as many latent vectors as there are codes, the same ones in every process."""
        count, places = parts.shape[1], own_places(parts.shape[1])
        picks = torch.randint(
            count * processes(), (self.codes.shape[1],), device=parts.device, generator=chance(parts.device)
        )
        picks = picks - places.start
        own = (picks >= 0) & (picks < count)
        return total(parts[:, picks.clamp(0, count - 1)] * own[:, None])

    def _fill(self, parts: Tensor) -> None:
        self.codes.copy_(self._candidates(parts))
        self.sums.copy_(self.codes)
        self.filled.fill_(True)

    def _move(self, parts: Tensor, indices: Tensor, used: Tensor) -> None:
        sums = torch.zeros_like(self.sums).scatter_add_(1, indices[..., None].expand_as(parts), parts)
        self.counts.lerp_(used, 1 - DECAY)
        self.sums.lerp_(total(sums), 1 - DECAY)
        mean = self.counts.mean(1, keepdim=True)
        dead = self.counts < DEAD * mean
        self.sums.copy_(torch.where(dead[..., None], self._candidates(parts) * mean[..., None], self.sums))
        self.counts.copy_(torch.where(dead, mean, self.counts))
        self.codes.copy_(self.sums / self.counts[..., None])
