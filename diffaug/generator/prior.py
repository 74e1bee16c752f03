"""The Gaussian nearest to a set of latents: what can be said of a noisy latent before any network has learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PRIOR_FOLDS = 4  # scans whose spread is measured are never among those that the axes come from
LEAST_VARIANCE = 1e-4  # variance of a cell: latents have a variance of one, and no cell is known for certain
SPARE = 8  # directions that the randomised decomposition looks at beyond those that are kept


class GaussianPrior(nn.Module):
    """Mean of every cell, leading principal components and their variances, variance of the rest cell by cell.

    The best estimate of a Gaussian's sample under noise is linear and known in closed form (Wiener 1949); EDM's skip
    connection (arXiv 2206.00364, table 1) is this estimate for a Gaussian without any structure. At high noise levels
    trained denoisers come close to that of the data's own Gaussian (arXiv 2412.09726), so a denoiser that begins there
    need not learn it. Without components, and before `learn`, the prior is the structureless Gaussian of EDM.

    Args:
        channels: C of the latent.
        cells: Cells (z, y, x) of the latent; without components one is enough for latents of any size.
        components: Number of principal components.

    Attributes:
        mean: Of every cell, `(1, C, z, y, x)`.
        axes: Principal components, orthonormal, `(components, C, z, y, x)`.
        variances: Along them, `(components,)`.
        rest: Variance beside them of every cell, `(1, C, z, y, x)`.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    rest: Tensor

    def __init__(self, channels: int, cells: Sequence[int] = (1, 1, 1), components: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, *cells))
        self.register_buffer("axes", torch.zeros(components, channels, *cells))
        self.register_buffer("variances", torch.ones(components))
        self.register_buffer("rest", torch.ones(1, channels, *cells))

    @torch.no_grad()
    def learn(self, latents: Tensor, views: int) -> None:
        """Measure latents. Where components are wanted, variances are those of scans that the axes were not fitted to.

        Along the axes fitted to them, the training scans spread more than others do, and beside them less. Taken at face
        value that would tell the denoiser that little is left to be found where in truth most is.

        Args:
            latents: `(N, C, z, y, x)`, the windows of each scan one after another.
            views: Windows of each scan.
        """
        if not len(self.axes):
            return
        size = latents.shape[1:]
        scan = torch.arange(len(latents)) // views
        fold = scan * PRIOR_FOLDS // (int(scan[-1]) + 1)
        along, beside = torch.zeros_like(self.variances), torch.zeros_like(self.rest)
        for number in range(PRIOR_FOLDS):
            mean, axes = self._leading(latents[fold != number])
            apart = (latents[fold == number] - mean).flatten(1)
            scores = apart @ axes.T
            along += scores.square().sum(0)
            beside += (apart - scores @ axes).square().sum(0).view_as(beside)
        self.variances.copy_(along / len(latents))
        self.rest.copy_((beside / len(latents)).clamp_min(LEAST_VARIANCE))
        mean, axes = self._leading(latents)
        self.mean.copy_(mean)
        self.axes.copy_(axes.view(-1, *size))

    def _leading(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean and leading axes `(components, F)`."""
        flat = latents.flatten(1)
        count = len(self.axes)
        directions = torch.pca_lowrank(flat, min(count + SPARE, *flat.shape))[2]
        return latents.mean(0, keepdim=True), directions[:, :count].T

    def forward(self, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate the clean latent, and how far off the estimate will be.

        The variance of the rest differs from cell to cell, so the axes are not quite those of the whole covariance; the
        estimate is the exact one where it is the same everywhere.

        Args:
            noisy: `(B, C, z, y, x)`: clean latent plus `sigma` times unit noise.
            sigma: `(B,)`.

        Returns:
            The estimate, shaped as `noisy`, and the root mean square of its error, per channel, `(B, C, 1, 1, 1)`.
        """
        with torch.autocast(noisy.device.type, enabled=False):  # its directions must stay orthogonal
            noise = sigma.float().square().view(-1, 1, 1, 1, 1)
            apart = noisy.float() - self.mean
            scores = torch.einsum("bczyx,kczyx->bk", apart, self.axes)
            kept = self.variances / (self.variances + noise.view(-1, 1))
            beside = apart - torch.einsum("bk,kczyx->bczyx", scores, self.axes)
            known = torch.einsum("bk,kczyx->bczyx", scores * kept, self.axes)
            share = self.rest / (self.rest + noise)
            estimate = self.mean + known + share * beside
            left = (share * noise).mean((2, 3, 4))
            left = left + (kept * noise.view(-1, 1)) @ self.axes.square().mean((2, 3, 4))
        return estimate, left.sqrt()[..., None, None, None]
