"""Pretexts: tasks that need no labels and whose solution needs to know what scans look like."""

from __future__ import annotations

from diffaug.pretraining.pretexts.appearance import Varied
from diffaug.pretraining.pretexts.contrast import Contrast
from diffaug.pretraining.pretexts.denoise import Denoise
from diffaug.pretraining.pretexts.distil import Clusters, Distil
from diffaug.pretraining.pretexts.fusion import Fusion
from diffaug.pretraining.pretexts.mae import Mae
from diffaug.pretraining.pretexts.pretext import Pretext, Shown
from diffaug.pretraining.pretexts.reverse import Reverse

__all__ = ["PRETEXTS", "Pretext", "Shown"]

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
