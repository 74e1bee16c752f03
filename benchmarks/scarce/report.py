"""The benchmark's report: the figure in the paper's form, and the tables."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from benchmarks.measuring import table
from benchmarks.scarce.arms import Arm
from benchmarks.scarce.cells import collect, read_cells
from benchmarks.scarce.data import DataSet
from benchmarks.scarce.statistics import Difference, compare, compare_counts, grid, holm
from diffaug.errors import DiffaugError
from diffaug.workspace import PLAN

BASELINE, EQUAL_STEPS = "scratch", "scratch-long"
# arms that no command makes any more: `synthetic` of other generators, or once more
BEFORE = {
    "blobs": "before commit 7f7457d: volumes of the first generator, which look like blobs",
    "unrefined": "before commit a2df4cf: volumes of the second, from before there was a refiner",
    "refined": "before commit c5c8ee7: volumes of the third, of scans that linear interpolation had blurred",
    "repeated": "once more, of the same generator: sampled and pretrained on another processor",
}
LEAST_GAP = 0.005  # Dice; a share of less than that is a share of chance
READING = (
    f"**Dice**: mean over draws of labelled cases and test cases; in brackets its gain over `{BASELINE}` of the same "
    "network, draws and cases, with the 95 % interval (draws and cases drawn anew), and the number of draws.",
    f"**Gains**: paired by draw and case, over `{BASELINE}` and over `{EQUAL_STEPS}`, which is trained for the steps of the "
    "pretraining, too (`self-…`: for those of the network that labels). "
    "p over cases: Wilcoxon, cases averaged over draws; p over draws: t-test, averaged over cases; both "
    "with Holm's correction over the numbers of labels. Share of the gap: the gain over what all labels add to "
    f"`{BASELINE}` with the same draws, where that is at least {LEAST_GAP}.",
)


def write_report(folder: Path, sets: Sequence[DataSet], out: Path, arms: Sequence[str] | None = None) -> None:
    """Write `<out>.md` and `<out>.png`.

    Args:
        folder: Where cells lie.
        sets: The data sets.
        out: The report without its ending.
        arms: What to show; None for all.

    Raises:
        DiffaugError: If a data set has no finished cell.
    """
    parts, cells = [], [_cells_of(folder, data, arms) for data in sets]
    out.parent.mkdir(parents=True, exist_ok=True)
    _draw(sets, cells, out.with_suffix(".png"))
    for data, own in zip(sets, cells, strict=True):
        parts += _section(folder, data, own)
    head = ["# Scarce labels", f"![mean Dice, and gains draw by draw]({out.with_suffix('.png').name})", *READING]
    out.with_suffix(".md").write_text("\n\n".join(head + parts) + "\n")


def _cells_of(folder: Path, data: DataSet, arms: Sequence[str] | None) -> pd.DataFrame:
    cells = collect(folder, data.title)
    cells = cells if arms is None else cells[cells["arm"].isin(arms)]
    if cells.empty:
        raise DiffaugError(f"{folder}: no finished cell of {data.title}, expected some; run them first")
    return cells


def _counts(cells: pd.DataFrame) -> list[int]:
    return sorted(int(count) for count in cells["labelled"].unique())


def _networks(cells: pd.DataFrame) -> list[str]:
    return sorted(cells["network"].unique())


def _section(folder: Path, data: DataSet, cells: pd.DataFrame) -> list[str]:
    networks, counts = _networks(cells), _counts(cells)
    parts = [
        f"## {data.title}",
        _told(folder, data, cells),
        "### Dice",
        table([_row(cells, network, arm, counts) for network in networks for arm in _arms(cells, network)]),
        *(_best(cells, count) for count in counts),
        "### Gains",
    ]
    parts += [table(gains) for network in networks if (gains := _gains_of(cells, network, counts, data.steps))]
    if across := _across(cells, counts):
        parts += ["### Against nnU-Net's own network from scratch, after as many steps with labels", table(across)]
    for figure, title in (("nsd", "Normalised surface Dice"), ("hd95", "HD95, mm")):
        others = collect(folder, data.title, figure).merge(cells[["network", "arm"]].drop_duplicates())
        rows = [_row(others, network, arm, counts) for network in networks for arm in _arms(cells, network)]
        parts += [f"### {title}", table(rows)]
    return parts


def _arms(cells: pd.DataFrame, network: str | None = None) -> list[str]:
    """List the arms of a network, or of all, the baselines first."""
    found = set(cells["arm"] if network is None else cells.loc[cells["network"] == network, "arm"])
    return sorted(found, key=lambda arm: (not arm.startswith(BASELINE), arm))


def _parsed(arm: str) -> Arm:
    return Arm.parse(re.sub("|".join(BEFORE), "synthetic", arm))


def _equal_steps(arm: str, training: int) -> str:
    """Name the baseline that is trained for as many steps as an arm and what comes before it together."""
    parsed = _parsed(arm)
    steps = training if parsed.pool else parsed.steps
    return f"{EQUAL_STEPS}::{steps}" if steps else EQUAL_STEPS


def _told(folder: Path, data: DataSet, cells: pd.DataFrame) -> str:
    """Tell how the cells came about: the commands, and what the first of each network says of itself."""
    kept = read_cells(folder)
    kept = kept[kept["data"] == data.title].merge(cells[["network", "arm"]].drop_duplicates())
    kept = kept.drop_duplicates(["network", "arm", "labelled", "seed"])
    commands, told = [], []
    if data.lists and data.name == data.task:  # not one of the benchmark's own
        options = f" --lists {data.lists.name} --pool {data.pool} --tolerance {data.tolerance:g} --budget {data.budget}"
    else:
        options = ""
    options += f" --steps {data.steps} --pretraining {data.pretraining}" if data.variant else ""
    for network, own in kept.groupby("network", sort=True):
        counts = " ".join(map(str, sorted(own["labelled"].unique())))
        named = [arm for arm in _arms(cells, str(network)) if not arm.startswith(tuple(BEFORE))]
        arms = " ".join(f"'{arm}'" if "@" in arm else arm for arm in named)
        commands.append(
            f"python -m benchmarks.scarce_labels run --data {data.name} --networks {network} --arms {arms} "
            f"--labelled {counts} --seeds {own['seed'].max() + 1} --processes 2{options}"
        )
        plain = own[own["arm"] == BASELINE]
        about = [json.loads(text) for text in (plain if len(plain) else own)["about"]]
        settings = ", ".join(
            f"{key} {value}" for key, value in about[0]["settings"].items() if key not in ("fold", "trainer")
        )
        machines: dict[str, list[str]] = {}
        for arm, text in own[["arm", "about"]].itertuples(index=False):
            machines.setdefault(json.loads(text)["machine"].get("processor", "?"), []).append(arm)
        usual, *others = sorted(machines, key=lambda machine: -len(machines[machine]))
        arms_of = {machine: ", ".join(sorted({*machines[machine]})) for machine in others}
        where = [usual, *(f"{machine} ({len(machines[machine])} cells of {arms})" for machine, arms in arms_of.items())]
        versions = ", ".join(f"{name} {number}" for name, number in about[0]["versions"].items())
        told.append(
            f"* {network}: {settings}; {len(own)} cells of {(own['train'] + own['test']).mean():.0f} s on the mean; "
            f"{', '.join(where)}; {versions}."
        )
    for name, told_of_it in BEFORE.items():
        if any(arm.startswith(name) for arm in _arms(cells)):
            told.append(f"* `{name}` is the arm `synthetic` {told_of_it}.")
    return "```\n" + "\n".join(commands) + "\n```\n\n" + "\n".join(told)


def _row(cells: pd.DataFrame, network: str, arm: str, counts: Sequence[int]) -> dict[str, str]:
    own = cells[cells["network"] == network]
    row = {"network": network, "arm": arm}
    for count in counts:
        values, gain = grid(own, arm, count), compare(own, arm, BASELINE, count)
        text = "" if values.empty else f"{values.to_numpy().mean():.3f}"
        if arm != BASELINE and gain is not None:
            text += f" ({gain.mean:+.3f}: {gain.low:+.3f} to {gain.high:+.3f}; {gain.seeds})"
        else:
            text += f" ({len(values)})" if text else ""
        row[f"{count} labels"] = text
    return row


def _best(cells: pd.DataFrame, count: int) -> str:
    """Name the best network and start: a pretrained one may still stay below another from scratch."""
    own = cells[cells["labelled"] == count]
    draws = own.groupby(["network", "arm"])["seed"].nunique()
    means = own.groupby(["network", "arm"])["value"].mean()[draws == draws.max()].sort_values(ascending=False)
    plain = [not (parsed.is_pretrained or parsed.pool) for parsed in (_parsed(arm) for _, arm in means.index)]
    scratch = means[plain]
    text = f"* Best with {count} labels, of what has {draws.max()} draws: {', '.join(means.index[0])} ({means.iloc[0]:.3f})"
    if scratch.empty:
        return f"{text}."
    network, arm = scratch.index[0]
    return f"{text}; best from scratch: {network if arm == BASELINE else f'{network}, {arm}'} ({scratch.iloc[0]:.3f})."


def _gains_of(cells: pd.DataFrame, network: str, counts: Sequence[int], training: int) -> list[dict[str, str]]:
    own = cells[cells["network"] == network]
    return [
        {"network": network, **row}
        for arm in _arms(cells, network)
        for against in (BASELINE, _equal_steps(arm, training))
        if not arm.startswith(BASELINE)
        for row in _gains(own, arm, against, counts)
    ]


def _across(cells: pd.DataFrame, counts: Sequence[int]) -> list[dict[str, str]]:
    """Hold every start of another network against what a user of nnU-Net has, its own network from scratch."""
    theirs = cells[cells["network"] == PLAN]
    rows = []
    for network in _networks(cells[cells["network"] != PLAN]):
        own = cells[cells["network"] == network]
        for arm in _arms(cells, network):
            against = EQUAL_STEPS if _parsed(arm).is_long else BASELINE
            name = f"{PLAN}, {against}"
            both = pd.concat([own, theirs[theirs["arm"] == against].assign(arm=name)])
            rows += [{"network": network, **row} for row in _gains(both, arm, name, counts)]
    return [{key: value for key, value in row.items() if key != "share of the gap"} for row in rows]


def _gains(cells: pd.DataFrame, arm: str, against: str, counts: Sequence[int]) -> list[dict[str, str]]:
    found: list[tuple[int, Difference]] = []
    for count in counts:
        difference = compare(cells, arm, against, count)
        if difference is not None:
            found.append((count, difference))
    by_cases = holm(d.p_cases for _, d in found)
    by_seeds = holm(d.p_seeds for _, d in found)
    rows = []
    for (count, d), p_cases, p_seeds in zip(found, by_cases, by_seeds, strict=True):
        shared = cells[cells["seed"].isin(grid(cells, arm, count).index)]
        gap = compare_counts(shared, BASELINE, count, max(counts))
        rows.append(
            {
                "arm": arm,
                "minus": against,
                "labels": str(count),
                "gain": f"{d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})",
                "p over cases": f"{p_cases:.2g}",
                "p over draws": "" if np.isnan(p_seeds) else f"{p_seeds:.2g}",
                "share of the gap": f"{d.mean / gap:.0%}" if gap >= LEAST_GAP and against == BASELINE else "",
                "draws": str(d.seeds),
            }
        )
    return rows


def _draw(sets: Sequence[DataSet], cells: Sequence[pd.DataFrame], file: Path) -> None:
    """Draw the data sets below each other, every arm in one colour throughout."""
    colours = {arm: f"C{number % 10}" for number, arm in enumerate(_arms(pd.concat(cells)))}
    below = [0.6 + 0.32 * len(_arms(own)) for own in cells]
    wide = max(len(_networks(own)) for own in cells)
    figure = plt.figure(figsize=(4.8 * wide + 1.6, sum(below) + 3.8 * len(sets)), layout="constrained")
    parts = figure.subfigures(len(sets), 1, squeeze=False, height_ratios=[3.8 + height for height in below])
    for part, data, own, height in zip(parts[:, 0], sets, cells, below, strict=True):
        _draw_set(part, own, data.title, colours, (3.4, height), wide)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _draw_set(
    figure: SubFigure, cells: pd.DataFrame, data: str, colours: dict[str, str], heights: tuple[float, float], wide: int
) -> None:
    """Draw the paper's figure 4 and, since draws differ more than arms do, what each arm gains draw by draw."""
    arms, networks, counts = _arms(cells), _networks(cells), _counts(cells)
    axes = figure.subplots(2, wide, sharex="row", sharey="row", squeeze=False, height_ratios=heights)
    for unused in axes[:, len(networks) :].flat:
        unused.set_axis_off()
    for (dice, gains), network in zip(axes.T, networks, strict=False):
        own = cells[cells["network"] == network]
        _draw_dice(dice, own, arms, counts, colours)
        _draw_gains(gains, own, [arm for arm in arms if arm != BASELINE], min(counts), colours)
        dice.set_title(f"{data}: {network}")
    axes[0][0].set_ylabel("mean Dice over test cases")


