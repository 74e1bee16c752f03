"""Pretexts: tasks that need no labels and whose solution needs to know what scans look like."""

from __future__ import annotations

from dataclasses import replace

from diffaug.errors import DiffaugError
from diffaug.nnunet.families import Network
from diffaug.pretraining.pretexts.appearance import Varied
from diffaug.pretraining.pretexts.contrast import Contrast
from diffaug.pretraining.pretexts.denoise import Denoise
from diffaug.pretraining.pretexts.distil import Clusters, Distil
from diffaug.pretraining.pretexts.fusion import Fusion
from diffaug.pretraining.pretexts.mae import Mae
from diffaug.pretraining.pretexts.pretext import Pretext, Shown
from diffaug.pretraining.pretexts.reverse import Reverse

__all__ = ["PRETEXTS", "Pretext", "Shown", "pretext_for"]

PRETEXTS: dict[str, Pretext] = {
    "denoise": Denoise(),
    "denoise-varied": Varied(Denoise()),
    "mae": Mae(),
    "mae-fine": Mae(blocks=8),
    "mae-half": Mae(masked=0.5),
    "mae-sparse": Mae(sparse=True),
    "reverse": Reverse(),
    "fusion": Fusion(),
    "fusion-varied": Varied(Fusion()),
    "contrast": Contrast(),
    "distil": Distil(),
    "clusters": Clusters(),
}


def pretext_for(name: str, network: Network) -> Pretext:
    """Fit a pretext to the network that is to solve it.

    Args:
        name: A key of `PRETEXTS`.
        network: The network.

    Returns:
        The pretext.

    Raises:
        DiffaugError: If such a network cannot solve it.
    """
    pretext = PRETEXTS[name]
    if not isinstance(pretext, Mae):
        return pretext
    if pretext.sparse and not network.family.sparse:
        raise DiffaugError(
            f"--pretext {name}: leaves hidden voxels out of convolutions, found network {network.name}, expected another "
            "pretext for it: mae hides whole tokens; mend the option"
        )
    return replace(pretext, token=network.family.token(network.kwargs))
