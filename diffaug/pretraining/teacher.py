"""What a generator knows of its own volumes: features of its networks, as targets for the U-Net to learn.

Features of diffusion models are label-efficient (Baranchuk et al., arXiv 2112.03126), and a network may be pretrained
to predict them (DreamTeacher, arXiv 2307.07487).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from diffaug.errors import DiffaugError
from diffaug.generator.model import Generator
from diffaug.scans.canonical import to_canonical
from diffaug.scans.readings import read_off
from diffaug.scans.scan import Scan, reorient
from diffaug.scans.windows import Window, centred, coordinates, cut, inside, paste_extent
from diffaug.training.devices import start_fabric

SIGMAS = (0.2, 0.8)  # noise, in standard deviations of the latent, at which the denoiser is asked
FEATURES = 12  # leading principal components that are kept
CLUSTERS = 10  # of voxels with like features: pseudo-organs
FITTED = 24  # volumes that the components are fitted to
VOXELS_PER_VOLUME = 2000  # of each of them


@dataclass
class Teacher:
    """Gives features of volumes, voxel by voxel.

    Attributes:
        generator: The fitted generator, of whole scans.
        mean: Of the raw features, `(D,)`.
        axes: From raw features to standardised principal components, `(FEATURES, D)`.
        spread: Standard deviation of each component before it was standardised, `(FEATURES,)`.
        centres: Of clusters of voxels, by components as they were, `(CLUSTERS, FEATURES)`.
    """

    generator: Generator
    mean: Tensor
    axes: Tensor
    spread: Tensor
    centres: Tensor

    @staticmethod
    def fit(file: Path, scans: Sequence[Scan], device: torch.device) -> Teacher:
        """Find components and clusters.

        Args:
            file: Of the generator.
            scans: Volumes that it made.
            device: Where to compute.

        Returns:
            The teacher.

        Raises:
            DiffaugError: If the generator is missing, or makes windows whose place in the scan is not known.
        """
        generator = Generator.load(file).to(device)
        if generator.plan.grid.field_of_view != "whole":
            raise DiffaugError(
                f"{file}: makes windows of scans, expected whole scans; take another pretext, or fit with "
                "--field-of-view whole"
            )
        rng = np.random.default_rng(0)
        drawn = []
        for scan in scans[:FITTED]:
            layers, window = _layers(generator, scan)
            drawn.append(_at(layers, _draw(window, generator.plan.grid.shape, rng)))
        table = torch.cat(drawn)
        mean = table.mean(0)
        scale = table.std(0).clamp_min(1e-6)  # no layer counts more because its numbers are large
        _, spread, axes = torch.linalg.svd((table - mean) / scale, full_matrices=False)
        spread = spread[:FEATURES] / len(table) ** 0.5
        axes = axes[:FEATURES] / scale / spread[:, None].clamp_min(1e-6)
        # clusters by what varies most: there the components keep the sizes that they have
        components = (table - mean) @ axes.T * spread
        centres, _ = kmeans2(components.numpy(), CLUSTERS, minit="++", rng=rng)
        return Teacher(generator, mean, axes, spread, torch.from_numpy(centres).float())

    def features(self, scan: Scan) -> np.ndarray:
        """Tell the features of a volume.

        Args:
            scan: A volume that the generator made.

        Returns:
            `(FEATURES + CLUSTERS, Z, Y, X)` float32 on the scan's own grid: components, each of about mean 0 and variance
            1, and for every cluster whether the voxel is in it.
        """
        layers, window = _layers(self.generator, scan)
        widths = [layer.shape[1] for layer in layers]
        shape = self.generator.plan.grid.shape
        # components before voxels: both are linear, and all layers' channels, a thousand, of every voxel fill the memory
        parts = [
            F.interpolate(
                torch.einsum("fd,bdzyx->bfzyx", axes.to(layer), layer - mean.to(layer)), shape, mode="trilinear"
            )
            for layer, axes, mean in zip(
                layers, self.axes.split(widths, 1), self.mean[:, None, None, None].split(widths), strict=True
            )
        ]
        known = torch.from_numpy(paste_extent(torch.stack(parts).sum((0, 1)).cpu().numpy(), window).copy())
        nearest = torch.cdist(known.flatten(1).T * self.spread, self.centres).argmin(1).view(known.shape[1:])
        clusters = F.one_hot(nearest, CLUSTERS).movedim(-1, 0).float()
        return _back(torch.cat([known, clusters]), scan, self.generator.plan.grid.orientation)


@torch.no_grad()
def _layers(generator: Generator, scan: Scan) -> tuple[list[Tensor], Window]:
    """Encode a volume, and collect what the networks' layers say of it: each `(1, D, z, y, x)` over the whole window."""
    plan = generator.plan
    voxels, _ = to_canonical(scan, read_off("synthetic", scan, plan.channels), plan.grid)
    window = centred(voxels.shape[1:], plan.grid.shape)
    shown = torch.from_numpy(cut(voxels, window, plan.grid.shape))[None].to(generator.mean)
    latent = generator.autoencoder.encode(shown)
    clean = (latent - generator.mean) / generator.std
    positions = coordinates([window], plan.grid.shape, clean.shape[2:]).to(clean)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
    with _listening(generator.denoiser.network.up) as found, start_fabric(clean.device.type).autocast():
        for sigma in SIGMAS:
            generator.denoiser(clean + sigma * noise, clean.new_full((1,), sigma), positions)
    found.append(generator.autoencoder.decoder(generator.autoencoder.codebook.quantise(latent)))
    return [layer.float() for layer in found], window


def _draw(window: Window, shape: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Draw voxels of a window that lie within its scan, `(N, 3)`: x, y and z from -1 to 1, from edge to edge."""
    parts = inside(window, shape)
    size = [part.stop - part.start for part in parts]
    drawn = rng.choice(math.prod(size), min(VOXELS_PER_VOLUME, math.prod(size)), replace=False)
    index = np.stack(np.unravel_index(drawn, size), 1) + [part.start for part in parts]
    return torch.from_numpy((2 * index + 1) / np.array(shape) - 1).flip(1).float()


def _at(layers: Sequence[Tensor], positions: Tensor) -> Tensor:
    """Interpolate layers at some voxels, as `F.interpolate` would at all of them, `(N, D)` on the CPU."""
    points = positions.view(1, 1, 1, -1, 3)
    found = [F.grid_sample(x, points.to(x), padding_mode="border", align_corners=False)[0, :, 0, 0] for x in layers]
    return torch.cat(found).T.cpu()


@contextmanager
def _listening(levels: nn.ModuleList) -> Iterator[list[Tensor]]:
    """Collect what the last block of each level puts out."""
    found: list[Tensor] = []
    hooks = [level[-1].register_forward_hook(lambda _, __, output: found.append(output)) for level in levels]  # type: ignore[index]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _back(features: Tensor, scan: Scan, orientation: str) -> np.ndarray:
    """Bring features from the canonical grid to the scan's own."""
    turned = reorient(scan, orientation)
    native = F.interpolate(features[None], turned.size, mode="trilinear")[0].numpy()
    return reorient(Scan(native, turned.geometry), scan.geometry.orientation).voxels
