"""From resampled scans to a generator: autoencoder, refiner, copy detector, denoiser, each going on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from diffaug.copies.calibrating import make_detector
from diffaug.copies.detector import CopyDetector
from diffaug.files import fingerprint, remove
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.check_autoencoder import AutoencoderCheck, check_autoencoder
from diffaug.generator.condition import Condition
from diffaug.generator.fit_autoencoder import AutoencoderObjective, centre_window
from diffaug.generator.fit_denoiser import DenoiserObjective
from diffaug.generator.fit_refiner import RefinerObjective
from diffaug.generator.model import Generator
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.views import encode_views
from diffaug.patients import patients_by_name
from diffaug.scans.cache import VolumeCache
from diffaug.scans.pictures import curves
from diffaug.training.log import read_log
from diffaug.training.loop import train

COPIES = "copies.json"  # the calibrated copy detector, beside the generator


def fit_networks(
    plan: GeneratorPlan,
    cache: VolumeCache,
    conditions: Mapping[str, Condition],
    folder: Path,
    fabric: Fabric,
    tell: Callable[..., None],
) -> Generator:
    """Fit the networks, or go on.

    Args:
        plan: The plan.
        cache: The resampled scans.
        conditions: What is known of each scan.
        folder: Where states, pictures and logs go.
        fabric: Device, precision, processes.
        tell: Is given, as keywords, what the manifest should say before the long part.

    Returns:
        The generator, with the figures of its fits in its provenance; they are complete in the first process.
    """
    torch.manual_seed(plan.autoencoder_training.seed)
    coder = AutoencoderObjective(plan, cache)
    # changing what comes after must not discard the autoencoder, nor the refiner
    refining, later = ("refiner", "refiner_training"), ("denoiser", "denoiser_training", "views", "conditions")
    whole = asdict(plan) | {"grid": plan.grid.learnt}
    refined = {k: v for k, v in whole.items() if k not in later}
    identity = {k: v for k, v in refined.items() if k not in refining}
    fit = partial(train, fabric=fabric, folder=folder)
    fit(coder, coder.example, plan.autoencoder_training, name="autoencoder", identity=identity)
    if fabric.is_global_zero:  # said before the long part begins
        check = _check(coder, cache, folder)
        tell(autoencoder=check.figures())
        print(f"fit: {check.text()}", flush=True)
    refiner = None
    if plan.refiner:
        torch.manual_seed(plan.refiner_training.seed)
        finer = RefinerObjective(plan, cache, coder.autoencoder)
        refiner = finer.calibrated(fit(finer, finer.example, plan.refiner_training, name="refiner", identity=refined))
    key = fingerprint(["mirrored", identity, plan.views, plan.denoiser_training.seed, _sum(coder.autoencoder)])
    latents = VolumeCache(folder / f"latents_{key}")
    with fabric.rank_zero_first():
        views, held_out = (
            encode_views(coder.autoencoder, plan, cache, cases, latents, fabric.device)
            for cases in (plan.cases, plan.held_out)
        )
    detector = _detector(plan, cache, folder, fabric)
    torch.manual_seed(plan.denoiser_training.seed)
    objective = DenoiserObjective(plan, coder.autoencoder, views, held_out, conditions, detector, refiner)
    average = fit(objective, objective.example, plan.denoiser_training, name="denoiser", identity=whole)
    extents = [size for _, size in cache.sizes(plan.cases)]
    generator = objective.generator(average, extents)
    if fabric.is_global_zero:
        detector.save(folder / COPIES)
        generator.provenance = {"figures": _finish(folder)}
    return generator


def _check(coder: AutoencoderObjective, cache: VolumeCache, folder: Path) -> AutoencoderCheck:
    plan = coder.plan
    training = [centre_window(cache, case, plan.grid.shape) for case in plan.cases[: len(coder.held_out)]]
    log = [line for line in read_log(folder / "log.jsonl") if line["fit"] == "autoencoder"]
    return check_autoencoder(coder.autoencoder, coder.held_out, training, log)


def _detector(plan: GeneratorPlan, cache: VolumeCache, folder: Path, fabric: Fabric) -> CopyDetector:
    """Make what knows the training scans again: it watches the denoiser, and screens what is sampled."""
    grid = plan.grid
    file = folder / f"copies_{fingerprint([plan.cases, plan.held_out, grid.learnt])}.json"
    with fabric.rank_zero_first():
        if not file.is_file():
            make_detector(
                cache.__getitem__,
                plan.cases,
                plan.held_out,
                shape=grid.shape,
                mirror=grid.mirror,
                field_of_view=grid.field_of_view,
                device=fabric.device,
            ).save(file)
    detector = CopyDetector.load(file, cache.__getitem__, fabric.device)
    for group in detector.calibration.patients:
        both = set(group) & set(plan.held_out) and set(group) & set(plan.cases)
        if group in patients_by_name(group) and not both:
            continue  # their names say so
        advice = "; in plan.json move them into one list, so that what is held out is unseen" if both else ""
        fabric.print(f"fit: {', '.join(group)} seem to be scans of one patient{advice}")
    return detector


def _sum(autoencoder: Autoencoder) -> float:
    """Tell autoencoders apart: latents of one are noise to another."""
    return float(sum(parameter.detach().double().abs().sum() for parameter in autoencoder.parameters()))


def _finish(folder: Path) -> dict[str, Any]:
    """Draw the curves, and collect the last figures of all fits."""
    log = read_log(folder / "log.jsonl")
    figures: dict[str, Any] = {}
    for line in log:
        figures |= {f"{line['fit']}_{k}": v for k, v in line.items() if k.startswith(("held_out", "perplexity"))}
    for name, keys in (
        ("autoencoder", ("l1", "perplexity", "held_out_psnr")),
        ("refiner", ("refiner_loss", "held_out")),
        ("denoiser", ("denoiser_loss", "held_out")),
    ):
        lines = {k: [line for line in log if line["fit"] == name and k in line] for k in keys}
        if not any(lines.values()):
            continue  # the paper's pair has no refiner
        drawn = {k: ([line["step"] for line in v], [line[k] for line in v]) for k, v in lines.items()}
        curves(drawn, folder / f"{name}_curves.png", title=f"fitting the {name}", x="step")
    return figures


def clear(folder: Path) -> None:
    """Remove what resumes a fit and is not what a user loads.

    Args:
        folder: The generator's folder.
    """
    for pattern in ("*.state.pt", "copies_*.json", "latents_*"):
        for entry in folder.glob(pattern):
            remove(entry)
