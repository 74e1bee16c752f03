"""The page on which a study's results are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from diffaug import page as html
from diffaug.reader_study.answers import Key
from diffaug.reader_study.texts import CATEGORIES, GRADES, read_texts

# arXiv 2211.03364, table 1: share of the grades 2, 3 and 4 in percent, reader 1 and reader 2; grade 1 was never given
THE_PAPERS = {
    "appearance": {
        "ADNI": ((0, 20, 80), (0, 10, 90)),
        "LIDC": ((20, 68, 12), (14, 86, 0)),
        "DUKE": ((0, 90, 10), (0, 94, 6)),
        "MRNet": ((2, 96, 2), (0, 100, 0)),
    },
    "slices": {
        "ADNI": ((0, 0, 100), (0, 0, 100)),
        "LIDC": ((18, 60, 22), (14, 86, 0)),
        "DUKE": ((0, 52, 48), (0, 56, 44)),
        "MRNet": ((0, 78, 22), (0, 70, 30)),
    },
    "anatomy": {
        "ADNI": ((0, 22, 78), (0, 12, 88)),
        "LIDC": ((20, 74, 6), (32, 68, 0)),
        "DUKE": ((0, 56, 44), (0, 58, 42)),
        "MRNet": ((10, 56, 34), (12, 60, 28)),
    },
}


def results_page(key: Key, tables: Mapping[str, pd.DataFrame], picture: Path) -> str:
    """Write the page.

    Args:
        key: The study's key.
        tables: `answers`, `grades`, `guesses` and `agreement`.
        picture: The grades as bars.

    Returns:
        The HTML, which needs nothing beside it.
    """
    return html.page("Reader study", _body(key, tables, picture))


def _body(key: Key, tables: Mapping[str, pd.DataFrame], picture: Path) -> Iterator[str]:
    table = tables["answers"]
    kinds = [volume["kind"] for volume in key["volumes"].values()]
    yield html.heading("Reader study", 1)
    yield html.paragraph(
        f"{table['reader'].nunique()} readers, {kinds.count('real')} real and {kinds.count('synthetic')} synthetic volumes "
        f"in random order; study {key['study']}."
    )
    if open_ones := int(table["guess"].isna().sum()):
        yield html.card(
            "look", "Incomplete:", f"{open_ones} of {len(table)} guesses were not given; figures are of the rest."
        )
    yield html.heading("Were they told apart?")
    yield html.paragraph(
        "Sensitivity: synthetic volumes called synthetic. Specificity: real ones called real. Who guesses has an accuracy of "
        "0.5 where there are as many of each. Intervals of 95 %: of a reader Wilson's, of all a bootstrap over volumes; p: "
        "of guesses so far from blind ones by chance alone (Fisher's exact test).",
        "note",
    )
    yield html.table(
        ["reader", "figure", "right", "value", "p"],
        [
            [
                r.reader,
                r.figure,
                f"{r.right} of {r.answers}",
                _with_interval(r.value, r.low, r.high),
                _number(r.p, "{:.2g}"),
            ]
            for r in tables["guesses"].itertuples()
        ],
    )
    yield from _graded(tables["grades"], picture)
    yield html.heading("Do readers agree?")
    yield from _agreement(tables["agreement"])
    yield from _papers()


def _graded(table: pd.DataFrame, picture: Path) -> Iterator[str]:
    texts = read_texts(None)
    yield html.heading("How were they graded?")
    yield html.picture(
        picture, "Share of each grade, from 1, the worst, to 4, for real and synthetic volumes, reader by reader"
    )
    yield html.table(
        ["category", "volumes", "reader", "answers", *(f"grade {n}" for n in range(1, GRADES + 1)), "mean", "p"],
        [
            [r.category, r.kind, r.reader, r.answers]
            + [f"{getattr(r, f'grade_{n}'):.0%}" for n in range(1, GRADES + 1)]
            + [f"{r.mean:.2f}", _number(r.p, "{:.2g}")]
            for r in table.itertuples()
        ],
    )
    yield html.paragraph(
        "p: of grades of real and synthetic volumes so far apart by chance alone (Mann-Whitney).", "note"
    )
    for category in CATEGORIES:
        asked = texts["categories"][category]
        listed = "; ".join(f"{number}: {text}" for number, text in enumerate(asked["grades"], 1))
        yield html.paragraph(f"{category}: {asked['question']} {listed}.", "note")


def _agreement(table: pd.DataFrame) -> Iterator[str]:
    if table.empty:
        yield html.paragraph("There is one reader: nothing to compare.")
        return
    yield html.table(
        ["question", "volumes", "Cohen's kappa", "Fleiss' kappa", "Krippendorff's alpha", "ICC"],
        [
            [r.question, r.volumes, *(_number(v, "{:.2f}") for v in (r.cohen, r.fleiss, r.alpha))]
            + ["" if np.isnan(r.icc) else _with_interval(r.icc, r.icc_low, r.icc_high)]
            for r in table.itertuples()
        ],
    )
    yield html.paragraph(
        "Cohen's: mean over pairs of readers, for grades with quadratic weights. Krippendorff's: for grades ordinal. ICC: "
        "absolute agreement of single readers, two-way random effects. 1: always of one mind; 0: as often as by chance. "
        "Where nearly all answers are alike, these figures are low although readers agree.",
        "note",
    )


def _papers() -> Iterator[str]:
    yield html.heading("Beside it: the paper's own study")
    yield html.paragraph(
        "Medical Diffusion (arXiv 2211.03364), table 1: two radiologists, 50 synthetic volumes of each data set and no "
        "real ones; share of the grades 2, 3 and 4. Other volumes and readers: nothing here can be set beside what is above.",
        "note",
    )
    yield html.table(
        ["category", "data set", "reader 1", "reader 2"],
        [
            [category, name, *(" / ".join(f"{share}%" for share in shares) for shares in readers)]
            for category, sets in THE_PAPERS.items()
            for name, readers in sets.items()
        ],
    )


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f}" if np.isnan(low) else f"{value:.2f} ({low:.2f} to {high:.2f})"


def _number(value: float, how: str) -> str:
    return "" if np.isnan(value) else how.format(value)
