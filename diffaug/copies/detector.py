"""Is a volume a copy of a training scan? It is laid onto every scan, at every place, also mirrored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffaug.copies.alignment import Probe, Target, structure, working_factor
from diffaug.copies.changes import SHIFT
from diffaug.errors import DiffaugError
from diffaug.files import read_json, write_json
from diffaug.patients import owners_of
from diffaug.scans.windows import Window, centred, cut

COPY_TEST_FORMAT = "diffaug copy test 3"
OTHERS = 5  # next patients that the nearest one is held against (arXiv 2505.16959 takes the next one alone)
UNRELATED = 2**0.5  # distance of unit vectors that have nothing to do with each other
SCAN_REACH = 2  # voxels that a whole scan may lie off the middle, beyond the shift that is looked for
BLIND = 1.0  # a threshold that no volume exceeds

Volume = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Nearest:
    """The training scan that a volume is most like.

    Attributes:
        case: Its id.
        similarity: How much nearer it lies than scans of the next five patients do: 1 for the scan itself, 0 where it is as
            far.
        ratio: Distance to it over the distance to the second nearest patient; near 0 for a copy (arXiv 2505.16959).
        copy: Whether the similarity is above the threshold.
    """

    case: str
    similarity: float
    ratio: float
    copy: bool


@dataclass(frozen=True)
class Calibration:
    """What the detector takes for a copy, and how far it can be trusted.

    Attributes:
        threshold: Similarity above which a volume is a copy.
        false_alarms: Share of real scans that are no copies but taken for some, each judged by the threshold of the others;
            the ends of its 95 % interval; the number of scans.
        patients: Scans that seem to be of one patient, each group of ids sorted.
        planted: By kind of copy how many were found with the right patient named, and how many were planted.
        innocent: Of every real scan that set the threshold the scan most like it, the similarity and the ratio.
    """

    threshold: float = float("inf")
    false_alarms: tuple[float, float, float, int] = (0.0, 0.0, 1.0, 0)
    patients: tuple[tuple[str, ...], ...] = ()
    planted: dict[str, tuple[int, int]] = field(default_factory=dict)
    innocent: dict[str, tuple[str, float, float]] = field(default_factory=dict)


class CopyDetector:
    """Knows training scans again, however they are mirrored, shifted, warped, scaled or blurred.

    A distance is that of unit vectors with the best correlation. A volume is near to a scan if it is much nearer than to
    scans of other patients: all scans of a body part correlate a little. Nothing is learned, so real scans held against all
    others tell what is no copy, and a network taught by contrast on tens of scans was the weaker test
    (benchmarks/results/copy_detectors.md).

    Args:
        volume: Gives a scan `(C, Z, Y, X)` in [-1, 1] of its own extent.
        cases: Ids of the training scans.
        shape: Voxels (Z, Y, X) of a window.
        mirror: Array axis (0 to 2) that runs left-right.
        field_of_view: `whole`: a window holds the scan; `patch`: it lies anywhere in it.
        device: Where to compute.
        calibration: See `diffaug.copies.calibrating.calibrate`.
    """

    def __init__(
        self,
        volume: Volume,
        cases: Sequence[str],
        *,
        shape: Sequence[int],
        mirror: int,
        field_of_view: str,
        device: torch.device,
        calibration: Calibration | None = None,
    ) -> None:
        self.cases, self.shape, self.mirror = tuple(cases), tuple(shape), mirror
        self.field_of_view, self.device = field_of_view, device
        self.factor = working_factor(shape)
        cells = [n // f for n, f in zip(shape, self.factor, strict=True)]
        self.targets = [Target(structure(self._surroundings(volume(c)), self.factor).to(device), cells) for c in cases]
        self.calibrate(calibration or Calibration())

    def calibrate(self, calibration: Calibration) -> None:
        """Take a threshold, and take scans of one patient for one.

        Args:
            calibration: The calibration.
        """
        self.calibration = calibration
        names = owners_of(self.cases, calibration.patients)
        order = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self.patients = torch.tensor([order[name] for name in names])

    def _surroundings(self, scan: np.ndarray) -> np.ndarray:
        """Cut out where windows may lie: all of a larger scan, around the middle of a whole one."""
        extent = scan.shape[1:]
        if self.field_of_view == "whole":
            margin = [
                -(-(round(SHIFT * n) + SCAN_REACH) // f) * f for n, f in zip(self.shape, self.factor, strict=True)
            ]
            start = [o - m for o, m in zip(centred(extent, self.shape).offset, margin, strict=True)]
            size = [n + 2 * m for n, m in zip(self.shape, margin, strict=True)]
        else:
            size = [max(e, n) for e, n in zip(extent, self.shape, strict=True)]
            start = [-((n - e) // 2) for n, e in zip(size, extent, strict=True)]
        return cut(scan, Window(tuple(start), extent), size)

    @property
    def threshold(self) -> float:
        """Similarity above which a volume is a copy."""
        return self.calibration.threshold

    @property
    def blind(self) -> bool:
        """Whether it found too few planted copies to call anything a copy."""
        return self.threshold >= BLIND

    def judge(self, volumes: Tensor) -> list[Nearest]:
        """Look for the training scan that each volume is most like.

        Args:
            volumes: `(B, C, *shape)` in [-1, 1].

        Returns:
            One per volume.
        """
        return [self.nearest(row) for row in self.distances(volumes)]

    @torch.no_grad()
    def distances(self, volumes: Tensor, own: str | None = None) -> Tensor:
        """Lay volumes onto every training scan.

        Args:
            volumes: `(B, C, *shape)` in [-1, 1].
            own: Id of the scan that they are cut from: the patient it shows is passed over.

        Returns:
            `(B, cases)`: 0 for the scan itself, `UNRELATED` for what has nothing to do with it, infinity where it is passed
            over.
        """
        ways = [volumes, volumes.flip(2 + self.mirror)]
        shown = torch.stack([structure(v.numpy(), self.factor) for way in ways for v in way.cpu()])
        probe = Probe(shown.to(self.device))
        alike = torch.stack([target.fit(probe) for target in self.targets], 1).unflatten(0, (2, -1)).amax(0).cpu()
        apart = (2 - 2 * alike.double()).clamp_min(0).sqrt()
        if own in self.cases:
            apart[:, self.patients == self.patients[self.cases.index(own)]] = torch.inf
        return apart

    def nearest(self, distances: Tensor) -> Nearest:
        """Hold the nearest patient against the next ones.

        Args:
            distances: Of one volume, `(cases,)`, from `distances`.

        Returns:
            What it is most like.
        """
        best = torch.full((int(self.patients.max()) + 1,), torch.inf, dtype=distances.dtype)
        best = best.scatter_reduce(0, self.patients, distances, "amin")
        nearest, *others = best[best.isfinite()].sort()[0].tolist()
        others = others[:OTHERS] or [UNRELATED]
        similarity = 1 - nearest / (sum(others) / len(others))
        case = self.cases[int(distances.argmin())]
        return Nearest(case, similarity, nearest / others[0], similarity > self.threshold)

    def save(self, file: Path) -> None:
        """Write what was calibrated. No image is in it: loading takes the scans again.

        Args:
            file: Ends in `.json`.
        """
        write_json(file, {"format": COPY_TEST_FORMAT, **self._settings(), **asdict(self.calibration)})

    def _settings(self) -> dict[str, Any]:
        names = ("cases", "shape", "mirror", "field_of_view")
        return {name: getattr(self, name) for name in names}

    @staticmethod
    def load(file: Path, volume: Volume, device: torch.device) -> CopyDetector:
        """Read what was calibrated, and look at the training scans again.

        Args:
            file: The file.
            volume: Gives a scan `(C, Z, Y, X)` in [-1, 1] of its own extent.
            device: Where to compute.

        Returns:
            The detector.

        Raises:
            DiffaugError: If the file is missing, broken, or something else.
        """
        content = read_json(file, "run: diffaug fit --fresh")
        try:
            if content.pop("format") != COPY_TEST_FORMAT:
                raise ValueError("another format")
            settings = {key: content.pop(key) for key in ("cases", "shape", "mirror", "field_of_view")}
            calibration = _calibration(content)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise DiffaugError(
                f"{file}: not a copy test of this version ({error}), expected one that diffaug fit wrote; run: diffaug fit "
                "--fresh"
            ) from error
        return CopyDetector(volume, settings.pop("cases"), **settings, device=device, calibration=calibration)


def _calibration(content: Mapping[str, Any]) -> Calibration:
    share, low, high, count = content["false_alarms"]
    return Calibration(
        threshold=float(content["threshold"]),
        false_alarms=(share, low, high, count),
        patients=tuple(tuple(group) for group in content["patients"]),
        planted={kind: (found, planted) for kind, (found, planted) in content["planted"].items()},
        innocent={case: (near, alike, ratio) for case, (near, alike, ratio) in content["innocent"].items()},
    )
