"""Quality against number of steps, for every sampler on one fitted generator; the default follows from the table.

    python -m benchmarks.sampler_steps --task 4 --configuration 3d_cpu_small -n 48 --out benchmarks/results/sampler_steps

All cells start from the same noise. Features are those of the audit's self-supervised encoder, which is fitted here to the
real scans where no audit has done so; the reference are all real scans, and the same figures of as many other real scans (two
random halves) are the floor. A killed run goes on; finished cells are kept.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffaug.audit.distances import set_distances
from diffaug.audit.feature_space import FeatureSpace
from diffaug.audit.figures import Compared
from diffaug.audit.fit_feature_space import fit_feature_space
from diffaug.audit.textures import describe, texture_distances
from diffaug.files import file_hash, read_json, write_json
from diffaug.generator.fit_autoencoder import centre_window
from diffaug.generator.model import Generator
from diffaug.generator.plan import GeneratorPlan
from diffaug.scans.cache import VolumeCache
from diffaug.scans.pictures import mosaic, plt
from diffaug.stages.fit import open_cache
from diffaug.training.devices import start_fabric
from diffaug.workspace import Workspace, dataset_name

STEPS = (4, 8, 10, 16, 32, 300)
SAMPLERS = ("ddpm", "ddim", "heun", "dpmpp")
BATCH = 4
FIGURES = ("KID", "FID", "coverage", "spectrum", "intensities")
REFERENCE = "ddpm 300"
SEED = 0


def measure(generator: Generator, sampler: str, steps: int, count: int) -> dict[str, Any]:
    """Sample one cell.

    Args:
        generator: The generator.
        sampler: A key of `SAMPLERS`.
        steps: Number of steps.
        count: Volumes.

    Returns:
        Features and textures of every volume, seconds, and four middle volumes for the picture.
    """
    volumes = []
    started = time.perf_counter()
    for first in range(0, count, BATCH):
        made, *_ = generator.synthesise(SEED, range(first, first + BATCH), sampler=sampler, steps=steps)
        volumes.append(made)
    seconds = (time.perf_counter() - started) / count
    return {"volumes": torch.cat(volumes)[:count], "seconds": seconds}


def audits_encoder(folder: Path, plan: GeneratorPlan, cache: VolumeCache) -> FeatureSpace:
    """Load the encoder that the audit of this generator has fitted, or fit it in its place.

    Args:
        folder: Where the audit keeps it.
        plan: The generator's plan.
        cache: The scans.

    Returns:
        The encoder.
    """
    file = folder / "encoder.safetensors"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "shape": plan.grid.shape,
            "mirror": plan.grid.mirror,
            "fabric": start_fabric("cpu"),
            "folder": folder,
        }
        fit_feature_space(cache.__getitem__, plan.cases, **settings).save(file)
    return FeatureSpace.load(file)


def described(volumes: torch.Tensor, encoder: FeatureSpace, spacing: tuple[float, ...]) -> dict[str, Any]:
    """Describe volumes as the audit does.

    Args:
        volumes: `(B, C, Z, Y, X)` in [-1, 1].
        encoder: Gives features.
        spacing: In mm, (Z, Y, X).

    Returns:
        Features and textures.
    """
    features = torch.cat([encoder.features(part) for part in volumes.split(BATCH)])
    return {"features": features.cpu().numpy(), "textures": [describe(v, spacing) for v in volumes.numpy()]}


def compared(real: dict[str, Any], synthetic: dict[str, Any]) -> dict[str, Compared]:
    """Compare two described sets.

    Args:
        real: From `described`.
        synthetic: From `described`.

    Returns:
        The figures.
    """
    sets = set_distances(real["features"], synthetic["features"], SEED)
    return {**sets, **texture_distances(real["textures"], synthetic["textures"], SEED)}


def main() -> None:
    """Run all cells, write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("-n", "--count", type=int, default=48)
    parser.add_argument("--out", type=Path, required=True, help="table, picture and cells, without ending")
    arguments = parser.parse_args()
    workspace = Workspace(dataset_name(arguments.task), "nnUNetPlans", arguments.configuration)
    model = workspace.generator / "generator.safetensors"
    generator = Generator.load(model).to(torch.device("cpu"))
    plan = generator.plan
    cache = open_cache(workspace, plan)
    encoder = audits_encoder(workspace.audit / "work" / file_hash(model), plan, cache)
    scans = [centre_window(cache, case, plan.grid.shape) for case in (*plan.cases, *plan.held_out)]
    real = described(torch.from_numpy(np.stack(scans)), encoder, plan.grid.spacing)
    file = arguments.out.with_suffix(".json")
    inputs = {"generator_sha256": file_hash(model), "count": arguments.count, "dataset": workspace.dataset}
    found = read_json(file, "delete it") if file.is_file() else {"inputs": inputs, "cells": {}}
    if found["inputs"] != inputs:
        raise SystemExit(f"{file} belongs to another generator or count; move it away")
    shown = {"real scan": [v[0] for v in scans[:4]]}
    for steps in STEPS:
        for sampler in SAMPLERS:
            name = f"{sampler} {steps}"
            if name in found["cells"]:
                continue
            cell = measure(generator, sampler, steps, arguments.count)
            figures = compared(real, described(cell["volumes"], encoder, plan.grid.spacing))
            found["cells"][name] = {"seconds": cell["seconds"], **{k: asdict(v) for k, v in figures.items()}}
            write_json(file, found)
            print(name, f"{cell['seconds']:.2f} s", {k: figures[k].figure.text() for k in FIGURES}, flush=True)
            if name in (REFERENCE, "dpmpp 8", "dpmpp 16", "ddim 16"):
                shown[name] = [v[0].numpy() for v in cell["volumes"][:4]]
    mosaic(shown, arguments.out.with_suffix(".png"), spacing=plan.grid.spacing, orientation=plan.grid.orientation)
    draw(found["cells"], arguments.out.parent / f"{arguments.out.name}_curves.png")
    arguments.out.with_suffix(".md").write_text(table(found))


