"""A self-supervised encoder of the real scans: the feature space in which sets of volumes are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffaug.errors import DiffaugError
from diffaug.files import atomic_path

FEATURE_FORMAT = "diffaug audit encoder 1"
WIDTHS = (32, 64, 64)  # of the levels
CELLS = 3  # along each axis of the map that becomes the vector, which so keeps a rough idea of where things lie
FEATURE_DIMENSIONS = 128  # of the vector
NORM_GROUPS = 8  # of the group norms
FAINT = 0.05  # standard deviation below which a volume is taken for empty; volumes span [-1, 1]


class FeatureSpace(nn.Module):
    """Averages a volume to cells, evens out its intensities, and describes it by three levels of convolutions.

    The first level strides at once: on a CPU that makes a step nine times cheaper than one convolution at full
    resolution.

    Args:
        channels: C of the volumes.
        factor: Voxels (Z, Y, X) averaged to one cell, see `diffaug.copies.alignment.working_factor`.
    """

    def __init__(self, *, channels: int, factor: Sequence[int]) -> None:
        super().__init__()
        self.channels = channels
        self.factor = tuple(factor)
        levels, width = [], channels
        for number, wide in enumerate(WIDTHS):
            level = [_layer(width, wide, stride=2, kernel=3 if number else 5)]
            if number:
                level.append(_layer(wide, wide, stride=1, kernel=3))
            levels.append(nn.Sequential(*level))
            width = wide
        self.levels = nn.ModuleList(levels)
        self.projection = nn.Linear(width * CELLS**3, FEATURE_DIMENSIONS)

    def reduce(self, volumes: Tensor) -> Tensor:
        """Average volumes to cells.

        Args:
            volumes: `(B, C, Z, Y, X)`.

        Returns:
            `(B, C, z, y, x)`.
        """
        return F.avg_pool3d(volumes, self.factor)

    def embed(self, cells: Tensor) -> Tensor:
        """Describe volumes that are averaged already.

        Args:
            cells: `(B, C, z, y, x)`, from `reduce`.

        Returns:
            Unit vectors `(B, D)`.
        """
        last = self._maps(cells)[-1]
        return F.normalize(self.projection(F.adaptive_avg_pool3d(last, CELLS).flatten(1)).float(), dim=1)

    def forward(self, volumes: Tensor) -> Tensor:
        """Describe volumes.

        Args:
            volumes: `(B, C, Z, Y, X)` in [-1, 1].

        Returns:
            Unit vectors `(B, D)`; the scalar product of two tells how alike they are.
        """
        return self.embed(self.reduce(volumes))

    def features(self, volumes: Tensor) -> Tensor:
        """Describe volumes by their texture, for distances between whole sets.

        The vector was taught to overlook noise and blur; what comes before it was not asked to, and what is averaged
        away before the first level is described by its strength alone.

        Args:
            volumes: `(B, C, Z, Y, X)` in [-1, 1].

        Returns:
            `(B, F)`: means and standard deviations over space, per channel, of every level; of the averaged volume;
            and the standard deviation of what each halving on the way to it takes away.
        """
        strengths = []
        fine, factor = volumes, list(self.factor)
        while True:
            step = tuple(2 if f > 1 else 1 for f in factor)
            # at the working resolution itself too: one halving more tells how sharp the cells are
            coarse = F.avg_pool3d(fine, step if max(step) > 1 else 2)
            detail = fine - F.interpolate(coarse, fine.shape[2:], mode="nearest")
            strengths.append(detail.std((2, 3, 4)))
            if max(step) == 1:
                break
            fine, factor = coarse, [f // s for f, s in zip(factor, step, strict=True)]
        maps = [fine, *self._maps(fine)]
        return torch.cat([*strengths, *(m.mean((2, 3, 4)) for m in maps), *(m.std((2, 3, 4)) for m in maps)], 1).float()

    def _maps(self, cells: Tensor) -> list[Tensor]:
        """Give every level's output; a volume's own mean and spread of intensities are taken off first."""
        mean = cells.mean((2, 3, 4), keepdim=True)
        spread = cells.std((2, 3, 4), keepdim=True).clamp_min(FAINT)
        maps = [(cells - mean) / spread]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps[1:]

    def save(self, file: Path) -> None:
        """Write the encoder.

        Args:
            file: Ends in `.safetensors`.
        """
        about = {"format": FEATURE_FORMAT, "channels": self.channels, "factor": self.factor}
        with atomic_path(file) as temporary:
            save_file(
                {k: v.cpu().contiguous() for k, v in self.state_dict().items()},
                temporary,
                {"diffaug": json.dumps(about)},
            )

    @staticmethod
    def load(file: Path) -> FeatureSpace:
        """Read an encoder. Nothing in the file is executed.

        Args:
            file: The file.

        Returns:
            The encoder, on the CPU.

        Raises:
            DiffaugError: If the file is broken or something else.
        """
        try:
            with safe_open(file, framework="pt") as content:
                about = json.loads((content.metadata() or {})["diffaug"])
                weights = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 (not a dict)
            if about["format"] != FEATURE_FORMAT:
                raise ValueError("another format")
            encoder = FeatureSpace(channels=about["channels"], factor=about["factor"]).eval()
            encoder.load_state_dict(weights)
        except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError, OSError) as error:
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DiffaugError(
                f"{file}: not a whole encoder of the audit ({what}), expected one that diffaug audit wrote; delete it"
            ) from error
        return encoder


def _layer(width: int, wide: int, *, stride: int, kernel: int) -> nn.Module:
    norm = ("group", {"num_groups": NORM_GROUPS})
    return Convolution(3, width, wide, strides=stride, kernel_size=kernel, adn_ordering="NA", act="swish", norm=norm)
