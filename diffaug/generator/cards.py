"""A model card and a data card of a fitted generator: what can be known is filled in, what only the hospital knows is marked.

After "Model Cards for Model Reporting" (Mitchell et al. 2019, arXiv 1810.03993) and "Datasheets for Datasets" (Gebru et al.
2018, arXiv 1803.09010). No case id is in them: they may be shown to whoever asks.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from diffaug import __version__
from diffaug.errors import times
from diffaug.files import atomic_path
from diffaug.generator.plan import GeneratorPlan
from diffaug.scans.readings import Reading

OPEN = "**To be filled:**"
MODEL_CARD, DATA_CARD = "model_card.md", "data_card.md"


def write_cards(
    folder: Path,
    plan: GeneratorPlan,
    readings: Sequence[Reading],
    figures: Mapping[str, Any],
    excluded: Collection[str],
) -> None:
    """Write both cards; a card that is there stays, for somebody may have filled it.

    Args:
        folder: The generator's folder.
        plan: What was decided.
        readings: What was measured of each scan.
        figures: What the fit came to.
        excluded: Cases that were left out.
    """
    cards = {MODEL_CARD: _model(plan, figures), DATA_CARD: _data(plan, readings, excluded)}
    for name, lines in cards.items():
        if not (folder / name).is_file():
            with atomic_path(folder / name) as temporary:
                temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _model(plan: GeneratorPlan, figures: Mapping[str, Any]) -> list[str]:
    grid, versions = plan.grid, ", ".join(f"{name} {version(name)}" for name in ("torch", "monai", "nnunetv2"))
    kind = "a VQ-GAN" if plan.autoencoder.get("codes") else "an autoencoder with a smooth latent"
    refiner = ", and a refiner of what the autoencoder loses" if plan.refiner else ""
    shown = "whole scans" if grid.field_of_view == "whole" else "pieces of scans"
    return [
        "# Model card: a generator of volumes",
        "",
        f"Written by diffaug {__version__} on {time.strftime('%Y-%m-%d')} ({versions}).",
        "What is marked is for the hospital to fill; the rest was measured or decided by the program.",
        "",
        "## What it is",
        "",
        f"* A latent diffusion model of {', '.join(plan.channels)} volumes: {kind}, a denoiser of its latents{refiner}.",
        "* It makes images without masks, and knows nothing of disease unless the scans show it.",
        f"* {times(grid.shape)} voxels of {times(grid.spacing)} mm: {shown}.",
        *(f"* {name}: {t.steps} steps of {t.batch_size}, seed {t.seed}." for name, t in plan.trainings.items()),
        f"* {OPEN} who fitted it, for what, whom to ask.",
        "",
        "## What it is for, and what not",
        "",
        "* For pretraining segmentation networks, and for trying programs out.",
        "* Not for diagnosis, not to be shown as patients' scans, not as a proof that anything works on patients.",
        f"* {OPEN} who may use it, on what terms.",
        "",
        "## How good it is",
        "",
        "| figure, on scans that it was not fitted to | |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {value:.4g} |" for name, value in figures.items() if isinstance(value, float)),
        "",
        "Whether its volumes are told from scans or are copies stands in the audit's report (`diffaug audit`).",
        f"{OPEN} the audit's verdicts, and what people said who looked at them (`diffaug reader-study`).",
        "",
        "## Limits and risks",
        "",
        "* It has learnt what its scans show, and lacks what they lack: see the data card.",
        "* Generative models can remember. Volumes are held against every training scan, but that nothing of a patient can",
        "  be won back from the weights is not shown.",
        f"* {OPEN} what else is known to go wrong.",
        "",
        "## Licence",
        "",
        f"{OPEN} terms on which the weights may be used (`diffaug export --generator` asks for them).",
    ]


def _data(plan: GeneratorPlan, readings: Sequence[Reading], excluded: Collection[str]) -> list[str]:
    spacings, sizes = (np.array([getattr(r, name) for r in readings]) for name in ("spacing", "size"))
    orientations = sorted({r.orientation for r in readings})
    sites = f"{len(plan.conditions.sites)} sites" if plan.conditions.sites else "no table of sites"
    return [
        "# Data card: the scans that a generator was fitted to",
        "",
        f"Written by diffaug {__version__} on {time.strftime('%Y-%m-%d')}, from what headers and voxels say.",
        "What is marked is for the hospital to fill.",
        "",
        "## What it holds",
        "",
        "| | |",
        "|---|---|",
        f"| scans | {len(plan.cases)} fitted to, {len(plan.held_out)} held out |",
        f"| left out beforehand | {len(excluded)} |",
        f"| channels | {', '.join(plan.channels)} |",
        f"| voxels (Z, Y, X), median; from, to | {_spread(sizes)} |",
        f"| spacing in mm (Z, Y, X), median; from, to | {_spread(spacings)} |",
        f"| orientations | {', '.join(orientations)} |",
        f"| where from | {sites} |",
        "",
        f"* {OPEN} part of the body, sequence or protocol, scanners and field strengths, years.",
        f"* {OPEN} how many patients; scans of one patient count as several above.",
        "",
        "## Who is in it, and who is not",
        "",
        f"{OPEN} age, sex, origin, diseases and treatments, how patients were chosen, who is missing.",
        "",
        "## How it came to be",
        "",
        f"* {OPEN} consent or waiver, the ethics board's vote, pseudonymisation.",
        f"* {OPEN} what was done to the scans before (defacing, cropping, bias correction, resampling).",
        "",
        "## What may be done with it",
        "",
        f"{OPEN} purposes, places, how long it is kept, who decides.",
    ]


def _spread(values: np.ndarray) -> str:
    median, low, high = np.median(values, axis=0), values.min(0), values.max(0)
    return f"{times(median)}; {times(low)}, {times(high)}"