def _draw_dice(
    axis: Axes, cells: pd.DataFrame, arms: Sequence[str], counts: Sequence[int], colours: dict[str, str]
) -> None:
    for number, arm in enumerate(arms):
        found = [(count, values.to_numpy()) for count in counts if (values := grid(cells, arm, count)).size]
        if not found:
            continue
        places = [count * 1.03 ** (number - len(arms) / 2) for count, _ in found]
        line = "--" if arm.startswith(BASELINE) else "-"
        axis.plot(places, [values.mean() for _, values in found], line, color=colours[arm])
        for place, (count, values) in zip(places, found, strict=True):
            means = values.mean(1)
            whole = len(values) == len(grid(cells, BASELINE, count))  # a mean over fewer draws lies elsewhere by itself
            axis.plot(
                place, values.mean(), "o", color=colours[arm], markersize=5, fillstyle="full" if whole else "none"
            )
            axis.plot([place] * len(means), means, ".", color=colours[arm], alpha=0.35, markersize=4)
    axis.set(
        xscale="log",
        xlabel=f"labelled cases; small points are draws, hollow: not those of {BASELINE}",
        xlim=(min(counts) / 1.5, max(counts) * 1.5),
    )
    axis.set_xticks(counts, [str(count) for count in counts], minor=False)
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def _draw_gains(axis: Axes, cells: pd.DataFrame, arms: Sequence[str], count: int, colours: dict[str, str]) -> None:
    for place, arm in enumerate(arms):
        gain = compare(cells, arm, BASELINE, count)
        if gain is None:
            continue
        axis.plot([gain.low, gain.high], [place, place], color=colours[arm], linewidth=2)
        axis.plot(gain.each, [place - 0.2] * len(gain.each), ".", color=colours[arm], alpha=0.5, markersize=5)
        axis.plot([gain.mean], [place], "o", color=colours[arm], markersize=5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(arms)), arms, fontsize=8)
    axis.set_ylim(max(len(arms), 1) - 0.5, -0.5)
    axis.set_xlabel(f"Dice minus {BASELINE}, {count} labelled cases, with 95 % interval")
    axis.grid(alpha=0.3, axis="x")
