"""How long and fast to pretrain: the pretraining's share of a budget."""

from __future__ import annotations

from diffaug.training.loop import Training

# Batches of nnU-Net's own patch size. On the CPU about as long as nnU-Net itself trains there; on a GPU about as long as
# nnU-Net's 300 epochs of 250 iterations. The CPU's batch and rate are measured (docs/scarce_labels.md): they reach in
# 2000 steps of 2 volumes the held-out loss of 4000 steps of 4 volumes at 0.001. Loading in a process of its own takes a
# twentieth of a core and saves two thirds of the wait for data (benchmarks/pretraining_speed.py).
BUDGETS = {
    "cpu-small": Training(steps=1000, batch_size=2, learning_rate=4e-3, workers=1),
    "gpu-24g": Training(steps=60_000, batch_size=2, learning_rate=3e-4, warmup_steps=1000, workers=8),
    "gpu-80g": Training(steps=100_000, batch_size=4, learning_rate=3e-4, warmup_steps=1000, workers=12),
}
