"""Does a pool that passes for scans teach more? What the audit says of pools, against what pretraining on them adds.

    python -m benchmarks.quality_against_dice --pool NAME ARM AUDIT/manifest.json --pool ...

A pool is a name, an arm of `benchmarks.scarce_labels`, and the manifest of an audit that held its volumes against the
phantoms of site A (`diffaug audit --real IMAGES --synthetic POOL --out AUDIT`). The floor of the first audit, other scans of
the site, stands for the arm `real`. Gains are over `scratch`, paired by draw and case.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.measuring import machine, write_report
from benchmarks.scarce.cells import RESULTS, collect
from benchmarks.scarce.statistics import Difference, compare
from diffaug.files import read_json

DATA, NETWORKS, LABELLED = "phantom", ("PrimusS", "plan"), 10
Point = tuple[str, dict[str, float], dict[str, Difference]]


def gains_of(arm: str) -> dict[str, Difference]:
    """Compare an arm with `scratch`.

    Args:
        arm: Name of the arm.

    Returns:
        By network, where there are cells.
    """
    cells = collect(RESULTS, DATA)
    found = {network: compare(cells[cells["network"] == network], arm, "scratch", LABELLED) for network in NETWORKS}
    return {network: gain for network, gain in found.items() if gain is not None}


def draw(points: Sequence[Point], file: Path) -> None:
    """Draw gains over areas.

    Args:
        points: Name of the pool, its area with its interval, and gains.
        file: The PNG.
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for network, colour in zip(NETWORKS, ("C0", "C1"), strict=True):
        axes.plot([], [], "o", color=colour, label=network)
        for name, area, gains in points:
            if network not in gains:
                continue
            gain, x = gains[network], area["value"]
            across, up = (x - area["low"], area["high"] - x), (gain.mean - gain.low, gain.high - gain.mean)
            axes.errorbar(x, gain.mean, np.array([up]).T, np.array([across]).T, fmt="o", color=colour, capsize=3)
            axes.annotate(name, (x, gain.mean), textcoords="offset points", xytext=(6, 6), fontsize=9)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="told from scans: area of the audit's classifier (0.5: not at all)", ylabel="Dice over scratch")
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> None:
    """Write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pool",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "ARM", "MANIFEST"),
        help="see above",
    )
    parser.add_argument("--out", type=Path, default=RESULTS.with_name("quality_against_dice"), help="(%(default)s)")
    arguments = parser.parse_args()
    points, floors = [], []
    for name, arm, manifest in arguments.pool:
        told = read_json(Path(manifest), "give the manifest of an audit")["figures"]["c2st_auc"]
        floors.append(told["floor"])
        points.append((name, told["figure"], gains_of(arm)))
    points.append(("real", floors[0], gains_of("real")))
    rows = [
        {
            "pool": name,
            "told from scans": f"{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})",
            **{
                f"{network}, Dice over scratch": f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}; {gain.seeds})"
                if (gain := gains.get(network))
                else ""
                for network in NETWORKS
            },
        }
        for name, area, gains in points
    ]
    draw(points, arguments.out.with_suffix(".png"))
    text = f"![area against gain]({arguments.out.name}.png)\n\nPhantom, {LABELLED} labels; 95 % intervals; number of draws."
    about = {"command": "`python -m benchmarks.quality_against_dice --pool ...`, see its docstring", **machine()}
    write_report(
        arguments.out.with_suffix(".md"), "Quality against Dice", about, {"Pools": {"text": text, "rows": rows}}
    )


if __name__ == "__main__":
    main()
