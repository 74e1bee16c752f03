"""Appearance: the same anatomy as another scanner might have shown it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffaug.training.together import changed_each

CURVE_KNOTS = 6  # of a contrast curve
FLATTEST = 0.2  # its least slope, over the range of slopes
FALLING = 0.3  # share of the pieces that run against the others, where some do
GAMMA = 0.4  # standard deviation of the logarithm of the exponent that moves the pieces to dark or bright intensities
BULK = (0.01, 0.99)  # quantiles between which the curve lies
SEEN_VOXELS = 100_000  # at most, for the quantiles
BIAS_CELLS = 3  # of a bias field, along each axis
BIAS = 0.3  # standard deviation of its logarithm
COARSEST = 0.5  # share of the voxels per axis that survive a loss of resolution
STRONGEST_NOISE = 0.3  # largest standard deviation
CHANCE = 0.5  # of each change
NETWORK_CHANCE = 0.3  # of a random network
NETWORK_WIDTHS = (2, 2)  # of its hidden layers


def vary(volumes: Tensor, *, networks: bool = False) -> Tensor:
    """Change contrast, shading, resolution and noise at random; the anatomy stays where it is.

    Args:
        volumes: Normalised, `(B, C, Z, Y, X)`.
        networks: Whether small random networks change the contrast, too.

    Returns:
        As many, each again with mean 0 and variance 1.
    """

    def change(volume: Tensor) -> Tensor:
        changed = _normalised(_noise(_coarsen(_shade(_recolour(volume)))))
        through = networks and bool(torch.rand((), device=volume.device) < NETWORK_CHANCE)
        return _normalised(random_network(changed)) if through else changed

    return changed_each(volumes, change)


def _happens(like: Tensor) -> bool:
    return bool(torch.rand((), device=like.device) < CHANCE)


def _recolour(volume: Tensor) -> Tensor:
    """Map intensities through a random, not always rising, piecewise linear curve.

    It is nowhere flat, so that neighbouring intensities stay apart, and spans the bulk of them, for a few bright voxels would
    leave one of its pieces to all the rest.
    """
    if not _happens(volume):
        return volume
    some = volume.flatten()[:: max(1, volume.numel() // SEEN_VOXELS)]
    low, high = torch.quantile(some.float(), torch.tensor(BULK, device=volume.device))
    position = ((volume - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    position = position ** (GAMMA * torch.randn((), device=volume.device)).exp() * (CURVE_KNOTS - 1)
    rises = FLATTEST + torch.rand(CURVE_KNOTS - 1, device=volume.device)
    if _happens(volume):  # as often a curve that keeps the order of intensities, or turns it round
        rises = torch.where(torch.rand_like(rises) < FALLING, -rises, rises)
    values = F.pad(rises.cumsum(0), (1, 0)) * (-1 if _happens(volume) else 1)
    left = position.floor().clamp(0, CURVE_KNOTS - 2).long()
    return torch.lerp(values[left], values[left + 1], position - left)


def random_network(volume: Tensor) -> Tensor:
    """Blend a volume with what a small network of random weights makes of it (GIN, arXiv 2111.12525).

    Args:
        volume: Normalised, `(C, Z, Y, X)`.

    Returns:
        As large.
    """
    hidden, last = volume[None], len(NETWORK_WIDTHS)
    with torch.autocast(volume.device.type, enabled=False):  # contrast is not to be rounded
        for layer, width in enumerate((*NETWORK_WIDTHS, len(volume)), start=1):
            edge = 2 * int(torch.randint(0, 2, ())) + 1
            weight = torch.randn(width, hidden.shape[1], edge, edge, edge, device=volume.device)
            bias = torch.randn(width, device=volume.device)
            hidden = F.conv3d(hidden, weight, bias, padding=edge // 2)
            hidden = F.leaky_relu(hidden) if layer <= last else hidden
    return torch.lerp(volume, _normalised(hidden[0]), torch.rand((), device=volume.device))


def _shade(volume: Tensor) -> Tensor:
    if not _happens(volume):
        return volume
    coarse = torch.randn(1, 1, *[BIAS_CELLS] * 3, device=volume.device) * BIAS
    field = F.interpolate(coarse, volume.shape[1:], mode="trilinear", align_corners=True)[0]
    return (volume - volume.amin()) * field.exp()


def _coarsen(volume: Tensor) -> Tensor:
    if not _happens(volume):
        return volume
    shares = COARSEST + (1 - COARSEST) * torch.rand(3, device=volume.device)
    size = [max(2, round(n * float(share))) for n, share in zip(volume.shape[1:], shares, strict=True)]
    small = F.interpolate(volume[None], size, mode="trilinear")
    return F.interpolate(small, volume.shape[1:], mode="trilinear")[0]


def _noise(volume: Tensor) -> Tensor:
    if not _happens(volume):
        return volume
    strength = STRONGEST_NOISE * torch.rand((), device=volume.device) * volume.std()
    return volume + strength * torch.randn_like(volume)


def _normalised(volume: Tensor) -> Tensor:
    mean = volume.mean((1, 2, 3), keepdim=True)
    return (volume - mean) / volume.std((1, 2, 3), keepdim=True).clamp_min(1e-6)
