"""How long and fast to pretrain: the pretraining's share of a budget."""

from __future__ import annotations

from diffaug.engine.loop import Training

# Adam without warm restarts; batches of nnU-Net's own patch size. The numbers of steps are a multiple of what the same
# budget gives to fine-tuning, see docs/architecture.md.
BUDGETS = {
    "cpu-small": Training(steps=600, batch_size=4, learning_rate=1e-3),
    "gpu-24g": Training(steps=60_000, batch_size=2, learning_rate=3e-4, warmup_steps=1000, workers=8),
    "gpu-80g": Training(steps=100_000, batch_size=4, learning_rate=3e-4, warmup_steps=1000, workers=12),
}
