"""When a fit turns from learning to memorising, and which weights are the last ones before that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WORSE = 1.01  # times the smallest loss: what lies below is the noise of measuring it


@dataclass(frozen=True)
class Watch:
    """What is watched while fitting.

    A generator first learns what scans have in common and only later the scans themselves; the time in between grows
    with their number (arXiv 2505.16959). So no fixed number of steps is right: held-out figures tell.

    Attributes:
        loss: Name of the held-out figure that should fall.
        limits: Names of figures and the value that each must not exceed.
        patience: Validations without improvement after which the fit stops.
    """

    loss: str
    limits: Mapping[str, float] = field(default_factory=dict)
    patience: int = 3


@dataclass(frozen=True)
class Onset:
    """What the figures say so far.

    Attributes:
        best: Index of the validation whose weights are to be kept.
        stop: Whether to stop.
        why: The figure that turned; empty while none has.
    """

    best: int
    stop: bool
    why: str


def find_onset(history: Sequence[Mapping[str, float]], watch: Watch) -> Onset:
    """Look for the onset of overfitting.

    Args:
        history: The figures of every validation so far, at least one.
        watch: What to look at.

    Returns:
        The verdict.
    """
    within = [all(entry.get(name, 0.0) <= limit for name, limit in watch.limits.items()) for entry in history]
    allowed = [i for i, fine in enumerate(within) if fine] or [0]
    best = min(allowed, key=lambda i: history[i][watch.loss])
    late = len(history) - 1 - best >= watch.patience
    exceeded = [name for name, limit in watch.limits.items() if history[-1].get(name, 0.0) > limit]
    worse = [watch.loss] if history[-1][watch.loss] > WORSE * history[best][watch.loss] else []
    why = (exceeded or worse or [""])[0]
    return Onset(best, late and bool(why), why)
