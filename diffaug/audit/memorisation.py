"""Is a synthetic volume a copy of a training scan? The copy detector's verdicts, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from scipy.stats import betabinom, t
from tqdm import tqdm

from diffaug.audit.figures import Figure
from diffaug.audit.inputs import AuditInputs
from diffaug.copies.detector import CopyDetector, Nearest
from diffaug.training.together import shared_out

DECODED = 16  # training scans that are sent through the autoencoder
JUDGED_VOXELS = 2**20  # judged at a time
SMALLEST_RATIO = 1e-6  # ratio of distances: the logarithm of 0 would be infinite
SURE = 0.05  # largest probability of a run of false alarms that is taken for copies


@dataclass(frozen=True)
class Judged:
    """A volume and the training scan that it is most like.

    Attributes:
        name: The volume's name.
        case: Id of the training scan.
        similarity: With it, as `diffaug.copies.detector.Nearest` counts it: 1 is the scan itself.
        ratio: Distance to it over the distance to the second nearest scan.
        copy: Whether the detector holds it for a copy.
    """

    name: str
    case: str
    similarity: float
    ratio: float
    copy: bool


@dataclass(frozen=True)
class Memorisation:
    """What the test for copies found.

    Attributes:
        synthetic: Verdict on every synthetic volume.
        innocent: Verdict on every real scan that set the threshold, held against other patients's.
        decoded: Training scans that went through the generator's autoencoder: their own ids as names.
        decoded_unseen: The same of scans that it never saw: whatever is called a copy is a false alarm.
        threshold: Similarity above which the detector calls a copy.
        false_alarms: Share of real scans that are no copies but held for some, each judged by the threshold of the others.
        patients: Scans that were found again as copies are, and so seem to be of one patient. They count as one.
        planted: By kind of change how many planted copies it found when it was fitted, and of how many.
        training: Number of training scans compared with.
    """

    synthetic: Sequence[Judged]
    innocent: Sequence[Judged]
    decoded: Sequence[Judged]
    decoded_unseen: Sequence[Judged]
    threshold: float
    false_alarms: Figure
    patients: Sequence[Sequence[str]]
    planted: dict[str, tuple[int, int]]
    training: int

    @property
    def copies(self) -> list[Judged]:
        """Synthetic volumes that are held for copies, the most similar first."""
        return sorted((j for j in self.synthetic if j.copy), key=lambda j: -j.similarity)

    @property
    def reached(self) -> float:
        """Share of the training scans that some synthetic volume is held for a copy of."""
        return len({j.case for j in self.copies}) / self.training

    @property
    def by_chance(self) -> float:
        """Probability of so many alarms or more, if there were no copy and alarms as rare as among real scans."""
        known = self.false_alarms.n
        return chance(len(self.copies), len(self.synthetic), round(self.false_alarms.value * known), known)

    @property
    def certain(self) -> list[Judged]:
        """Copies whose similarity real scans that are no copies would hardly reach, even as often as volumes were judged."""
        chances = tail([j.similarity for j in self.copies], [j.similarity for j in self.innocent])
        return [j for j, p in zip(self.copies, chances, strict=True) if p * len(self.synthetic) < SURE]

    @property
    def found(self) -> dict[str, tuple[int, int]]:
        """Planted copies found, and planted, by kind; those through the autoencoder, if any, are among them."""
        kinds = dict(self.planted)
        if self.decoded:
            right = sum(j.copy and j.case == j.name for j in self.decoded)
            kinds["through the autoencoder"] = (right, len(self.decoded))
        return kinds


def tail(similarities: Sequence[float], innocents: Sequence[float]) -> np.ndarray:
    """Tell how probable similarities as high are for volumes that are no copies.

    A similarity is 1 less a ratio of distances. Few innocents are known, so the logarithms of their ratios are taken to be
    normal; then that of another one, less the innocents' mean, follows Student's t.

    Args:
        similarities: Of the volumes.
        innocents: Of volumes that are no copies.

    Returns:
        One probability each; 1 where fewer than three innocents are known.
    """
    if len(innocents) < 3:
        return np.ones(len(similarities))
    own, known = (np.log(np.maximum(1 - np.asarray(s, float), SMALLEST_RATIO)) for s in (similarities, innocents))
    spread = max(float(known.std(ddof=1)), SMALLEST_RATIO) * np.sqrt(1 + 1 / len(known))
    return t.cdf((own - known.mean()) / spread, len(known) - 1)


def chance(alarms: int, volumes: int, false_alarms: int, innocents: int) -> float:
    """Tell how probable so many alarms are if none of them is true.

    The false-alarm rate is itself known from few innocents only: with a flat prior it follows
    Beta(1 + false alarms, 1 + innocents - false alarms), and the number of alarms is beta-binomial.

    Args:
        alarms: Number of volumes held for copies.
        volumes: Number of volumes.
        false_alarms: Number of innocent volumes held for copies.
        innocents: Number of innocent volumes.

    Returns:
        The probability of `alarms` or more.
    """
    return float(betabinom.sf(alarms - 1, volumes, 1 + false_alarms, 1 + innocents - false_alarms))


def batches(volumes: Iterable[np.ndarray], voxels: int) -> Iterator[torch.Tensor]:
    """Stack volumes, a few at a time.

    Args:
        volumes: Each `(C, Z, Y, X)`.
        voxels: Of one volume.

    Yields:
        `(B, C, Z, Y, X)`.
    """
    held: list[np.ndarray] = []
    size = max(1, JUDGED_VOXELS // voxels)
    for volume in volumes:
        held.append(volume)
        if len(held) == size:
            yield torch.from_numpy(np.stack(held))
            held = []
    if held:
        yield torch.from_numpy(np.stack(held))


@torch.no_grad()
def look_for_copies(
    inputs: AuditInputs,
    detector: CopyDetector,
    decoded: Callable[[np.ndarray], np.ndarray] | None,
    fabric: Fabric,
    seed: int,
) -> Memorisation:
    """Judge all volumes.

    Args:
        inputs: The volumes.
        detector: Knows all training scans.
        decoded: Sends a volume through the generator's autoencoder; None without one.
        fabric: The processes, which share the volumes out.
        seed: Of the scans that are sent through it.

    Returns:
        What was found.
    """
    voxels = len(inputs.channels) * int(np.prod(inputs.grid.shape))

    def judged(names: Sequence[str], volumes: Callable[[int], np.ndarray], what: str) -> list[Judged]:
        def nearest(places: Sequence[int]) -> list[Nearest]:
            shown = tqdm(places, f"looking for copies, {what}", unit="volume", ascii=True)
            return [found for batch in batches(map(volumes, shown), voxels) for found in detector.judge(batch)]

        found = shared_out(range(len(names)), nearest, fabric)
        return [Judged(n, f.case, f.similarity, f.ratio, f.copy) for n, f in zip(names, found, strict=True)]

    rng = np.random.default_rng(seed)
    some = [inputs.training[i] for i in rng.permutation(len(inputs.training))[:DECODED]]

    def through(scans: Sequence[tuple[str, str | None]], what: str) -> list[Judged]:
        send = decoded
        if send is None:
            return []
        return judged([case for case, _ in scans], lambda place: send(inputs.real(*scans[place])), what)

    return Memorisation(
        synthetic=judged(inputs.names, lambda place: inputs.synthetic(inputs.names[place]), "synthetic"),
        innocent=[
            Judged(name, case, similarity, ratio, similarity > detector.threshold)
            for name, (case, similarity, ratio) in detector.calibration.innocent.items()
        ],
        decoded=through(inputs.likes(some, seed), "decoded training scans"),
        decoded_unseen=through(inputs.likes(inputs.unseen, seed), "decoded unseen scans"),
        threshold=detector.threshold,
        false_alarms=Figure(*detector.calibration.false_alarms),
        patients=detector.calibration.patients,
        planted=detector.calibration.planted,
        training=len(inputs.training),
    )
