"""What the autoencoder is trained towards: reconstruction, commitment, a patch discriminator, feature matching."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from diffaug.generator.autoencoder import Autoencoder, noise_error, reconstruction_error
from diffaug.generator.plan import GeneratorPlan
from diffaug.scans.cache import VolumeCache
from diffaug.scans.pictures import mosaic
from diffaug.scans.similarity import psnr, ssim
from diffaug.scans.windows import centred, cut, scattered
from diffaug.training.overfitting import Watch
from diffaug.training.together import processes, total

ADVERSARIAL = 0.1  # of the reconstruction's own gradient at the last layer
ADVERSARIAL_START = 0.5  # share of the training: before that the discriminator would win at once
# A halved latent shall decode to the halved volume (arXiv 2502.09509): it puts coarse structure into the latent's low
# frequencies, where a denoiser finds it. Without it the latent looks like noise, and so do early samples.
SCALE = 0.5
NOISE_WEIGHT = 0.05  # of the estimate of what is lost: little, for the latent is to hold structure first
PIECES = 64  # of scans whose principal components the training begins with
PIECE_REACH = 4  # voxels that a training piece may stick out of the scan
HELD_OUT_SHOWN = 16  # held-out scans measured while training; the audit measures all


class AutoencoderObjective:
    """Trains the autoencoder, as VQ-GAN is (arXiv 2012.09841), on windows of cached scans."""

    averaged: str | None = None
    watch: Watch | None = None

    def __init__(self, plan: GeneratorPlan, cache: VolumeCache) -> None:
        self.plan = plan
        self.cache = cache
        self.autoencoder = Autoencoder(**plan.autoencoder)
        self.autoencoder.begin_linear(self._blocks())
        self.discriminator = make_discriminator(plan)
        self.networks: dict[str, nn.Module] = {"autoencoder": self.autoencoder}
        if self.discriminator is not None:
            self.networks["discriminator"] = self.discriminator
        self.held_out = [centre_window(cache, case, plan.grid.shape) for case in plan.held_out[:HELD_OUT_SHOWN]]

    def example(self, rng: np.random.Generator) -> Tensor:
        """Draw a piece of a random scan.

        Args:
            rng: Source of randomness.

        Returns:
            `(C, Z, Y, X)`.
        """
        return random_piece(self.plan, self.cache, rng)

    def _blocks(self) -> Tensor:
        """Cut random pieces of training scans into blocks of voxels, one for each latent cell, `(N, C, *factors)`."""
        rng = np.random.default_rng(self.plan.autoencoder_training.seed)
        pieces = torch.stack([self.example(rng) for _ in range(PIECES)])
        for axis, factor in enumerate(self.autoencoder.factors, start=2):
            pieces = pieces.unfold(axis, factor, factor)
        return pieces.movedim(1, 4).flatten(0, 3)

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimisers, with VQ-GAN's momenta.

        Args:
            learning_rate: At its peak.

        Returns:
            One for each network.
        """
        return {name: Adam(net.parameters(), learning_rate, betas=(0.5, 0.9)) for name, net in self.networks.items()}

    def losses(self, batch: Tensor, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the autoencoder's loss, then the discriminator's, if there is one.

        Args:
            batch: `(B, C, Z, Y, X)`.
            progress: Share of the training that is done.

        Yields:
            Optimiser, loss, figures.
        """
        reconstruction, lost, halved, penalty, figures = self.autoencoder(batch)
        error, noise = reconstruction_error(reconstruction, batch), noise_error(reconstruction, lost, batch)
        total = error + penalty + SCALE * F.l1_loss(halved, F.avg_pool3d(batch, 2)) + NOISE_WEIGHT * noise
        figures = {"l1": F.l1_loss(reconstruction.detach(), batch), "noise": noise.detach(), **figures}
        if self.discriminator is None or progress < ADVERSARIAL_START:
            yield "autoencoder", total, figures
            return
        self.discriminator.requires_grad_(False)
        fake = self.discriminator(reconstruction)
        real = self.discriminator(batch)
        matching = torch.stack([F.l1_loss(f, r) for f, r in zip(fake[:-1], real[:-1], strict=True)]).mean()
        adversarial = -fake[-1].mean()
        weight = ADVERSARIAL * self._balance(error, adversarial)
        yield "autoencoder", total + weight * adversarial + matching, {**figures, "adversarial_weight": weight}
        self.discriminator.requires_grad_(True)
        fake_logits = self.discriminator(reconstruction.detach())[-1]
        real_logits = self.discriminator(batch)[-1]
        hinge = (F.relu(1 + fake_logits).mean() + F.relu(1 - real_logits).mean()) / 2
        yield "discriminator", hinge, {"real_minus_fake": (real_logits - fake_logits).detach().mean()}

    def _balance(self, error: Tensor, adversarial: Tensor) -> Tensor:
        """Make both gradients equally large at the last layer (arXiv 2012.09841, equation 7)."""
        last = self.autoencoder.head.weight
        (by_error,) = torch.autograd.grad(error, last, retain_graph=True)
        (by_critic,) = torch.autograd.grad(adversarial, last, retain_graph=True)
        whole = [total(gradient).norm() / processes() for gradient in (by_error, by_critic)]
        return (whole[0] / (whole[1] + 1e-4)).clamp(max=1e3)

    @torch.no_grad()
    def reconstruct(self, volumes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Send volumes through the autoencoder.

        Args:
            volumes: Each `(C, Z, Y, X)`.

        Returns:
            The reconstructions.
        """
        self.autoencoder.eval()
        device = self.autoencoder.head.weight.device
        inputs = [torch.from_numpy(v)[None].to(device) for v in volumes]
        outputs = [self.autoencoder.decode(self.autoencoder.encode(x))[0].cpu().numpy() for x in inputs]
        self.autoencoder.train()
        return outputs

    def validate(self, average: nn.Module | None) -> dict[str, float]:
        """Measure reconstructions of held-out scans.

        Args:
            average: Not used.

        Returns:
            PSNR in dB and SSIM.
        """
        self.reconstructed = self.reconstruct(self.held_out)
        pairs = [
            (torch.from_numpy(made)[None], torch.from_numpy(real)[None])
            for made, real in zip(self.reconstructed, self.held_out, strict=True)
        ]
        return {
            "held_out_psnr": float(torch.cat([psnr(*pair) for pair in pairs]).mean()),
            "held_out_ssim": float(torch.cat([ssim(*pair) for pair in pairs]).mean()),
        }

    def preview(self, file: Path, average: nn.Module | None) -> None:
        """Draw held-out scans over their reconstructions of the last validation.

        Args:
            file: The PNG.
            average: Not used.
        """
        real = self.held_out[:4]
        rows = {"held-out scan": [v[0] for v in real], "reconstruction": [v[0] for v in self.reconstructed[:4]]}
        mosaic(rows, file, spacing=self.plan.grid.spacing, orientation=self.plan.grid.orientation)


def make_discriminator(plan: GeneratorPlan) -> PatchDiscriminator | None:
    """Build the discriminator of patches.

    Args:
        plan: The plan.

    Returns:
        An untrained one, as wide as the autoencoder's first level; None where volumes are too thin for any.
    """
    if plan.discriminator_layers is None:
        return None
    return PatchDiscriminator(
        spatial_dims=3,
        channels=plan.autoencoder["channels"][0],
        in_channels=len(plan.channels),
        num_layers_d=plan.discriminator_layers,
        norm="INSTANCE",  # batches of two make batch norm noise
    )


def random_piece(plan: GeneratorPlan, cache: VolumeCache, rng: np.random.Generator) -> Tensor:
    """Cut a piece out of a random training scan.

    Args:
        plan: The plan.
        cache: The cache.
        rng: Source of randomness.

    Returns:
        `(C, Z, Y, X)`, as large as the plan's `autoencoder_crop`.
    """
    volume = cache[plan.cases[rng.integers(len(plan.cases))]]
    window = scattered(volume.shape[1:], plan.autoencoder_crop, PIECE_REACH, rng)
    return torch.from_numpy(cut(volume, window, plan.autoencoder_crop))


def centre_window(cache: VolumeCache, case: str, shape: Sequence[int]) -> np.ndarray:
    """Cut the middle out of a cached scan.

    Args:
        cache: The cache.
        case: The case's id.
        shape: Voxels (Z, Y, X).

    Returns:
        `(C, Z, Y, X)` float32.
    """
    volume = cache[case]
    return cut(volume, centred(volume.shape[1:], shape), shape)
