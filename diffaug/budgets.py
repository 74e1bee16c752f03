"""The budgets, one table: what generator, pretraining and nnU-Net may spend on a machine. People choose one of them.

Pretraining has batches of nnU-Net's own patch size. On the CPU it is about as long as nnU-Net itself trains there, on a GPU
about as long as nnU-Net's 300 epochs of 250 batches. The CPU's batch and rate are measured (the lab notebook,
docs/notebook/short_trainings.md): 2000 steps of 2 volumes reach the held-out loss of 4000 steps of 4 volumes at 0.001.
Loading in a process of its own takes a twentieth of a core and saves two thirds of the wait for data
(benchmarks/pretraining_speed.py).

nnU-Net: pretrained weights are fine-tuned for 150, 300 or 1000 epochs in nnssl; 300 epochs of 250 batches still show each of
a few dozen labelled cases thousands of times, and a whole five-fold comparison with the twin stays affordable on one 24 GB
GPU. 1000 is nnU-Net's own length, for figures that stand beside published ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Training:
    """How long and how fast to train.

    Attributes:
        steps: Optimiser steps.
        batch_size: Volumes per step, over all processes.
        learning_rate: At its peak; linear warm-up, then half a cosine down to zero.
        warmup_steps: Length of the warm-up.
        gradient_clip: Largest norm of the gradients of one optimiser.
        ema_decay: Of the averaged weights, per step; None where the last weights are used.
        seed: Of everything random.
        workers: Data loading processes; 0 loads in the training process.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 50
    gradient_clip: float = 1.0
    ema_decay: float | None = None
    seed: int = 0
    workers: int = 0


@dataclass(frozen=True)
class Budget:
    """A size of machine, and what each part may spend on it.

    Attributes:
        voxels: The most voxels of a window.
        crop: Edge in voxels of what the autoencoder trains on: it is convolutional, and small pieces make many steps.
        factor: Compression per axis; halved along an axis whose voxels are twice as long as the shortest.
        autoencoder: Widths per level, blocks, latent channels.
        denoiser: Widths per level, blocks, attention.
        refiner: Width and blocks.
        cells: The most latent cells in a batch of the denoiser: fewer volumes are in it where latents are large, as those
            of long voxels are, which are compressed less.
        views: Windows cached per scan.
        autoencoder_training: How long and fast.
        refiner_training: How long and fast.
        denoiser_training: How long and fast.
        pretraining: How long and fast the network of nnU-Net's plan is pretrained.
        nnunet: What nnU-Net's trainers are told, the `diffaug` block of its configuration.
    """

    voxels: int
    crop: int
    factor: int
    autoencoder: dict[str, Any]
    denoiser: dict[str, Any]
    refiner: dict[str, Any]
    cells: int
    views: int
    autoencoder_training: Training
    refiner_training: Training
    denoiser_training: Training
    pretraining: Training
    nnunet: dict[str, Any]


BUDGETS = {
    # two CPU cores: half an hour where scans are small, an hour where they have a hundred thousand voxels
    "cpu-small": Budget(
        voxels=2**17,
        crop=32,
        factor=4,
        autoencoder={"channels": [16, 32], "blocks": 1, "latent_channels": 4},
        denoiser={"channels": [48, 48], "blocks": 1, "attention": True},
        refiner={"width": 32, "blocks": 4},
        cells=2**13,
        views=8,
        autoencoder_training=Training(steps=1500, batch_size=4, learning_rate=2e-3),
        refiner_training=Training(steps=2500, batch_size=8, learning_rate=2e-3, ema_decay=0.998),
        denoiser_training=Training(steps=9000, batch_size=16, learning_rate=2e-3, ema_decay=0.998),
        pretraining=Training(steps=1000, batch_size=2, learning_rate=4e-3, workers=1),
        nnunet={"epochs": 50, "iterations_per_epoch": 20, "val_iterations_per_epoch": 2, "optimizer": "adamw"},
    ),
    # one GPU with 16 to 24 GB: hours
    "gpu-24g": Budget(
        voxels=2**21,
        crop=96,
        factor=4,
        autoencoder={"channels": [32, 64], "blocks": 2, "latent_channels": 4},
        denoiser={"channels": [128, 256, 384], "blocks": 2, "attention": True},
        refiner={"width": 64, "blocks": 6},
        cells=2**18,
        views=8,
        autoencoder_training=Training(steps=40_000, batch_size=2, learning_rate=3e-4, warmup_steps=500, workers=6),
        refiner_training=Training(
            steps=20_000, batch_size=2, learning_rate=5e-4, warmup_steps=500, ema_decay=0.999, workers=6
        ),
        denoiser_training=Training(
            steps=60_000, batch_size=16, learning_rate=2e-4, warmup_steps=1000, ema_decay=0.9995, workers=4
        ),
        pretraining=Training(steps=60_000, batch_size=2, learning_rate=3e-4, warmup_steps=1000, workers=8),
        nnunet={"epochs": 300},
    ),
    # one GPU with 80 GB or more: a day
    "gpu-80g": Budget(
        voxels=2**23,
        crop=128,
        factor=4,
        autoencoder={"channels": [64, 128], "blocks": 2, "latent_channels": 4},
        denoiser={"channels": [192, 384, 512], "blocks": 2, "attention": True},
        refiner={"width": 96, "blocks": 6},
        cells=2**20,
        views=8,
        autoencoder_training=Training(steps=60_000, batch_size=2, learning_rate=3e-4, warmup_steps=500, workers=12),
        refiner_training=Training(
            steps=30_000, batch_size=2, learning_rate=5e-4, warmup_steps=500, ema_decay=0.999, workers=12
        ),
        denoiser_training=Training(
            steps=100_000, batch_size=16, learning_rate=2e-4, warmup_steps=1000, ema_decay=0.9998, workers=6
        ),
        pretraining=Training(steps=100_000, batch_size=4, learning_rate=3e-4, warmup_steps=1000, workers=12),
        nnunet={"epochs": 1000},
    ),
}
DEFAULT = "gpu-24g"

# The networks of "Medical Diffusion" (arXiv 2211.03364) in any budget: a VQ-GAN of as many codes; with a critic it learns
# at this rate at most.
PAPER = "paper"
PAPERS_LATENT = {"latent_channels": 8, "codes": 16384, "groups": 2}
PAPERS_RATE = 1e-3
