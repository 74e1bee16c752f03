"""All that an audit found, as the manifest keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffaug.audit.diversity import PAIRS
from diffaug.audit.fidelity import Fidelity
from diffaug.audit.figures import Compared, Figure
from diffaug.audit.memorisation import Memorisation
from diffaug.scans.grid import Grid
from diffaug.scans.similarity import WINDOW, ms_ssim_settings


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
        distances: By feature extractor: KID, FID, density, coverage; none where a set is too small.
        textures: Distances of intensities, spectrum, slices; none where a set is too small.
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
    distances: dict[str, dict[str, Compared]]
    textures: dict[str, Compared]
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

    def figures(self) -> dict[str, Any]:
        """Gather what the manifest keeps, each beside its n.

        Returns:
            Something JSON can write.
        """
        scales, window = ms_ssim_settings(self.grid.shape)
        copies = self.copies
        return {
            "volumes": {"synthetic": self.synthetic, "training": self.training, "unseen": self.unseen},
            "distances": {name: _compared(figures) for name, figures in self.distances.items()},
            "textures": _compared(self.textures),
            "fineness_db": asdict(self.fineness),
            "ms_ssim_synthetic": asdict(self.diversity) if self.diversity else None,
            "ms_ssim_real": asdict(self.diversity_real) if self.diversity_real else None,
            "organs": _compared(self.organs),
            "reconstruction": {
                name: {"psnr_db": asdict(kept.psnr), "ssim": asdict(kept.ssim)}
                for name, kept in (("unseen", self.fidelity), ("training", self.fidelity_training))
                if kept is not None
            },
            "copies": {
                "found": len(copies.copies),
                "share": len(copies.copies) / self.synthetic,
                "share_of_real_scans": asdict(copies.false_alarms),
                "by_chance": copies.by_chance,
                "certain": len(copies.certain),
                "one_person": [list(group) for group in copies.people],
                "training_scans_reached": copies.reached,
                "threshold": copies.threshold,
                "planted_found": {kind: list(counts) for kind, counts in copies.found.items()},
                "false_alarms_through_the_autoencoder": [
                    sum(j.copy for j in copies.decoded_unseen),
                    len(copies.decoded_unseen),
                ],
            },
            "settings": {
                "seed": self.seed,
                "grid": asdict(self.grid),
                "ssim_window_voxels": WINDOW,
                "ms_ssim_scales": scales,
                "ms_ssim_window_voxels": window,
                "ms_ssim_pairs_at_most": PAIRS,
            },
        }


def _compared(figures: dict[str, Compared]) -> dict[str, Any]:
    return {name: {**asdict(c), "verdict": c.verdict} for name, c in figures.items()}
