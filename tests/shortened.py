"""diffaug with fits of a few steps: what a tutorial's or an example's commands do, in seconds."""

from dataclasses import replace

from diffaug.budgets import Budget, Training

FEW = Training(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1)
STEPS = 2  # of the audit's classifier and encoder


def short(budget: Budget) -> Budget:
    """A budget with a few steps of each fit, and smaller networks."""
    return replace(
        budget,
        autoencoder={**budget.autoencoder, "channels": [8, 8], "codes": 64},
        denoiser={**budget.denoiser, "channels": [8, 8]},
        refiner={"width": 8, "blocks": 1},
        autoencoder_training=FEW,
        refiner_training=replace(FEW, ema_decay=0.9),
        denoiser_training=replace(FEW, ema_decay=0.9),
        pretraining=FEW,
        nnunet={**budget.nnunet, "epochs": 1, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1},
    )
