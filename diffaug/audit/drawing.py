"""The report's pictures, of the first channel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

from diffaug.audit.apartness import Apartness
from diffaug.audit.findings import Findings
from diffaug.audit.inputs import AuditInputs
from diffaug.audit.memorisation import Memorisation
from diffaug.files import atomic_path
from diffaug.scans.pictures import mosaic

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend comes first: servers have no screen)

VOLUMES_SHOWN = 6  # volumes per row of a picture


def draw(
    findings: Findings, inputs: AuditInputs, decoded: Callable[[np.ndarray], np.ndarray] | None, folder: Path
) -> None:
    """Draw all pictures of a report.

    Args:
        findings: What the audit found.
        inputs: The volumes.
        decoded: Sends a volume through the generator's autoencoder; None without one.
        folder: Where to: `volumes.png`, `nearest_pairs.png`, `similarities.png`, `textures.png`, with an autoencoder
            `reconstructions.png`, and, where there are enough volumes for a classifier, `telling.png`.
    """
    grid, seed = inputs.grid, findings.seed

    def drawn(rows: dict[str, list[np.ndarray]], name: str, captions: dict[str, list[str]] | None = None) -> None:
        mosaic(rows, folder / name, spacing=grid.spacing, orientation=grid.orientation, captions=captions)

    rng = np.random.default_rng(seed)
    scans = [inputs.training[i] for i in rng.permutation(len(inputs.training))[:VOLUMES_SHOWN]]
    names = [inputs.names[i] for i in rng.permutation(len(inputs.names))[:VOLUMES_SHOWN]]
    drawn(
        {
            "real scan": [inputs.real(*where)[0] for where in inputs.likes(scans, seed)],
            "synthetic": [inputs.synthetic(name)[0] for name in names],
        },
        "volumes.png",
        {"real scan": scans, "synthetic": names},
    )
    closest = sorted(findings.copies.synthetic, key=lambda judged: (not judged.copy, -judged.similarity))[
        :VOLUMES_SHOWN
    ]
    patch = grid.field_of_view == "patch"
    drawn(
        {
            "synthetic": [inputs.synthetic(near.name)[0] for near in closest],
            "nearest training scan": [inputs.real(near.case, near.name if patch else None)[0] for near in closest],
        },
        "nearest_pairs.png",
        {
            "synthetic": [near.name for near in closest],
            "nearest training scan": [
                f"{near.case}\nsimilarity {near.similarity:.3f}{', copy' if near.copy else ''}" for near in closest
            ],
        },
    )
    if decoded is not None and inputs.unseen:
        unseen = [inputs.real(*where) for where in inputs.likes(inputs.unseen[:VOLUMES_SHOWN], seed)]
        rows = {"unseen scan": [v[0] for v in unseen], "reconstruction": [decoded(v)[0] for v in unseen]}
        drawn(rows, "reconstructions.png")
    if findings.apart is not None:
        drawn(_telling(findings.apart, inputs, seed), "telling.png")
    _looks(findings, folder / "textures.png")
    _similarities(findings.copies, folder / "similarities.png")


def _telling(apart: Apartness, inputs: AuditInputs, seed: int) -> dict[str, list[np.ndarray]]:
    """Find the volumes that the classifier was surest of, and those that it took for the other side."""
    made, scans = (sorted(side, key=side.__getitem__) for side in (apart.synthetic, apart.real))
    like = dict(inputs.likes(inputs.training, seed))
    return {
        "synthetic, most telling": [inputs.synthetic(name)[0] for name in made[::-1][:VOLUMES_SHOWN]],
        "synthetic, least telling": [inputs.synthetic(name)[0] for name in made[:VOLUMES_SHOWN]],
        "scans, most telling": [inputs.real(case, like[case])[0] for case in scans[:VOLUMES_SHOWN]],
    }


def _looks(findings: Findings, file: Path) -> None:
    """Draw power spectra and histograms of both sides, a row a channel: the median, and where nine tenths lie."""
    channels, top = len(findings.channels), 0.5 / min(findings.grid.spacing)
    figure, axes = plt.subplots(channels, 2, figsize=(9, 2.6 * channels), squeeze=False)
    for colour, (side, found) in zip(("#57606a", "#cf222e"), findings.looks.items(), strict=True):
        for (spectrum, histogram), *both in zip(axes, *(np.moveaxis(v, 1, 0) for v in found.values()), strict=True):
            bands, bins = (value.shape[1] for value in both)
            places = [(np.arange(bands) + 0.5) / bands * top, (np.arange(bins) + 0.5) / bins * 100]
            for axis, place, (low, middle, high) in zip((spectrum, histogram), places, both, strict=True):
                axis.fill_between(place, low, high, color=colour, alpha=0.2, linewidth=0)
                axis.plot(place, middle, color=colour, linewidth=1.2, label=side)
    for name, (spectrum, histogram) in zip(findings.channels, axes, strict=True):
        spectrum.set(xlabel="cycles per mm", ylabel="power, dB", title=f"{name}: spectrum")
        histogram.set(xlabel="intensity, % of the range", ylabel="% of the voxels", title=f"{name}: intensities")
        histogram.set_yscale("symlog", linthresh=0.1)
        spectrum.legend(fontsize=7)
    figure.tight_layout(pad=0.5)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def _similarities(copies: Memorisation, file: Path) -> None:
    """Draw how similar volumes are to their nearest training scan, and the threshold."""
    groups = {
        "synthetic": copies.synthetic,
        "real scans, no copies": copies.innocent,
        "training scans,\nthrough the autoencoder": copies.decoded,
    }
    shown = {name: [judged.similarity for judged in group] for name, group in groups.items() if group}
    figure, axis = plt.subplots(figsize=(9, 0.7 + 0.65 * len(shown)))
    for height, values in enumerate(shown.values()):
        spread = [height + 0.3 * ((i * 0.618) % 1 - 0.5) for i in range(len(values))]
        axis.plot(values, spread, ".", markersize=4, alpha=0.6)
    axis.axvline(copies.threshold, color="#cf222e", linewidth=1, label="threshold of the copy detector")
    axis.set_yticks(range(len(shown)), [f"{name} ({len(values)})" for name, values in shown.items()], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("similarity to the nearest training scan: 1 is the scan itself", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1, 1))
    figure.tight_layout(pad=0.5)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
