"""The benchmark's report: the figure in the paper's form, and the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from benchmarks.measuring import table
from benchmarks.scarce.cells import collect, read_cells
from benchmarks.scarce.statistics import Difference, compare, compare_counts, grid, holm, interval

BASELINE = "scratch"
LEAST_GAP = 0.005  # Dice; a share of less than that is a share of chance


def write_report(folder: Path, data: str, arms: Sequence[str], out: Path, commands: Sequence[str]) -> None:
    """Write `<out>.md` and `<out>.png`.

    Args:
        folder: Where cells lie.
        data: Name of the data set.
        arms: What to show, in order.
        out: The report without its ending.
        commands: What made the cells.
    """
    cells = collect(folder, data)
    arms = [arm for arm in arms if arm in set(cells["arm"])]
    counts = sorted(cells["labelled"].unique())
    parts = [f"# Scarce labels: {data}", "```\n" + "\n".join(commands) + "\n```", _settings(folder, data, arms)]
    parts += ["## Dice", "Mean over seeds and test cases (95 % interval, seeds and cases drawn anew; number of seeds)."]
    parts.append(table([_means(cells, arm, counts) for arm in arms]))
    for figure, unit in (("nsd", "normalised surface Dice"), ("hd95", "HD95, mm")):
        others = collect(folder, data, figure)
        parts += [f"## {unit[0].upper()}{unit[1:]}", table([_means(others, arm, counts) for arm in arms])]
    parts += [
        f"## Dice, arm minus {BASELINE}",
        "Paired by seed and case. p over cases: Wilcoxon, cases averaged over seeds; p over seeds: t-test, averaged "
        "over cases; both with Holm's correction over the numbers of labels. Share of the gap: the gain over what "
        f"{counts[-1]} labels add to {BASELINE} with the same seeds, where that is at least {LEAST_GAP}.",
        table([row for arm in arms if arm != BASELINE for row in _gains(cells, arm, counts)] or [{"arm": "none yet"}]),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    _draw(cells, arms, counts, out.with_suffix(".png"), data)


def _settings(folder: Path, data: str, arms: Sequence[str]) -> str:
    cells = read_cells(folder)
    cells = cells[(cells["data"] == data) & cells["arm"].isin(arms)].drop_duplicates(["arm", "labelled", "seed"])
    order = cells["arm"].map(list(arms).index).sort_values(kind="stable").index
    told = [json.loads(text) for text in cells.loc[order, "about"]]
    first = next((t for t, arm in zip(told, cells.loc[order, "arm"], strict=True) if arm == BASELINE), told[0])
    seconds = (cells["train"] + cells["test"]).mean()
    settings = ", ".join(f"{key} {value}" for key, value in first["settings"].items() if key not in ("fold", "trainer"))
    machines = sorted({t["machine"]["processor"] for t in told})
    return f"{settings}; {len(told)} cells of {seconds:.0f} s; {', '.join(machines)}; versions {first['versions']}."


def _means(cells: pd.DataFrame, arm: str, counts: Sequence[int]) -> dict[str, str]:
    row = {"arm": arm}
    for count in counts:
        values = grid(cells, arm, count)
        if values.empty:
            row[f"{count} labels"] = ""
            continue
        low, high = interval(values.to_numpy())
        row[f"{count} labels"] = f"{values.to_numpy().mean():.4f} ({low:.3f}–{high:.3f}; {len(values)})"
    return row


def _gains(cells: pd.DataFrame, arm: str, counts: Sequence[int]) -> list[dict[str, str]]:
    found: list[tuple[int, Difference]] = []
    for count in counts:
        difference = compare(cells, arm, BASELINE, count)
        if difference is not None:
            found.append((count, difference))
    by_cases = holm(d.p_cases for _, d in found)
    by_seeds = holm(d.p_seeds for _, d in found)
    rows = []
    for (count, d), p_cases, p_seeds in zip(found, by_cases, by_seeds, strict=True):
        gap = compare_counts(cells, BASELINE, count, max(counts))
        rows.append(
            {
                "arm": arm,
                "labels": str(count),
                "gain": f"{d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})",
                "p over cases": f"{p_cases:.2g}",
                "p over seeds": "" if np.isnan(p_seeds) else f"{p_seeds:.2g}",
                "share of the gap": f"{d.mean / gap:.0%}" if gap >= LEAST_GAP else "",
                "seeds": str(d.seeds),
            }
        )
    return rows


def _draw(cells: pd.DataFrame, arms: Sequence[str], counts: Sequence[int], file: Path, data: str) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for number, arm in enumerate(arms):
        found = [(count, grid(cells, arm, count).to_numpy()) for count in counts]
        found = [(count, values) for count, values in found if values.size]
        means = [values.mean() for _, values in found]
        ends = np.array([interval(values) for _, values in found]).T
        places = [count * 1.02 ** (number - len(arms) / 2) for count, _ in found]
        errors = np.abs(ends - np.array(means))
        axes.errorbar(places, means, errors, label=arm, marker="o", capsize=2, linewidth=1.2)
    axes.set(xscale="log", xlabel="labelled cases", ylabel="mean Dice over test cases", title=data)
    axes.set_xticks(counts, [str(count) for count in counts], minor=False)
    axes.minorticks_off()
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=130)
    plt.close(figure)
