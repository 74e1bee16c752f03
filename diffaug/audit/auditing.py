"""From scans and synthetic volumes to a report: measure, conclude, draw, write."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from diffaug.audit.detecting import adopt_detector, adopt_feature_space
from diffaug.audit.drawing import draw
from diffaug.audit.fidelity import reconstruct
from diffaug.audit.findings import Findings
from diffaug.audit.inputs import AuditInputs
from diffaug.audit.measuring import measure
from diffaug.audit.report import render
from diffaug.audit.requests import Extras
from diffaug.audit.summary import summarise
from diffaug.audit.verdicts import conclude, defects
from diffaug.files import atomic_path
from diffaug.generator.autoencoder import Autoencoder

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
    findings = measure(
        inputs,
        adopt_detector(inputs, audited.copies, fabric),
        adopt_feature_space(inputs, audited.work, fabric),
        extras=extras,
        autoencoder=autoencoder,
        made_from=made_from,
        device=fabric.device,
    )
    verdicts = conclude(findings)
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
