"""Several windows of every scan and their latents, encoded once and read one by one: gigabytes where scans are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.plan import GeneratorPlan
from diffaug.scans.cache import VolumeCache
from diffaug.scans.windows import Window, cut, scattered


@dataclass(frozen=True)
class Views:
    """The windows of some scans.

    Attributes:
        latents: Of each scan, its views one after another along the channels: `(views * C, z, y, x)`.
        cases: Ids of the scans.
        windows: Where the views lie: those of the first scan, of the second, and so on.
    """

    latents: Mapping[str, np.ndarray] | VolumeCache
    cases: Sequence[str]
    windows: Sequence[Window]

    @property
    def each(self) -> int:
        """Number of views of a scan."""
        return len(self.windows) // len(self.cases)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, number: int) -> Tensor:
        """Read the latent `(C, z, y, x)` of a view."""
        case, view = divmod(number, self.each)
        views = self.latents[self.cases[case]]
        channels = len(views) // self.each
        return torch.from_numpy(np.array(views[view * channels : (view + 1) * channels])).float()

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Tell the mean of each channel, `(1, C, 1, 1, 1)`, and the standard deviation of all channels about them."""
        latents = (self[number].double() for number in range(len(self)))
        sums = [(latent.mean((1, 2, 3)), latent.square().mean((1, 2, 3))) for latent in latents]
        mean, square = (torch.stack(values).mean(0) for values in zip(*sums, strict=True))
        std = (square - mean.square()).mean().sqrt().clamp_min(1e-6)
        return mean.float().view(1, -1, 1, 1, 1), std.float().view(1, 1, 1, 1, 1)


@torch.no_grad()
def encode_views(
    autoencoder: Autoencoder,
    plan: GeneratorPlan,
    scans: VolumeCache,
    cases: Sequence[str],
    latents: VolumeCache,
    device: torch.device,
) -> Views:
    """Encode several windows of every scan; what is in `latents` already stays.

    The windows differ by a few voxels (`whole`) or lie anywhere (`patch`), and every other one shows the scan mirrored
    left-right. The coordinates tell the denoiser where, and by running backwards that a scan is mirrored, so that both
    teach it and neither leaks into samples: no heart comes to lie on the right (arXiv 2206.00364, appendix F.2, tells its
    network every augmentation likewise).

    Args:
        autoencoder: The fitted autoencoder.
        plan: The plan.
        scans: Preprocessed scans.
        cases: Which scans.
        latents: Where the latents go.
        device: Where to compute.

    Returns:
        The views.
    """
    autoencoder.to(device).eval()
    reach = 2 if plan.grid.field_of_view == "whole" else 0
    windows = {}
    for case, extent in scans.sizes(cases):
        rng = np.random.default_rng((plan.denoiser_training.seed, *case.encode()))
        seen = [scattered(extent, plan.grid.shape, reach, rng) for _ in range(plan.views)]
        windows[case] = [replace(window, mirrored=plan.grid.mirror if i % 2 else None) for i, window in enumerate(seen)]

    def encode(case: str) -> np.ndarray:
        views = (torch.from_numpy(cut(scans[case], window, plan.grid.shape))[None] for window in windows[case])
        return torch.cat([autoencoder.encode(view.to(device))[0].float().cpu() for view in views]).numpy()

    latents.fill(tqdm(cases, "encoding scans", unit="scan", ascii=True), encode)
    return Views(latents, cases, [window for case in cases for window in windows[case]])
