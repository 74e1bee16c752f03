"""From scans and synthetic volumes to a report: measure, conclude, draw, write."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from diffaug.audit.apartness import C2ST
from diffaug.audit.catalogue import SINGLE
from diffaug.audit.discriminant import TEXTURE_C2ST
from diffaug.audit.diversity import PAIRS
from diffaug.audit.drawing import draw
from diffaug.audit.feature_space import FeatureSpace
from diffaug.audit.fidelity import reconstruct
from diffaug.audit.figures import Compared
from diffaug.audit.findings import Findings
from diffaug.audit.fit_feature_space import fit_feature_space
from diffaug.audit.inputs import AuditInputs
from diffaug.audit.measuring import measure
from diffaug.audit.report import render
from diffaug.audit.requests import Extras
from diffaug.audit.verdicts import conclude, defects
from diffaug.copies.calibrating import make_detector
from diffaug.copies.detector import CopyDetector
from diffaug.errors import DiffaugError
from diffaug.files import atomic_path
from diffaug.generator.autoencoder import Autoencoder
from diffaug.scans.similarity import WINDOW, ms_ssim_settings
from diffaug.training.devices import alone

Report = dict[str, Any]


@dataclass(frozen=True)
class Audited:
    """What an audit is made from.

    Attributes:
        inputs: The scans and the synthetic volumes.
        copies: File of the copy detector, made where it is missing.
        work: Folder for what another audit of the same scans can use again.
        autoencoder: The generator's, where it is known.
    """

    inputs: AuditInputs
    copies: Path
    work: Path
    autoencoder: Autoencoder | None


def make_report(
    audited: Audited, extras: Extras, made_from: dict[str, Any], folder: Path, report: Path, fabric: Fabric
) -> Report:
    """Measure, conclude and report.

    Args:
        audited: What is looked at.
        extras: What the user added.
        made_from: What the report says of its inputs: names and hashes.
        folder: Where pictures and the table of copies go.
        report: The HTML file.
        fabric: Where to compute.

    Returns:
        What a manifest should say: defects, verdicts, figures.
    """
    inputs, autoencoder = audited.inputs, audited.autoencoder
    with fabric.rank_zero_first():  # the others find the files
        detector = adopt_detector(inputs, audited.copies, fabric)
        space = adopt_feature_space(inputs, audited.work, alone(fabric))
    findings = measure(
        inputs,
        detector,
        space,
        extras=extras,
        autoencoder=autoencoder,
        made_from=made_from,
        work=audited.work,
        fabric=fabric,
    )
    verdicts = conclude(findings)
    if fabric.is_global_zero:
        _write_table(findings, folder / "copies.csv")
        draw(findings, inputs, partial(reconstruct, autoencoder) if autoencoder else None, folder)
        with atomic_path(report) as temporary:
            temporary.write_text(render(findings, verdicts, folder), encoding="utf-8")
    return {
        "defects": defects(verdicts),
        "verdicts": {v.subject: [v.kind, v.head] for v in verdicts},
        "figures": summarise(findings),
    }


def _write_table(findings: Findings, file: Path) -> None:
    """Write the verdict on every synthetic volume, for people who filter their set."""
    with atomic_path(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["synthetic", "nearest_training_scan", "similarity", "ratio", "copy"])
        for near in findings.copies.synthetic:
            writer.writerow([near.name, near.case, f"{near.similarity:.4f}", f"{near.ratio:.4f}", near.copy])


def summarise(findings: Findings) -> dict[str, Any]:
    """Gather what the manifest keeps.

    Args:
        findings: What the audit found.

    Returns:
        Something JSON can write.
    """
    scales, window = ms_ssim_settings(findings.grid.shape)
    copies, classified = findings.copies, _compared(findings.compared["classifier"])
    summary: dict[str, Any] = {
        "volumes": {"synthetic": findings.synthetic, "training": findings.training, "unseen": findings.unseen},
        "distances": {name: _compared(figures) for name, figures in findings.distances.items()},
        "c2st_auc": classified.get(C2ST),
        "c2st_textures": classified.get(TEXTURE_C2ST),
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


def adopt_detector(inputs: AuditInputs, file: Path, fabric: Fabric) -> CopyDetector:
    """Load the copy detector, or make it where there is none.

    Args:
        inputs: The volumes.
        file: Where it lies, or shall lie.
        fabric: Where to compute.

    Returns:
        The detector.

    Raises:
        DiffaugError: If the file belongs to other scans.
    """
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        make_detector(
            inputs.scans.__getitem__,
            inputs.training,
            inputs.unseen,
            shape=inputs.grid.shape,
            mirror=inputs.grid.mirror,
            field_of_view=inputs.grid.field_of_view,
            device=fabric.device,
        ).save(file)
    detector = CopyDetector.load(file, inputs.scans.__getitem__, fabric.device)
    if detector.cases != inputs.training:
        raise DiffaugError(
            f"{file}: knows {len(detector.cases)} scans, not the {len(inputs.training)} that the generator was trained on; "
            "fit anew with --fresh"
        )
    return detector


def adopt_feature_space(inputs: AuditInputs, folder: Path, fabric: Fabric) -> FeatureSpace:
    """Load the feature space of the real scans, or fit it where there is none, going on where a stopped fit left off.

    Args:
        inputs: The volumes.
        folder: Where it lies, or shall lie.
        fabric: Where to compute.

    Returns:
        The feature space.
    """
    file = folder / "encoder.safetensors"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        fit_feature_space(
            inputs.scans.__getitem__,
            inputs.training,
            shape=inputs.grid.shape,
            mirror=inputs.grid.mirror,
            fabric=fabric,
            folder=folder,
        ).save(file)
        (folder / "encoder.state.pt").unlink(missing_ok=True)  # what a stopped fit goes on from has done its duty
    return FeatureSpace.load(file).to(fabric.device)
