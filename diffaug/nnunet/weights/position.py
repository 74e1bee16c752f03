"""Learnt position embeddings of one patch size, for another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resampled(embedding: Tensor, before: Sequence[int], now: Sequence[int]) -> Tensor:
    """Interpolate a position embedding between the tokens of one grid and those of another.

    Args:
        embedding: `(1, tokens, D)`, the last axis of the grid fastest.
        before: Tokens along each axis.
        now: The same, wanted.

    Returns:
        `(1, tokens, D)`.

    Raises:
        ValueError: If the embedding has not as many tokens as the grid.
    """
    if embedding.ndim != 3 or embedding.shape[1] != math.prod(before):
        raise ValueError(f"{tuple(embedding.shape)} is no embedding of {math.prod(before)} tokens")
    grid = embedding.movedim(1, 2).unflatten(2, tuple(before))
    return F.interpolate(grid, tuple(now), mode="trilinear", align_corners=False).flatten(2).movedim(1, 2)
