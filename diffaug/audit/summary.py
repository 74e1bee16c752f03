"""What a manifest keeps of an audit, each figure beside its n."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from diffaug.audit.catalogue import SINGLE
from diffaug.audit.diversity import PAIRS
from diffaug.audit.figures import Compared
from diffaug.audit.findings import Findings
from diffaug.scans.similarity import WINDOW, ms_ssim_settings


def summarise(findings: Findings) -> dict[str, Any]:
    """Gather what the manifest keeps.

    Args:
        findings: What the audit found.

    Returns:
        Something JSON can write.
    """
    scales, window = ms_ssim_settings(findings.grid.shape)
    copies = findings.copies
    summary: dict[str, Any] = {
        "volumes": {"synthetic": findings.synthetic, "training": findings.training, "unseen": findings.unseen},
        "distances": {name: _compared(figures) for name, figures in findings.distances.items()},
        "textures": _compared(findings.textures),
        "organs": _compared(findings.organs),
        "reconstruction": {},
        "copies": {
            "found": len(copies.copies),
            "share": len(copies.copies) / findings.synthetic,
            "share_of_real_scans": asdict(copies.false_alarms),
            "by_chance": copies.by_chance,
            "certain": len(copies.certain),
            "one_patient": [list(group) for group in copies.patients],
            "training_scans_reached": copies.reached,
            "threshold": copies.threshold,
            "planted_found": {kind: list(counts) for kind, counts in copies.found.items()},
            "false_alarms_through_the_autoencoder": [
                sum(j.copy for j in copies.decoded_unseen),
                len(copies.decoded_unseen),
            ],
        },
        "settings": {
            "seed": findings.seed,
            "grid": asdict(findings.grid),
            "ssim_window_voxels": WINDOW,
            "ms_ssim_scales": scales,
            "ms_ssim_window_voxels": window,
            "ms_ssim_pairs_at_most": PAIRS,
        },
    }
    for single in SINGLE:
        *path, last = single.key.split(".")
        figure, place = single.get(findings), summary
        if figure is None and path:
            continue
        for part in path:
            place = place.setdefault(part, {})
        place[last] = asdict(figure) if figure is not None else None
    return summary


def _compared(figures: dict[str, Compared]) -> dict[str, Any]:
    return {name: {**asdict(c), "verdict": c.verdict} for name, c in figures.items()}
