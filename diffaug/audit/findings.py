"""All that an audit found, and the few conclusions that follow by counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import beta

from diffaug.audit.diversity import PAIRS
from diffaug.audit.fidelity import Fidelity
from diffaug.audit.figures import Figure
from diffaug.audit.memorisation import FLOOR_PERCENT, LONE, Nearest, Search
from diffaug.generator.plan import GeneratorPlan
from diffaug.volumes.similarity import WINDOW, ms_ssim_settings

FEW_SCANS = 50  # below this the report warns: the fewer the scans, the sooner a generator knows them by heart


@dataclass(frozen=True)
class Findings:
    """What an audit found.

    Attributes:
        dataset: Name of the dataset.
        version: Of diffaug.
        inputs: Hashes of generator and sample manifest.
        request: The sampling options.
        plan: The generator's plan.
        fidelity: Of held-out scans.
        fidelity_training: Of as many training scans.
        diversity: MS-SSIM of pairs of synthetic volumes.
        diversity_real: The same of training scans.
        search: How volumes were compared.
        synthetic: Nearest training scan of each synthetic volume.
        held_out: The same for windows of held-out scans, sent through the autoencoder.
        training: The same for training scans, each against the other training scans.
        planted: Kind of each planted copy, the scan it was made from, and the scan that was found.
        floor: Similarity above which a volume is flagged.
        seed: Of all that was drawn.
    """

    dataset: str
    version: str
    inputs: dict[str, str]
    request: dict[str, Any]
    plan: GeneratorPlan
    fidelity: Fidelity
    fidelity_training: Fidelity
    diversity: Figure | None
    diversity_real: Figure | None
    search: Search
    synthetic: Sequence[Nearest]
    held_out: Sequence[Nearest]
    training: Sequence[Nearest]
    planted: Sequence[tuple[str, str, Nearest]]
    floor: Figure
    seed: int

    def is_flagged(self, found: Nearest) -> bool:
        """Tell whether a volume is nearer to a training scan than unseen real scans are.

        Args:
            found: Its nearest.

        Returns:
            Whether it lies above the floor.
        """
        return found.similarity > self.floor.value

    @property
    def flagged(self) -> list[Nearest]:
        """Synthetic volumes above the floor, the most similar first."""
        return sorted((n for n in self.synthetic if self.is_flagged(n)), key=lambda n: -n.similarity)

    @property
    def lone(self) -> list[Nearest]:
        """Flagged volumes that stand much nearer to one scan than to any other: the signature of a copy."""
        return [n for n in self.flagged if n.ratio < LONE]

    @property
    def reached(self) -> float:
        """Share of the training scans that are nearest to some synthetic volume."""
        return len({n.case for n in self.synthetic}) / len(self.plan.cases)

    @property
    def reached_by_chance(self) -> float:
        """The same share if every synthetic volume picked a training scan at random."""
        return 1 - (1 - 1 / len(self.plan.cases)) ** len(self.synthetic)

    @property
    def innocent(self) -> Figure:
        """Share of unseen real scans that would be flagged too: exact for any distribution, by their ranks alone.

        The share above the k-th largest of n independent values follows Beta(k, n + 1 - k).
        """
        n = len(self.held_out)
        k = sum(found.similarity >= self.floor.value for found in self.held_out)
        low, high = beta.ppf((0.025, 0.975), k, n + 1 - k)
        return Figure(k / (n + 1), float(low), float(high), n)

    def found_by_kind(self) -> dict[str, tuple[int, int]]:
        """Count the planted copies.

        Returns:
            By kind how many were flagged with the right scan named, and how many were planted.
        """
        counts: dict[str, tuple[int, int]] = {}
        for kind, source, found in self.planted:
            hits, total = counts.get(kind, (0, 0))
            counts[kind] = (hits + (self.is_flagged(found) and found.case == source), total + 1)
        return counts

    def figures(self) -> dict[str, Any]:
        """Gather what the manifest keeps, each beside its n.

        Returns:
            Something JSON can write.
        """
        scales, window = ms_ssim_settings(self.plan.grid.shape)
        return {
            "psnr_db": asdict(self.fidelity.psnr),
            "ssim": asdict(self.fidelity.ssim),
            "training_psnr_db": asdict(self.fidelity_training.psnr),
            "training_ssim": asdict(self.fidelity_training.ssim),
            "ms_ssim_synthetic": asdict(self.diversity) if self.diversity else None,
            "ms_ssim_real": asdict(self.diversity_real) if self.diversity_real else None,
            "copies": {
                "synthetic": len(self.synthetic),
                "training_scans": len(self.plan.cases),
                "floor": asdict(self.floor),
                "flagged": len(self.flagged),
                "flagged_share": len(self.flagged) / len(self.synthetic),
                "flagged_share_of_unseen_real": asdict(self.innocent),
                "lone": len(self.lone),
                "training_scans_reached": self.reached,
                "training_scans_reached_by_chance": self.reached_by_chance,
                "planted_found": {kind: list(counts) for kind, counts in self.found_by_kind().items()},
            },
            "settings": {
                "seed": self.seed,
                "ssim_window_voxels": WINDOW,
                "ms_ssim_scales": scales,
                "ms_ssim_window_voxels": window,
                "ms_ssim_pairs_at_most": PAIRS,
                "floor_percentile": FLOOR_PERCENT,
                "search": asdict(self.search),
            },
        }
