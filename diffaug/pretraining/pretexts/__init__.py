"""Pretexts: tasks that need no labels and whose solution needs to know what scans look like."""

from __future__ import annotations

from diffaug.nnunet.families import Network
from diffaug.pretraining.pretexts.anatomy import Anatomy
from diffaug.pretraining.pretexts.clusters import Clusters
from diffaug.pretraining.pretexts.denoise import Denoise
from diffaug.pretraining.pretexts.mae import Mae
from diffaug.pretraining.pretexts.pretext import Pretext, Shown

__all__ = ["PRETEXTS", "Pretext", "Shown", "pretext_for"]

PRETEXTS: dict[str, Pretext] = {"denoise": Denoise(), "mae": Mae(), "anatomy": Anatomy(), "clusters": Clusters()}


def pretext_for(name: str, network: Network, channels: int) -> Pretext:
    """Fit a pretext to the network that is to solve it.

    Args:
        name: A key of `PRETEXTS`.
        network: The network.
        channels: C of the volumes.

    Returns:
        The pretext.

    Raises:
        DiffaugError: If such a network cannot solve it.
    """
    return PRETEXTS[name].suited(network, channels)
