"""The demo's page: samples beside scans, what the audit says, masks of both arms, Dice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from diffaug import page as html
from diffaug.audit.figures import mean_figure
from diffaug.files import atomic_path, read_json, write_json
from diffaug.scans.pictures import brightness, mosaic, outlines, read_upright

SHOWN_PAIRS = 8  # scans and samples shown
CASES = 4  # test cases whose masks are shown
# of a checkout: an installed wheel has no benchmarks
PLOT = Path(__file__).parents[1] / "benchmarks" / "results" / "scarce_labels.png"


@dataclass(frozen=True)
class Shown:
    """What the page shows.

    Attributes:
        scans: Folder of scans that the generator might have made.
        synthetic: Folder of its volumes.
        audit: Folder of their audit.
        study: Page of a reader study of both.
        tests: Folder of the test cases.
        truth: Folder of their masks.
        predictions: By arm the folder of its masks; the first is the one that is not pretrained.
        seconds: By step what it took.
    """

    scans: Path
    synthetic: Path
    audit: Path
    study: Path
    tests: Path
    truth: Path
    predictions: Mapping[str, Path]
    seconds: Mapping[str, float]


def write(out: Path, shown: Shown) -> Path:
    """Write page and figures, and print the figures.

    Args:
        out: The folder.
        shown: What is shown.

    Returns:
        The page, one HTML file that needs nothing beside it.
    """
    dice = pd.DataFrame({arm: _dice(folder) for arm, folder in shown.predictions.items()}).rename_axis("test case")
    before, after = dice.columns
    gain = dice[after] - dice[before]
    mean = mean_figure(gain.tolist(), 0)
    better = f"better in {(gain > 0).sum()} of {len(gain)} cases"
    verdict = f"{mean.value:+.4f}, 95 % interval over test cases {mean.low:+.4f} to {mean.high:+.4f}; {better}"
    write_json(out / "dice.json", {"dice": dice.to_dict(), "seconds": dict(shown.seconds)})
    print(dice.mean().round(4).to_frame("mean Dice").T.to_string())
    print(f"difference of the means {verdict}")
    scale = _draw_pairs(shown, out / "samples.png")
    order = gain.sort_values().index
    picked = [str(order[place]) for place in np.linspace(0, len(order) - 1, min(CASES, len(order))).round().astype(int)]
    _draw_masks(shown, picked, out / "masks.png")
    file = out / "page.html"
    with atomic_path(file) as temporary:
        temporary.write_text(
            html.page("diffaug demo", _body(out, shown, dice, verdict, picked, scale)), encoding="utf-8"
        )
    return file


def _body(
    out: Path, shown: Shown, dice: pd.DataFrame, verdict: str, picked: list[str], scale: tuple[float, float]
) -> Iterator[str]:
    yield html.heading("What happened here", 1)
    yield html.paragraph(
        "Hospital A fitted a generator to 300 scans and sent the generator, not the scans. Hospital B has ten labelled "
        "scans of another scanner. It samples, pretrains a small transformer on the samples, and trains nnU-Net from there "
        "and from scratch, equally long. All scans are phantoms: drawn by a program, so that nobody's data is needed."
    )
    yield html.heading("Samples beside scans")
    yield html.picture(
        out / "samples.png",
        f"Above scans of hospital A that the generator never saw, below its samples, the first {SHOWN_PAIRS} of each: axial, "
        f"coronal, sagittal, {scale[0]:.0f} black and {scale[1]:.0f} white",
    )
    yield html.link(shown.study.relative_to(out).as_posix(), "Can you tell them apart? A reader study of six volumes")
    yield html.heading("What the audit says")
    verdicts = read_json(shown.audit / "manifest.json", "run: diffaug audit")["verdicts"]
    for subject, (kind, sentence) in verdicts.items():
        yield html.card(kind, subject, sentence)
    yield html.paragraph(f"The whole report: {shown.audit / 'report.html'}", "note")
    yield html.heading("Dice on hospital B's test scans")
    yield html.table(["", *dice.columns], [["mean", *(f"{value:.3f}" for value in dice.mean())]])
    yield html.paragraph(f"With pretraining minus without: {verdict}.")
    yield html.picture(
        out / "masks.png",
        f"Outlines of the masks of {', '.join(picked)}, from the case that pretraining harmed most, or helped least, to "
        "the one it helped most: truth in green, the arm in orange",
    )
    yield html.heading("Is that what pretraining is worth?")
    yield html.paragraph(
        "No: this is one draw of ten labels and one training of each arm, minutes long, and two such trainings of one arm "
        "differ as much as the arms. It is measured over many draws, to the end of the training, against controls, "
        "in benchmarks/results/scarce_labels.md, negative results included."
    )
    if PLOT.is_file():
        yield html.picture(PLOT, "The benchmark's trainings: Dice on test cases over the number of labelled cases")
    yield html.heading("Time")
    yield html.table(["step", "seconds"], [[name, f"{seconds:.0f}"] for name, seconds in shown.seconds.items()])


def _dice(folder: Path) -> dict[str, float]:
    cases = json.loads((folder / "summary.json").read_text())["metric_per_case"]
    return {Path(case["prediction_file"]).name.split(".")[0]: case["metrics"]["1"]["Dice"] for case in cases}


def _draw_pairs(shown: Shown, file: Path) -> tuple[float, float]:
    """Draw scans over samples, all in one window of intensities, which is given back."""
    (scans, spacings), (samples, _) = (
        zip(*map(read_upright, sorted(folder.glob("*.nii.gz"))[:SHOWN_PAIRS]), strict=True)
        for folder in (shown.scans, shown.synthetic)
    )
    limits = brightness(scans)
    mosaic({"scans": scans, "samples": samples}, file, spacing=spacings[0], limits=limits)
    return limits


def _draw_masks(shown: Shown, cases: list[str], file: Path) -> None:
    """Draw, for each arm and case, truth and prediction on the slice where the truth is largest."""
    rows: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for arm, folder in shown.predictions.items():
        for case in cases:
            scan, truth, made = (
                read_upright(path)[0]
                for path in (
                    shown.tests / f"{case}_0000.nii.gz",
                    shown.truth / f"{case}.nii.gz",
                    folder / f"{case}.nii.gz",
                )
            )
            at = int((truth > 0).sum((1, 2)).argmax())
            rows.setdefault(arm, []).append((scan[at], truth[at] > 0, made[at] > 0))
    outlines(rows, file)
