"""Pretexts, diffaug's own and those that were tried, and networks whose answers are known."""

import torch
from torch import nn

from benchmarks.tried.pretexts import TRIED
from diffaug.pretraining.pretexts import PRETEXTS

ALL = {**PRETEXTS, **TRIED}


class Answer(nn.Module):
    """Answers with a function of what it sees."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        self.seen = x
        return self.answer(x)


def with_features(pretext, clean):
    """The volume, and behind it a teacher's features where the pretext wants them."""
    return torch.cat([clean, torch.randn(len(clean), pretext.taught, *clean.shape[2:])], 1)


def silent(pretext, channels):
    """A network that always answers zero, with as many outputs as the pretext asks for."""
    return Answer(lambda x: x.new_zeros(len(x), pretext.outputs(channels), *x.shape[2:]))


SILENT = Answer(torch.zeros_like)
