"""The copy detector: names the training scan nearest to a volume, and says whether the volume is a copy of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffaug import __version__
from diffaug.copies.embedding import Embedding, working_factor
from diffaug.copies.fit_embedding import EmbeddingObjective
from diffaug.copies.search import Search
from diffaug.engine.loop import Training, train
from diffaug.errors import DiffaugError
from diffaug.workspace import atomic_path

CANDIDATES = 6  # scans that a volume is compared with finely, those most like it after the coarse search
FORMAT = "diffaug copy detector 1"


@dataclass(frozen=True)
class Nearest:
    """The training scan that a volume is most like.

    Attributes:
        case: Id of the training scan.
        similarity: How much of the difference to the next nearest scans is gone: 1 is the scan itself, 0 is no nearer
            than those are.
        ratio: Distance to it over the distance to the second nearest (arXiv 2505.16959); 1 where both are alike.
        copy: Whether the similarity is above the threshold.
    """

    case: str
    similarity: float
    ratio: float
    copy: bool


@dataclass
class CopyDetector:
    """Everything that is needed to look for copies. It holds averaged training scans: treat its file as patient data.

    Attributes:
        cases: Ids of the scans that are known.
        frames: Those scans, averaged, each `(C, z, y, x)` in half precision.
        embedding: The network.
        shape: Voxels (Z, Y, X) of a volume.
        search: How volumes are looked for.
        threshold: Similarity above which a volume is a copy.
        false_alarms: Share of unseen real scans that would be called copies, its 95 % interval, and how many scans.
        planted: Planted copies that were found with the right scan named, and planted ones, by kind.
        mean: Of the features of real scans.
        std: Of the features of real scans.
    """

    cases: tuple[str, ...]
    frames: list[Tensor]
    embedding: Embedding
    shape: tuple[int, ...]
    search: Search
    mean: Tensor
    std: Tensor
    threshold: float = 1.0
    false_alarms: tuple[float, float, float, int] = (0.0, 0.0, 1.0, 0)
    planted: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def mirror(self) -> int:
        """Array axis (0 to 2) that runs left-right."""
        return self.search.mirror

    def to(self, device: torch.device) -> CopyDetector:
        """Move to a device.

        Args:
            device: Where.

        Returns:
            Itself.
        """
        self.embedding.to(device).eval()
        self.frames = [frame.to(device) for frame in self.frames]
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def with_cases(self, volume: Callable[[str], np.ndarray], cases: Sequence[str]) -> CopyDetector:
        """Know more scans.

        Args:
            volume: Gives the scan `(C, Z, Y, X)` of a case.
            cases: Ids of the scans to add.

        Returns:
            Another detector with the same network and threshold.
        """
        added = [self.search.frame(volume(case)).to(self.frames[0].device) for case in cases]
        return replace(self, cases=(*self.cases, *cases), frames=[*self.frames, *added])

    @torch.no_grad()
    def judge(self, volumes: Tensor) -> list[Nearest]:
        """Find the nearest training scan of each volume.

        Args:
            volumes: `(B, C, *shape)` in [-1, 1].

        Returns:
            One per volume.
        """
        return [self._verdict(*self._compare(*found)) for found in self._found(volumes)]

    @torch.no_grad()
    def features(self, volumes: Tensor) -> Tensor:
        """Describe volumes by their texture, for distances between whole sets.

        Args:
            volumes: `(B, C, *shape)` in [-1, 1].

        Returns:
            `(B, F)`, each with mean zero and deviation one over the training scans.
        """
        return (self.embedding.features(volumes.to(self.mean)) - self.mean) / self.std
