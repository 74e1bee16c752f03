"""Where in a scan does a volume fit best, and how well? Correlation of fine structure, at every place at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from scipy.ndimage import gaussian_filter
from torch import Tensor

WORKING = 16384  # cells that a volume is averaged to, at most; so that volumes of any size cost the same
COARSE = 3.0  # standard deviation in cells of the Gaussian that tells structure of one scan from anatomy common to all
FLAT = 0.5  # of the whole volume's contrast, added to the local one: where there is nothing, noise is not blown up
LEAST_ENERGY = 1e-3  # energy that a place without any structure counts as having


def working_factor(shape: Sequence[int]) -> tuple[int, ...]:
    """Choose how many voxels are averaged to one cell.

    Args:
        shape: Voxels (Z, Y, X) of a volume.

    Returns:
        Powers of two (Z, Y, X) that leave at most `WORKING` cells, the longest axes averaged first.
    """
    cells, factor = list(shape), [1, 1, 1]
    while cells[0] * cells[1] * cells[2] > WORKING:
        longest = cells.index(max(cells))
        factor[longest] *= 2
        cells[longest] = shape[longest] // factor[longest]
    return tuple(factor)


def structure(volume: np.ndarray, factor: Sequence[int]) -> Tensor:
    """Keep what tells scans apart: fine structure, equally strong everywhere, whatever the intensities.

    Args:
        volume: `(C, Z, Y, X)`.
        factor: Voxels (Z, Y, X) averaged to one cell.

    Returns:
        `(C, z, y, x)`, about zero on average.
    """
    cells = F.avg_pool3d(torch.from_numpy(np.ascontiguousarray(volume))[None], tuple(factor))[0].numpy()
    blur = (0, COARSE, COARSE, COARSE)
    fine = cells - gaussian_filter(cells, blur, mode="nearest")
    local = np.sqrt(gaussian_filter(np.square(fine), blur, mode="nearest"))
    return torch.from_numpy(fine / (local + FLAT * fine.std() + LEAST_ENERGY))


class Probe:
    """Volumes that are laid onto scans, and their spectra: the same for all scans of one size.

    Args:
        volumes: Their `structure`, `(B, C, z, y, x)`.
    """

    def __init__(self, volumes: Tensor) -> None:
        self.volumes = volumes
        self.lengths = volumes.flatten(1).norm(dim=1).clamp_min(LEAST_ENERGY)
        self._size: tuple[int, ...] = ()
        self._spectra = volumes

    def spectra(self, size: tuple[int, ...]) -> Tensor:
        """Transform the volumes, padded to a size; the last answer is kept.

        Args:
            size: Cells (z, y, x).

        Returns:
            Their spectra.
        """
        if size != self._size:
            self._size, self._spectra = size, torch.fft.rfftn(self.volumes, size, dim=(2, 3, 4))
        return self._spectra


class Target:
    """A scan that volumes are laid onto, at every place where they fit in whole.

    Args:
        scan: Its `structure`, `(C, z, y, x)`.
        cells: Cells (z, y, x) of the volumes, no more than the scan has.
    """

    def __init__(self, scan: Tensor, cells: Sequence[int]) -> None:
        self.size = tuple(next_fast_len(int(n), real=True) for n in scan.shape[1:])
        self.places = tuple(slice(0, int(n) - c + 1) for n, c in zip(scan.shape[1:], cells, strict=True))
        spectrum = torch.fft.rfftn(scan, self.size, dim=(1, 2, 3))
        box = torch.fft.rfftn(torch.ones(*cells, device=scan.device), self.size)
        energy = torch.fft.irfftn(torch.fft.rfftn(scan.square().sum(0), self.size) * box.conj(), self.size)
        # not where they were computed: those of a thousand large scans are gigabytes, and a GPU has a network to hold
        self.spectrum, self.strength = spectrum.cpu(), energy[self.places].clamp_min(LEAST_ENERGY).sqrt().cpu()

    def fit(self, probe: Probe) -> Tensor:
        """Find how well volumes correlate with the scan where they fit best (Lewis 1995, fast normalised correlation).

        Args:
            probe: The volumes.

        Returns:
            `(B,)`: 1 for a part of the scan itself, about 0 for another scan.
        """
        spectra = probe.spectra(self.size)
        spectrum, strength = (each.to(spectra.device) for each in (self.spectrum, self.strength))
        products = torch.fft.irfftn((spectra.conj() * spectrum).sum(1), self.size, dim=(1, 2, 3))
        z, y, x = self.places
        alike = products[:, z, y, x] / strength / probe.lengths.view(-1, 1, 1, 1)
        return alike.flatten(1).amax(1)
