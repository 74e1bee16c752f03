"""Pretexts that beat nothing, added to diffaug's own: what they gained over no pretraining is beside each."""

from __future__ import annotations

from benchmarks.tried.pretexts.recognising import Contrast, Distil, Fusion
from benchmarks.tried.pretexts.restoring import Reverse, SparseMae, Varied
from diffaug.pretraining.pretexts import PRETEXTS, Pretext
from diffaug.pretraining.pretexts.denoise import Denoise
from diffaug.pretraining.pretexts.mae import Mae

# Dice over scratch with 10 labels, from the pool's real scans where nothing else is said; 3 draws in `second_tournament`,
# 2 in `first_tournament` (../results); no interval lies above zero but that of mae-half, which lost nothing to chance.
TRIED: dict[str, Pretext] = {
    "denoise-varied": Varied(Denoise()),  # not run
    "mae-fine": Mae(blocks=8),  # not run
    "mae-half": Mae(masked=0.5),  # +0.0064 (+0.001 to +0.014), over draws not different from mae or denoise
    "mae-sparse": SparseMae(),  # -0.0002 (-0.005 to +0.006)
    "reverse": Reverse(),  # +0.0016 (-0.004 to +0.005)
    "fusion": Fusion(),  # -0.0006 (-0.006 to +0.007)
    "fusion-varied": Varied(Fusion()),  # +0.0006 (-0.003 to +0.004)
    "contrast": Contrast(),  # -0.0032 (-0.011 to +0.002)
    "distil": Distil(),  # synthetic volumes: +0.0053 (-0.004 to +0.019)
}
PRETEXTS.update(TRIED)
