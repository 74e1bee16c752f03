"""How far readers agree: Cohen's and Fleiss' kappa, Krippendorff's alpha, the intraclass correlation."""

from __future__ import annotations

import warnings
from itertools import combinations
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from diffaug.errors import DiffaugError
from diffaug.reader_study.answers import QUESTIONS
from diffaug.reader_study.texts import GRADES, GUESSES

ONE_RATER = ("ICC(A,1)", "ICC2")  # absolute agreement of single raters, two-way random effects, in pingouin's names


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Measure how far readers agree on each question.

    Args:
        table: From `read_answers`.

    Returns:
        A row for each question: `question`, `volumes` that all readers have answered, `cohen` (mean over pairs of readers;
        for grades with quadratic weights), `fleiss`, `alpha` (for grades ordinal), and for grades `icc` with `icc_low` and
        `icc_high`. What is not defined, as where all gave one answer, is missing; with one reader there are no rows.

    Raises:
        DiffaugError: If the packages for it are not installed.
    """
    rows = []
    if table["reader"].nunique() > 1:
        for question in QUESTIONS:
            ratings = table.pivot(index="volume", columns="reader", values=question)
            if question == "guess":
                ratings = ratings.replace({name: number for number, name in enumerate(GUESSES, 1)})
            rows.append({"question": question, **_measured(ratings.astype(float), question != "guess")})
    return pd.DataFrame(rows)


def _measured(ratings: pd.DataFrame, graded: bool) -> dict[str, Any]:
    """Measure one question: a row for each volume, a column for each reader, missing where not answered."""
    full = ratings.dropna()
    row: dict[str, Any] = {"volumes": len(full), "cohen": _cohen(ratings, graded)}
    one_value = pd.unique(ratings.to_numpy().ravel()[~np.isnan(ratings.to_numpy().ravel())]).size < 2
    row["alpha"] = np.nan if one_value else _alpha(ratings, graded)
    row["fleiss"] = np.nan if one_value or full.empty else _fleiss(full, graded)
    if graded:
        icc = None if one_value or len(full) < 3 else _icc(full)
        row["icc"], row["icc_low"], row["icc_high"] = icc or (np.nan, np.nan, np.nan)
    return row


def _cohen(ratings: pd.DataFrame, graded: bool) -> float:
    from sklearn.metrics import cohen_kappa_score

    found = []
    for one, other in combinations(ratings.columns, 2):
        both = ratings[[one, other]].dropna()
        if len(both) and both.to_numpy().min() < both.to_numpy().max():
            # all grades, those too that nobody gave: weights are of the distance between grades
            how = {"labels": range(1, GRADES + 1), "weights": "quadratic"} if graded else {}
            found.append(cohen_kappa_score(both[one], both[other], **how))
    return float(np.mean(found)) if found else np.nan


def _fleiss(full: pd.DataFrame, graded: bool) -> float:
    categories = np.arange(1, (GRADES if graded else len(GUESSES)) + 1)
    counts = (full.to_numpy()[:, :, None] == categories).sum(1)
    return float(_package("statsmodels.stats.inter_rater").fleiss_kappa(counts))


def _alpha(ratings: pd.DataFrame, graded: bool) -> float:
    level = "ordinal" if graded else "nominal"
    try:
        return float(_package("krippendorff").alpha(ratings.to_numpy().T, level_of_measurement=level))
    except ValueError:  # no volume has two answers
        return np.nan


def _icc(full: pd.DataFrame) -> tuple[float, float, float] | None:
    long = full.reset_index().melt(id_vars="volume", var_name="reader", value_name="grade")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of divisions by zero: what is not finite is left out here
        found = _package("pingouin").intraclass_corr(long, targets="volume", raters="reader", ratings="grade")
    row = found[found["Type"].isin(ONE_RATER)].iloc[0]
    low, high = next(value for name, value in row.items() if str(name).startswith("CI95"))
    return (float(row["ICC"]), float(low), float(high)) if np.isfinite(row["ICC"]) else None


def _package(name: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise DiffaugError(
            f"{name.partition('.')[0]}: not installed, expected what agreement is measured with; run: "
            "pip install krippendorff pingouin statsmodels"
        ) from error
