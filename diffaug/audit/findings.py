"""All that an audit found, as the manifest keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffaug.audit.apartness import C2ST, Apartness
from diffaug.audit.discriminant import TEXTURE_C2ST
from diffaug.audit.fidelity import Fidelity
from diffaug.audit.figures import Compared, Figure
from diffaug.audit.memorisation import Memorisation
from diffaug.scans.grid import Grid


@dataclass(frozen=True)
class Findings:
    """What an audit found.

    Attributes:
        title: What was audited.
        version: Of diffaug.
        inputs: What the audit was made from, by name, and hashes.
        about: What was done to the volumes before they were compared, in plain words.
        channels: Names of the channels.
        grid: The grid that all volumes were compared on.
        training: Number of scans that the generator was trained on.
        unseen: Number of real scans that it never saw.
        copies: What the test for copies found.
        apart: Whether a classifier tells synthetic volumes from scans; None where there are too few.
        distances: By feature extractor: KID, FID, density, coverage; none where a set is too small.
        textures: Distances of intensities, spectrum, slices; none where a set is too small.
        looks: Of real scans and of synthetic volumes, where nine tenths of them lie: `textures.ranges`.
        fineness: Power of the finer half of the frequencies, synthetic less real, in dB: below 0 is blur, above 0 noise.
        diversity: MS-SSIM of pairs of synthetic volumes.
        diversity_real: The same of real scans.
        organs: Distances of organ measures; none without a segmentation model.
        fidelity: Of scans that the autoencoder never saw; None without an autoencoder.
        fidelity_training: Of as many training scans.
        seed: Of all that was drawn.
    """

    title: str
    version: str
    inputs: dict[str, Any]
    about: Sequence[str]
    channels: Sequence[str]
    grid: Grid
    training: int
    unseen: int
    copies: Memorisation
    apart: Apartness | None
    distances: dict[str, dict[str, Compared]]
    textures: dict[str, Compared]
    looks: dict[str, dict[str, np.ndarray]]
    fineness: Figure
    diversity: Figure | None
    diversity_real: Figure | None
    organs: dict[str, Compared]
    fidelity: Fidelity | None
    fidelity_training: Fidelity | None
    seed: int

    @property
    def synthetic(self) -> int:
        """Number of synthetic volumes."""
        return len(self.copies.synthetic)

    @property
    def compared(self) -> dict[str, dict[str, Compared]]:
        """All figures that stand beside a floor, by group."""
        apart = self.apart
        classifier = {} if apart is None else {C2ST: apart.curve, TEXTURE_C2ST: apart.textured}
        return {"classifier": classifier, **self.distances, "textures": self.textures, "organs": self.organs}
