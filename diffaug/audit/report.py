"""The report: one HTML file, verdict first, then pictures, then tables. It loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from diffaug.audit.catalogue import SINGLE, entry_of
from diffaug.audit.classifier import SEEN_EDGE
from diffaug.audit.discriminant import LOOKED_AT, STATISTICS
from diffaug.audit.figures import Compared, Figure
from diffaug.audit.findings import Findings
from diffaug.audit.folds import PATIENT_FOLDS
from diffaug.audit.memorisation import Judged, Memorisation
from diffaug.audit.verdicts import Verdict, defects
from diffaug.errors import times
from diffaug.page import card, heading, page, paragraph, picture, table

EXCESSES = 6  # texture statistics that are listed
ROWS = 40  # of a table; all of them are in copies.csv
PICTURES = {
    "telling.png": "What gave them away: the synthetic volumes that a classifier was surest of, those that it took for "
    "scans, and the scans that it was surest of. Of the two it is the one that tells more of them.",
    "textures.png": "Power spectra and intensities of both sides, the middle nine tenths of each shaded.",
    "volumes.png": "Real scans, and synthetic volumes that were not picked by hand.",
    "nearest_pairs.png": "The synthetic volumes most similar to a training scan, each over that scan. Do they show one "
    "and the same patient? A copy may be mirrored or shifted. The eye is the last judge.",
    "similarities.png": "How similar volumes are to their nearest training scan.",
    "reconstructions.png": "Scans that the generator never saw, and what its autoencoder keeps of them.",
}


def render(findings: Findings, verdicts: Sequence[Verdict], folder: Path) -> str:
    """Write the report.

    Args:
        findings: What the audit found.
        verdicts: What follows from it.
        folder: Where the pictures lie.

    Returns:
        The HTML.
    """
    title = f"Audit of {findings.title}"
    found = defects(verdicts)
    if found:
        headline = f"Defects found: {'; '.join(found)}."
    elif any(verdict.kind != "good" for verdict in verdicts):
        headline = "No defect found for certain; some points are open."
    else:
        headline = "No defect found."
    copies = findings.copies
    body = [
        heading(title, 1),
        paragraph(
            f"{findings.synthetic} synthetic volumes were compared with the {findings.training} real scans that the "
            f"generator was trained on and with {findings.unseen or 'no'} real scans that it never saw."
        ),
        paragraph("This report shows real scans and names their ids. Treat it as patient data.", "note"),
        heading("Verdict"),
        card("bad" if found else "look" if headline.endswith("open.") else "good", headline, ""),
        *(card(verdict.kind, verdict.head, verdict.text) for verdict in verdicts),
        heading("Pictures"),
        *(picture(folder / name, text) for name, text in PICTURES.items() if (folder / name).is_file()),
        heading("Figures"),
        paragraph(
            "Each figure stands beside its floor: the same figure between two halves of the real scans. A generator that "
            "draws as nature does is at the floor; no generator can be expected to be below it."
        ),
        table(
            ("figure", "synthetic (95 % interval)", "floor (95 % interval)", "n", "verdict", "what it is"),
            _rows(findings),
        ),
        table(("figure", "value (95 % interval)", "n", "settings"), _plain_rows(findings)),
        *([] if findings.apart is None else [_excess(findings.apart.excess, findings.channels)]),
        heading("Does the test find copies?"),
        _planted(findings),
        heading("Nearest training scans"),
        _nearest(sorted(copies.synthetic, key=lambda j: (not j.copy, -j.similarity)), "synthetic volume"),
        heading("Real scans that are no copies, and their nearest training scans"),
        paragraph(
            "These set the threshold, each held against scans of other patients. "
            + (
                f"These stood out as copies do, seem to show one patient each and count as one: {_patients(copies)}."
                * bool(copies.patients)
            )
        ),
        _nearest(sorted(copies.innocent, key=lambda j: -j.similarity), "real scan"),
        heading("How this was measured, and what it cannot show"),
        *map(paragraph, _method(findings)),
    ]
    return page(title, body)


def _rows(findings: Findings) -> Iterable[Sequence[object]]:
    for group, figures in findings.compared.items():
        for name, compared in figures.items():
            yield (f"{name}, {group}", *_cells(compared), entry_of(name).meaning)


def _cells(compared: Compared) -> tuple[str, str, str, str]:
    count = f"{compared.figure.n} and {compared.floor.n} volumes"
    return compared.figure.text(), compared.floor.text(), count, compared.verdict


def _plain_rows(findings: Findings) -> Iterable[Sequence[object]]:
    for single in SINGLE:
        if (figure := single.get(findings)) is not None:
            count = f"{figure.n} {single.counted}"
            yield single.meaning, figure.text(single.digits), count, single.settings(findings)
    copies = findings.copies
    yield "synthetic volumes held for copies", f"{len(copies.copies) / findings.synthetic:.1%}", findings.synthetic, ""
    yield (
        "real scans held for copies",
        _percents(copies.false_alarms),
        copies.false_alarms.n,
        "each by the others' threshold",
    )
    yield "training scans that a copy reaches", f"{copies.reached:.1%}", copies.training, ""


def _excess(excess: np.ndarray, channels: Sequence[str]) -> str:
    """List the texture statistics that differ most."""
    names = [f"{channel}: {statistic}" for channel in channels for statistic in STATISTICS]
    most = np.argsort(-np.abs(excess))[:EXCESSES]
    return table(
        ("of all texture statistics these differ most", "synthetic less real, standard deviations of real scans"),
        [(names[i], f"{excess[i]:+.1f}") for i in most],
    )


def _patients(copies: Memorisation) -> str:
    return "; ".join(", ".join(group) for group in copies.patients)


def _percents(figure: Figure) -> str:
    return f"{figure.value:.1%} ({figure.low:.1%} to {figure.high:.1%})"


def _planted(findings: Findings) -> str:
    copies = findings.copies
    rows = [(kind, f"{found} of {planted}") for kind, (found, planted) in copies.found.items()]
    alarms = copies.false_alarms
    rows.append(("false alarms: real scans that are no copies", f"{_percents(alarms)} of {alarms.n} scans"))
    if copies.decoded_unseen:
        named = sum(judged.copy for judged in copies.decoded_unseen)
        rows.append(("false alarms: the same, through the autoencoder", f"{named} of {len(copies.decoded_unseen)}"))
    return table(("planted copies of training scans", "held for copies, with the right scan named"), rows)


def _nearest(found: Sequence[Judged], what: str) -> str:
    rows = [
        (near.name, near.case, f"{near.similarity:.3f}", f"{near.ratio:.2f}", "copy" if near.copy else "")
        for near in found[:ROWS]
    ]
    content = table((what, "nearest training scan", "similarity", "ratio", ""), rows)
    if len(found) > ROWS:
        content += paragraph(f"The first {ROWS} of {len(found)}.", "note")
    return content


def _method(findings: Findings) -> Iterable[str]:
    yield from findings.about
    yield (
        "To look for copies, each volume was laid onto every training scan at every place, also mirrored, and its fine "
        "structure correlated with the scan's where it fits best. Similarity tells how much nearer the nearest training scan "
        "lies than those of the next five patients do: 1 for the scan itself, 0 where all are alike. The ratio is the "
        "distance to the nearest patient over that to the second nearest. Real scans, each held against all others, tell how "
        "similar scans of different patients may be."
    )
    yield (
        "The self-supervised encoder was trained here, on the training scans alone, to know a scan again however it is "
        "mirrored, shifted, warped, blurred, made noisy or changed in brightness; its features are taken before the last "
        "layers. Real and synthetic volumes go through it alike. Between halves of hippocampus "
        "scans, one trained on and one not, that made no difference beyond the floor. Both sides of a comparison have the "
        "same number of volumes, averaged over random halves; intervals are the range of single halves. MS-SSIM is averaged "
        "over random pairs, with a bootstrap over volumes."
    )
    if findings.apart is not None:
        yield (
            f"To see whether they are told apart, {PATIENT_FOLDS} small networks were each taught to tell scans from "
            "synthetic volumes by four fifths of the patients and asked about the rest (Lopez-Paz and Oquab 2017); mirror "
            "images and shifts of up to two voxels were shown alike. A linear discriminant of texture statistics, strength "
            "and tails of small filters' responses, was asked likewise: it sees soft edges where grain makes up for the "
            "power that they lack, which such networks overlook. The floor is the same game between two halves of the "
            "scans."
        )
    if findings.grid.field_of_view == "patch":
        yield (
            "The generator makes windows, not whole scans. Each was compared with training scans wherever they were cut; for "
            "all other figures real windows were cut at the same relative positions, one per scan."
        )
    else:
        yield "Each volume is one whole scan on the grid below; what lies beyond the grid was not compared."
    if findings.apart is not None and max(findings.grid.shape) > SEEN_EDGE:
        yield (
            f"The classifiers see pieces of {SEEN_EDGE} voxels along each axis: that such pieces are alike says nothing "
            f"of how they are arranged. Textures are those of the middle {LOOKED_AT} voxels."
        )
    yield (
        "Not shown: whether anatomy is correct (ask a radiologist), whether copies of a part, an organ say, are among the "
        "volumes, and whether somebody with other knowledge could tell that a patient's scan was used."
    )
    shape = times(findings.grid.shape)
    spacing = " x ".join(f"{s:.2f}" for s in findings.grid.spacing)
    yield (
        f"Grid {shape} voxels of {spacing} mm (Z x Y x X), {findings.grid.field_of_view}; channels "
        f"{', '.join(findings.channels)}; pictures show the first."
    )
    inputs = ", ".join(f"{key} {value}" for key, value in findings.inputs.items())
    yield f"Seed of the audit: {findings.seed}. diffaug {findings.version}. {inputs}."
