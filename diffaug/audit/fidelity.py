"""How much of a scan the autoencoder keeps: no synthetic volume can show finer detail than its reconstructions do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from diffaug.audit.figures import Figure, mean_figure
from diffaug.audit.inputs import AuditInputs
from diffaug.generator.autoencoder import Autoencoder
from diffaug.scans.similarity import psnr, ssim
from diffaug.scans.windows import paste_extent


@dataclass(frozen=True)
class Fidelity:
    """Reconstruction figures over scans.

    Attributes:
        psnr: Peak signal-to-noise ratio in dB.
        ssim: Structural similarity.
    """

    psnr: Figure
    ssim: Figure


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, volume: np.ndarray) -> np.ndarray:
    """Send a volume through the autoencoder.

    Args:
        autoencoder: In evaluation mode.
        volume: `(C, Z, Y, X)` in [-1, 1].

    Returns:
        The reconstruction, of the same shape.
    """
    device = autoencoder.head.weight.device
    batch = torch.from_numpy(volume)[None].to(device)
    return autoencoder.decode(autoencoder.encode(batch))[0].float().cpu().numpy()


def measure_fidelity(
    autoencoder: Autoencoder, inputs: AuditInputs, scans: Sequence[tuple[str, str | None]], seed: int
) -> Fidelity:
    """Compare scans with their reconstructions, inside the scan alone: mirrored margins would flatter the figures.

    Args:
        autoencoder: In evaluation mode.
        inputs: Where scans come from.
        scans: Id of each scan, and the synthetic volume whose relative position the window has, see `AuditInputs.likes`.
        seed: Of the bootstrap.

    Returns:
        The figures, one window per scan.
    """
    noise, structure = [], []
    for case, like in tqdm(scans, "reconstructing scans", unit="scan", ascii=True):
        real = inputs.real(case, like)
        window = inputs.place(inputs.scans[case].shape[1:], like)
        pair = [torch.from_numpy(paste_extent(v, window))[None] for v in (real, reconstruct(autoencoder, real))]
        noise.append(float(psnr(*pair)))
        structure.append(float(ssim(*pair)))
    return Fidelity(mean_figure(noise, seed), mean_figure(structure, seed))