def no_worse(cell: dict[str, Any], reference: dict[str, Any], figure: str) -> bool:
    """Tell whether a cell's figure is no worse than the reference's, within the reference's interval.

    Args:
        cell: A cell.
        reference: The reference cell.
        figure: Name of the figure.

    Returns:
        Whether it is.
    """
    value, interval = cell[figure]["figure"]["value"], reference[figure]["figure"]
    return value >= interval["low"] if cell[figure]["higher_is_better"] else value <= interval["high"]


def table(found: dict[str, Any]) -> str:
    """Write the table.

    Args:
        found: Inputs and cells.

    Returns:
        Markdown.
    """
    cells, inputs = found["cells"], found["inputs"]
    reference = cells[REFERENCE]
    floors = ", ".join(f"{k} {_text(reference[k]['floor'])}" for k in FIGURES)
    lines = [
        f"{inputs['dataset']}, {inputs['count']} volumes per cell from the same noise, features of the self-supervised "
        f"encoder. Floor (two halves of the real scans): {floors}. **Bold**: within the interval of {REFERENCE}, or better.",
        "",
        "| sampler, steps | network runs | s per volume | " + " | ".join(FIGURES) + " |",
        "|---|---|---|" + "---|" * len(FIGURES),
    ]
    for name, cell in cells.items():
        texts = []
        for figure in FIGURES:
            text = _text(cell[figure]["figure"])
            texts.append(f"**{text}**" if no_worse(cell, reference, figure) else text)
        lines.append(f"| {name} | {_runs(name)} | {cell['seconds']:.2f} | " + " | ".join(texts) + " |")
    good = {n: c for n, c in cells.items() if all(no_worse(c, reference, f) for f in FIGURES)}
    fewest = min(good, key=lambda n: (_runs(n), good[n]["KID"]["figure"]["value"]))
    lines += ["", f"Fewest network runs with every figure within the interval of {REFERENCE}, or better: **{fewest}**."]
    return "\n".join(lines) + "\n"


def _text(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _runs(name: str) -> int:
    sampler, steps = name.split()
    return 2 * int(steps) - 1 if sampler == "heun" else int(steps)


def draw(cells: dict[str, Any], file: Path) -> None:
    """Draw a panel per figure, a curve per sampler.

    Args:
        cells: The cells.
        file: The PNG.
    """
    figure, axes = plt.subplots(1, len(FIGURES), figsize=(3.2 * len(FIGURES), 2.8))
    for axis, key in zip(axes, FIGURES, strict=True):
        for sampler in SAMPLERS:
            own = [
                (int(n.split()[1]), c[key]["figure"]["value"]) for n, c in cells.items() if n.startswith(sampler + " ")
            ]
            axis.plot(*zip(*sorted(own), strict=True), marker="o", markersize=3, linewidth=1, label=sampler)
        floor = cells[REFERENCE][key]["floor"]
        axis.axhspan(floor["low"], floor["high"], color="0.9")
        axis.set_xscale("log")
        axis.set_title(key, fontsize=9)
        axis.set_xlabel("steps", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
