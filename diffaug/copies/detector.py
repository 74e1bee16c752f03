"""Is a volume a copy of a training scan? Nearest neighbours in the embedding, and the file that holds them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffaug.copies.embedding import Embedding, working_factor
from diffaug.errors import DiffaugError
from diffaug.volumes.windows import Window, centred, cut
from diffaug.workspace import atomic_path

FORMAT = "diffaug copy detector 1"
OTHERS = 5  # next scans that the nearest one is held against (arXiv 2505.16959 takes the next one alone)
UNRELATED = 2**0.5  # distance of unit vectors that have nothing to do with each other
SHIFTED = 0.05  # of the edge, that reference windows lie off the middle of a whole scan, either way along each axis
OVERLAP = 8  # reference windows of a larger scan begin every eighth part of their edge
MOST_WINDOWS = 1024  # of a scan
BLIND = 1.0  # a threshold that no volume exceeds


@dataclass(frozen=True)
class Nearest:
    """The training scan that a volume is most like.

    Attributes:
        case: Its id.
        similarity: How much nearer it lies than the next five scans do: 1 for the scan itself, 0 where it is as far.
        ratio: Distance to it over the distance to the second nearest; near 0 for a copy (arXiv 2505.16959).
        copy: Whether the similarity is above the threshold.
    """

    case: str
    similarity: float
    ratio: float
    copy: bool


@dataclass
class CopyDetector:
    """Knows training scans again, however they are mirrored, shifted, warped, scaled or blurred.

    Attributes:
        embedding: The network.
        references: Unit vectors `(R, D)` of windows of the training scans.
        owners: For each of them the index of its scan `(R,)`.
        cases: Ids of the training scans.
        shape: Voxels (Z, Y, X) of a window.
        mirror: Array axis (0 to 2) that runs left-right.
        field_of_view: `whole` or `patch`.
        threshold: Similarity above which a volume is a copy.
        false_alarms: Share of unseen real scans taken for copies, each judged by the threshold of the others; the ends of
            its 95 % interval; the number of scans.
        known: Number of unseen scans that were found again like copies: the same person is among the training scans.
        planted: By kind of copy how many were found with the right scan named, and how many were planted.
    """

    embedding: Embedding
    references: Tensor
    owners: Tensor
    cases: tuple[str, ...]
    shape: tuple[int, ...]
    mirror: int
    field_of_view: str
    threshold: float = float("inf")
    false_alarms: tuple[float, float, float, int] = (0.0, 0.0, 1.0, 0)
    known: int = 0
    planted: dict[str, tuple[int, int]] = field(default_factory=dict)

    def to(self, device: torch.device) -> CopyDetector:
        """Move to a device.

        Args:
            device: Where.

        Returns:
            Itself.
        """
        self.embedding.to(device).eval()
        self.references, self.owners = self.references.to(device), self.owners.to(device)
        return self

    @property
    def blind(self) -> bool:
        """Whether it found too few planted copies to call anything a copy."""
        return self.threshold >= BLIND

    @torch.no_grad()
    def judge(self, volumes: Tensor) -> list[Nearest]:
        """Look for the training scan that each volume is most like.

        Args:
            volumes: `(B, C, *shape)` in [-1, 1].

        Returns:
            One per volume.
        """
        volumes = volumes.to(self.references.device)
        ways = (volumes, volumes.flip(2 + self.mirror))
        alike = torch.stack([self.embedding(way) @ self.references.T for way in ways]).amax(0)
        best = torch.full((len(volumes), len(self.cases)), -1.0, device=alike.device)
        best = best.scatter_reduce(1, self.owners.expand(len(volumes), -1), alike, "amax")
        distances, order = (2 - 2 * best).clamp_min(1e-12).sqrt().sort(dim=1, stable=True)
        found = []
        for apart, cases in zip(distances.cpu().double().tolist(), order.cpu().tolist(), strict=True):
            nearest, *others = apart[: 1 + OTHERS]
            others = others or [UNRELATED]
            similarity = 1 - nearest / (sum(others) / len(others))
            found.append(Nearest(self.cases[cases[0]], similarity, nearest / others[0], similarity > self.threshold))
        return found

    @torch.no_grad()
    def features(self, volumes: Tensor) -> Tensor:
        """Describe volumes for distances between whole sets, see `Embedding.features`.

        Args:
            volumes: `(B, C, Z, Y, X)` in [-1, 1].

        Returns:
            `(B, F)`.
        """
        return self.embedding.features(volumes.to(self.references.device))

    def with_cases(self, volume: Callable[[str], np.ndarray], cases: Sequence[str]) -> CopyDetector:
        """Make a detector that knows more scans, with the same network and threshold.

        Args:
            volume: Gives a scan `(C, Z, Y, X)` in [-1, 1].
            cases: Ids of the further scans.

        Returns:
            The detector.
        """
        vectors, owners = [self.references], [self.owners]
        for number, case in enumerate(cases, start=len(self.cases)):
            vectors.append(self._described(volume(case)))
            owners.append(torch.full((len(vectors[-1]),), number, device=self.owners.device))
        return replace(self, references=torch.cat(vectors), owners=torch.cat(owners), cases=(*self.cases, *cases))

    @torch.no_grad()
    def _described(self, scan: np.ndarray) -> Tensor:
        """Embed the windows that a scan is known by, `(windows, D)`."""
        views = (torch.from_numpy(cut(scan, window, self.shape)) for window in self._windows(scan.shape[1:]))
        return torch.cat([self.embedding(view[None].to(self.references.device)) for view in views])

    def _windows(self, extent: Sequence[int]) -> list[Window]:
        """Lay windows all over a larger scan, or around the middle of a whole one."""
        axes: list[list[int]] = []
        middle = centred(extent, self.shape).offset
        for size, length, centre in zip(extent, self.shape, middle, strict=True):
            room = size - length
            if self.field_of_view == "whole":
                shift = round(SHIFTED * length)
                axes.append(sorted({centre - shift, centre, centre + shift}))
            elif room > 0:
                count = 1 + -(-room * OVERLAP // length)
                axes.append(sorted({round(room * i / (count - 1)) for i in range(count)}))
            else:
                axes.append([centre])
        windows = [Window(offset, tuple(extent)) for offset in itertools.product(*axes)]
        return windows[:: -(-len(windows) // MOST_WINDOWS)]

    def save(self, file: Path) -> None:
        """Write the detector.

        Args:
            file: Ends in `.safetensors`.
        """
        tensors = {f"embedding.{k}": v for k, v in self.embedding.state_dict().items()}
        tensors |= {"references": self.references, "owners": self.owners}
        about = {
            "format": FORMAT,
            "channels": self.embedding.channels,
            "cases": self.cases,
            "shape": self.shape,
            "mirror": self.mirror,
            "field_of_view": self.field_of_view,
            "threshold": self.threshold,
            "false_alarms": self.false_alarms,
            "known": self.known,
            "planted": self.planted,
        }
        with atomic_path(file) as temporary:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, temporary, {"diffaug": json.dumps(about)})

    @staticmethod
    def load(file: Path) -> CopyDetector:
        """Read a detector. Nothing in the file is executed.

        Args:
            file: The file.

        Returns:
            The detector, on the CPU.

        Raises:
            DiffaugError: If the file is missing, broken, or something else.
        """
        if not file.is_file():
            raise DiffaugError(f"{file}: no such file, expected a fitted copy detector; run: diffaug fit --fresh")
        try:
            with safe_open(file, framework="pt") as content:
                about = json.loads((content.metadata() or {})["diffaug"])
                tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 (not a dict)
            if about.pop("format") != FORMAT:
                raise ValueError("another format")
            shape = tuple(about.pop("shape"))
            embedding = Embedding(channels=about.pop("channels"), factor=working_factor(shape)).eval()
            weights = {k.removeprefix("embedding."): v for k, v in tensors.items() if k.startswith("embedding.")}
            embedding.load_state_dict(weights)
            return CopyDetector(
                embedding,
                tensors["references"],
                tensors["owners"],
                shape=shape,
                cases=tuple(about.pop("cases")),
                false_alarms=tuple(about.pop("false_alarms")),
                planted={kind: (found, total) for kind, (found, total) in about.pop("planted").items()},
                **about,
            )
        except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, OSError) as error:
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DiffaugError(
                f"{file}: not a whole copy detector ({what}), expected one that diffaug wrote; run it again with --fresh"
            ) from error
