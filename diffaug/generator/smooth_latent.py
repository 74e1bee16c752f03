"""A latent without codes: noise keeps it smooth, so that a denoiser has only structure to learn."""

from __future__ import annotations

from torch import Tensor, nn

from diffaug.training.together import normal

NOISE = 0.1  # standard deviation in training; latents are about as large as one
SIZE = 1e-3  # weight of the latent's mean square: else it would outgrow the noise


class SmoothLatent(nn.Module):
    """Passes latents on, in training with Gaussian noise: what lies below it cannot be told apart, and is not stored.

    So two latents that differ little decode to volumes that differ little, and the scans' own noise, most of what a
    latent of many channels holds, does not enter. The variance is fixed where that of a variational autoencoder is
    learned (Ghosh et al. 2020, "From variational to deterministic autoencoders", arXiv 1903.12436, section 3).
    """

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Add the noise.

        Args:
            latent: `(B, C, Z, Y, X)`.

        Returns:
            The noisy latent, the penalty for its size, and its mean square as a figure.
        """
        square = latent.float().square().mean()
        return latent + NOISE * normal(latent.shape, latent.device), SIZE * square, {"latent_square": square.detach()}

    def quantise(self, latent: Tensor) -> Tensor:
        """Leave a latent as it is: there are no codes.

        Args:
            latent: `(B, C, Z, Y, X)`.

        Returns:
            The same.
        """
        return latent
