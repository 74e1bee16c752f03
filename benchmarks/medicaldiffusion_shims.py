"""Import FirasGit/medicaldiffusion from a checkout, unmodified, on today's Python and on a machine without a GPU.

Its code (no licence) is never part of this repository. What is missing here is put in place of packages it imports: the
few functions it calls, and nothing where it calls none.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from diffaug.errors import DiffaugError

WIDTH = 16  # the latent's edge: train_ddpm.py sets the U-Net's width to it, which makes 3.02 million parameters
STEPS = 300  # of its DDPM, supplementary table 1


class LightningModule(nn.Module):
    """What VQGAN needs of `pytorch_lightning.LightningModule`: a step count, and somewhere to log to."""

    global_step = 0

    def log(self, *_: Any, **__: Any) -> None:
        """Log nothing."""

    def save_hyperparameters(self) -> None:
        """Save nothing."""


class SliceDifferences(nn.Module):
    """In place of LPIPS, whose weights are downloaded: the error of the differences between neighbouring pixels."""

    def forward(self, real: Tensor, made: Tensor) -> Tensor:
        """Compare slices.

        Args:
            real: `(B, C, Y, X)`.
            made: `(B, C, Y, X)`.

        Returns:
            A scalar.
        """
        return torch.stack([F.l1_loss(torch.diff(made, dim=d), torch.diff(real, dim=d)) for d in (2, 3)]).sum()


class RotaryEmbedding(nn.Module):
    """Rotary position embedding (arXiv 2104.09864, equation 34), as `rotary_embedding_torch` applies it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 10000.0 ** (-torch.arange(0, dim, 2) / dim))

    def rotate_queries_or_keys(self, x: Tensor) -> Tensor:
        """Rotate pairs of channels by their position's angle.

        Args:
            x: `(..., positions, channels)`; the first `dim` channels are rotated.

        Returns:
            The same shape.
        """
        angles = torch.arange(x.shape[-2], device=x.device)[:, None] * self.frequencies
        angles = angles.repeat_interleave(2, -1)
        turned, rest = x[..., : angles.shape[-1]], x[..., angles.shape[-1] :]
        even, odd = turned[..., ::2], turned[..., 1::2]
        across = torch.stack([-odd, even], -1).flatten(-2)
        return torch.cat([turned * angles.cos() + across * angles.sin(), rest], -1)


def check_shape(tensor: Tensor, pattern: str, **sizes: int) -> Tensor:
    """Require named axes to have given sizes, as `einops_exts.check_shape` does.

    Args:
        tensor: The tensor.
        pattern: Names of its axes.
        **sizes: Size of each named axis.

    Returns:
        The tensor.
    """
    return rearrange(tensor, f"{pattern} -> {pattern}", **sizes)


def rearrange_many(tensors: Any, pattern: str, **sizes: int) -> Any:
    """Rearrange several tensors alike, as `einops_exts.rearrange_many` does.

    Args:
        tensors: The tensors.
        pattern: An einops pattern.
        **sizes: Size of each named axis.

    Returns:
        An iterator of tensors.
    """
    return (rearrange(tensor, pattern, **sizes) for tensor in tensors)


SUBSTITUTES: dict[str, dict[str, Any]] = {
    "pytorch_lightning": {"LightningModule": LightningModule},
    "einops_exts": {"check_shape": check_shape, "rearrange_many": rearrange_many},
    "rotary_embedding_torch": {"RotaryEmbedding": RotaryEmbedding},
    "skvideo": {"io": None},
    "skvideo.io": {},
    "torchvision": {"transforms": SimpleNamespace(ToTensor=lambda: None), "utils": None, "models": None},
}


def load_medicaldiffusion(checkout: Path) -> SimpleNamespace:
    """Import its networks, diffusion and trainer.

    Args:
        checkout: A checkout of FirasGit/medicaldiffusion.

    Returns:
        Its classes, by name, and `substituted`: which packages are not the real ones.

    Raises:
        DiffaugError: If the folder is not a checkout.
    """
    if not (checkout / "ddpm" / "diffusion.py").is_file():
        raise DiffaugError(
            f"--medicaldiffusion {checkout}: found no ddpm/diffusion.py, expected a checkout; run: "
            "git clone https://github.com/FirasGit/medicaldiffusion"
        )
    substituted = []
    for name, content in SUBSTITUTES.items():
        parent = name.partition(".")[0]
        if name not in sys.modules and (parent in substituted or importlib.util.find_spec(parent) is None):
            module = ModuleType(name)
            module.__dict__.update(content)
            sys.modules[name] = module
            substituted.append(name)
    if not torch.cuda.is_available():  # it calls .cuda() on everything
        for kind in (Tensor, nn.Module):
            kind.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
    sys.path.insert(0, str(checkout.resolve()))
    try:
        vqgan = importlib.import_module("vq_gan_3d.model.vqgan")
        diffusion = importlib.import_module("ddpm.diffusion")
    finally:
        sys.path.pop(0)
    vqgan.LPIPS = SliceDifferences
    return SimpleNamespace(
        VQGAN=vqgan.VQGAN,
        Codebook=vqgan.Codebook,
        Unet3D=diffusion.Unet3D,
        GaussianDiffusion=diffusion.GaussianDiffusion,
        Trainer=diffusion.Trainer,
        substituted=substituted,
    )


def make_vqgan(library: SimpleNamespace, *, discriminator_start: int) -> Any:
    """Build its VQ-GAN with the settings of train/scripts/train_vqgan.sh and 4x compression.

    Args:
        library: What `load_medicaldiffusion` gave.
        discriminator_start: Optimiser steps before the discriminators count.

    Returns:
        An untrained VQ-GAN.
    """
    model = {
        "embedding_dim": 8,
        "n_codes": 16384,
        "n_hiddens": 16,
        "downsample": [4, 4, 4],
        "norm_type": "group",
        "num_groups": 32,
        "padding_type": "replicate",
        "no_random_restart": False,
        "restart_thres": 1.0,
        "disc_channels": 64,
        "disc_layers": 3,
        "disc_loss_type": "hinge",
        "discriminator_iter_start": discriminator_start,
        "gan_feat_weight": 4.0,
        "image_gan_weight": 1.0,
        "video_gan_weight": 1.0,
        "perceptual_weight": 4.0,
        "l1_weight": 4.0,
        "lr": 3e-4 * (1 / 8) * (2 / 4),  # train_vqgan.py scales it by GPUs / 8 and batch / 4
    }
    cfg = SimpleNamespace(model=SimpleNamespace(**model), dataset=SimpleNamespace(image_channels=1))
    return library.VQGAN(cfg)


def make_diffusion(library: SimpleNamespace, vqgan: Any, cells: tuple[int, int, int]) -> Any:
    """Build its U-Net and DDPM as train_ddpm.py does.

    Args:
        library: What `load_medicaldiffusion` gave.
        vqgan: Its VQ-GAN; the constructor would want a checkpoint of pytorch_lightning.
        cells: Of the latent, (Z, Y, X).

    Returns:
        An untrained `GaussianDiffusion`.
    """
    network = library.Unet3D(dim=WIDTH, dim_mults=(1, 2, 4, 8), channels=8)
    diffusion = library.GaussianDiffusion(
        network, image_size=cells[1], num_frames=cells[0], channels=8, timesteps=STEPS, loss_type="l1"
    )
    diffusion.vqgan = vqgan.eval()
    return diffusion
