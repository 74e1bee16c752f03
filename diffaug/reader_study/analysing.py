"""Analyses readers' answers: one page, a picture, and tables for one's own statistics."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from diffaug.files import atomic_path
from diffaug.reader_study.agreement import agreement
from diffaug.reader_study.answers import read_answers, read_key
from diffaug.reader_study.judging import grades, guesses
from diffaug.reader_study.report import results_page
from diffaug.reader_study.requests import AnalyseRequest
from diffaug.reader_study.texts import CATEGORIES, GRADES

COLOURS = ("#b2182b", "#ef8a62", "#92c5de", "#2166ac")  # of the grades, told apart by colour-blind people, too


def analyse(request: AnalyseRequest) -> Path:
    """Write `report.html`, `grades.png`, and as CSV `answers`, `grades`, `guesses` and `agreement`.

    Args:
        request: What was asked.

    Returns:
        The page.

    Raises:
        DiffaugError: If the key or a reader's answers cannot be used.
    """
    key = read_key(request.key)
    table = read_answers(request.answers, key, incomplete=request.incomplete)
    tables = {"answers": table, "grades": grades(table), "guesses": guesses(table), "agreement": agreement(table)}
    request.out.mkdir(parents=True, exist_ok=True)
    for name, content in tables.items():
        with atomic_path(request.out / f"{name}.csv") as temporary:
            content.to_csv(temporary, index=False)
    with atomic_path(request.out / "grades.png") as temporary:
        _draw(tables["grades"], temporary)
    report = request.out / "report.html"
    with atomic_path(report) as temporary:
        temporary.write_text(results_page(key, tables, request.out / "grades.png"), encoding="utf-8")
    return report


def _draw(table: pd.DataFrame, file: Path) -> None:
    """Draw the grades as bars."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = max((len(part) for _, part in table.groupby("category")), default=1)
    figure, axes = pyplot.subplots(
        1, len(CATEGORIES), figsize=(12, 1.2 + 0.32 * rows), sharey=True, layout="constrained"
    )
    for axis, category in zip(axes, CATEGORIES, strict=True):
        part = table[table["category"] == category].sort_values(["reader", "kind"], ascending=False)
        names, left = part["reader"] + ", " + part["kind"], np.zeros(len(part))
        for grade in range(1, GRADES + 1):
            share = part[f"grade_{grade}"].to_numpy(dtype=float)
            axis.barh(names, share, left=left, color=COLOURS[grade - 1], label=f"grade {grade}")
            left += share
        axis.set_title(category)
        axis.set_xlim(0, 1)
        axis.xaxis.set_major_formatter("{x:.0%}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=GRADES)
    figure.savefig(file, dpi=110, format="png")
    pyplot.close(figure)
