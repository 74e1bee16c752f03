"""What readers made of both sides: grades of each category, and whether they told real from synthetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, fisher_exact, mannwhitneyu

from diffaug.reader_study.texts import CATEGORIES, GRADES

ALL = "all readers"  # together; no reader can have this name
SEED, DRAWS = 0, 10_000  # of the bootstrap
SIDES = ("real", "synthetic")


def grades(table: pd.DataFrame) -> pd.DataFrame:
    """Count the grades.

    Args:
        table: From `read_answers`.

    Returns:
        A row for each category, kind and reader, and for all readers: `category`, `kind`, `reader`, `answers`, the share of
        each grade (`grade_1` to `grade_4`), `mean`, and, in the rows of synthetic volumes, `p`: how often chance alone would
        part the grades of real and synthetic volumes so far (Mann-Whitney; for all readers, of their means per volume).
    """
    rows = []
    for category in CATEGORIES:
        for reader, part in _by_reader(table):
            given = {kind: part.loc[part["kind"] == kind, category].dropna().astype(float) for kind in SIDES}
            values = given
            if reader == ALL:  # one figure for each volume: answers about one volume are not independent
                values = {k: part[part["kind"] == k].groupby("volume")[category].mean().dropna() for k in SIDES}
            both = all(len(value) for value in values.values())
            for kind, grade in given.items():
                if len(grade):
                    row: dict[str, Any] = {"category": category, "kind": kind, "reader": reader, "answers": len(grade)}
                    row |= {f"grade_{n}": float((grade == n).mean()) for n in range(1, GRADES + 1)}
                    row["mean"] = float(grade.mean())
                    asked = both and kind == "synthetic"
                    row["p"] = float(mannwhitneyu(values["real"], values["synthetic"]).pvalue) if asked else np.nan
                    rows.append(row)
    columns = ["category", "kind", "reader", "answers", *(f"grade_{n}" for n in range(1, GRADES + 1)), "mean", "p"]
    return pd.DataFrame(rows, columns=columns)


def guesses(table: pd.DataFrame) -> pd.DataFrame:
    """Count how often real and synthetic were told apart.

    Args:
        table: From `read_answers`.

    Returns:
        A row for each reader and figure, and for all readers: `reader`, `figure` (`sensitivity`: synthetic volumes called
        synthetic; `specificity`: real ones called real; `accuracy`), `right`, `answers`, `value`, `low` and `high` (95 %:
        Wilson's for a reader; for all readers `value` is the mean over volumes, and a bootstrap over volumes gives the
        interval), and for a reader's accuracy `p`: of guesses that have nothing to do with the volumes (Fisher's exact test).
    """
    rows = []
    told = table.dropna(subset=["guess"]).assign(right=lambda t: t["guess"] == t["kind"])
    for reader, part in _by_reader(told):
        for figure, kinds in (("sensitivity", SIDES[1:]), ("specificity", SIDES[:1]), ("accuracy", SIDES)):
            some = part[part["kind"].isin(kinds)]
            if some.empty:
                continue
            right, answers = int(some["right"].sum()), len(some)
            test = binomtest(right, answers)
            value, (low, high) = right / answers, test.proportion_ci(method="wilson")
            if reader == ALL:
                value, (low, high) = some.groupby("volume")["right"].mean().mean(), _over_volumes(some)
            p = _independent(part) if figure == "accuracy" and reader != ALL else np.nan
            rows.append(
                {"reader": reader, "figure": figure, "right": right, "answers": answers, "value": float(value)}
                | {"low": float(low), "high": float(high), "p": float(p)}
            )
    return pd.DataFrame(rows)


def _by_reader(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    each = [(str(reader), part) for reader, part in table.groupby("reader")]
    return [*each, (ALL, table)] if len(each) > 1 else each


def _independent(part: pd.DataFrame) -> float:
    """Test whether a reader's guesses have anything to do with what the volumes are."""
    counts = [[int(((part["kind"] == kind) & (part["guess"] == guess)).sum()) for guess in SIDES] for kind in SIDES]
    return float(fisher_exact(counts).pvalue)


def _over_volumes(some: pd.DataFrame) -> tuple[float, float]:
    """Draw volumes anew, each with all that was said of it."""
    parts = [part.groupby("volume")["right"].mean().to_numpy(dtype=float) for _, part in some.groupby("kind")]
    if min(map(len, parts)) < 2:
        return np.nan, np.nan
    counts, means = np.array([len(part) for part in parts]), np.concatenate(parts)
    if means.min() == means.max():  # a bootstrap knows nothing beyond what it was shown
        return binomtest(round(means.sum()), len(means)).proportion_ci(method="wilson")

    rng = np.random.default_rng(SEED)
    drawn = [part[rng.integers(len(part), size=(DRAWS, len(part)))].mean(1) for part in parts]
    low, high = np.percentile(np.average(drawn, axis=0, weights=counts), (2.5, 97.5))
    return float(low), float(high)
