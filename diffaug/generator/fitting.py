"""The stage `fit`: from a raw dataset to a generator file. Each step leaves its result on disk and is never redone."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from diffaug.copies.calibrating import make_detector
from diffaug.copies.detector import CopyDetector
from diffaug.engine.devices import start_fabric
from diffaug.engine.loop import read_log, require_shares, train
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.check_autoencoder import AutoencoderCheck, check_autoencoder
from diffaug.generator.conditions import Condition
from diffaug.generator.fit_autoencoder import AutoencoderObjective, centre_window
from diffaug.generator.fit_denoiser import DenoiserObjective
from diffaug.generator.grain import Grain, fit_grain
from diffaug.generator.model import Generator
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.preparing import FitRequest, agree, fill_cache, find_sites, measure_scans, plan_task
from diffaug.generator.views import encode_views
from diffaug.volumes.cache import VolumeCache
from diffaug.volumes.pictures import curves
from diffaug.workspace import Workspace, discard, file_hash, fingerprint, locked, read_json, remove, write_json

GRAIN_SCANS = 32
COPIES = "copies.json"  # the calibrated copy detector, beside the generator


def fit(
    workspace: Workspace,
    request: FitRequest | None = None,
    *,
    device: str = "auto",
    fresh: bool = False,
    plan_only: bool = False,
) -> Path:
    """Fit the generator of a task, or go on fitting it.

    Args:
        workspace: The task's workspace.
        request: What is wanted; None takes whatever was asked before, or the defaults.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard what is there.
        plan_only: Whether to stop once the plan is written, for a person to edit it.

    Returns:
        The generator file.
    """
    fabric = start_fabric(device)
    folder = workspace.generator
    with locked(folder) if fabric.is_global_zero else contextlib.nullcontext():
        if fresh and fabric.is_global_zero:
            discard(folder)
        with fabric.rank_zero_first():
            manifest, dataset = agree(workspace, request)
            target = folder / "generator.safetensors"
            if manifest["finished"] and target.is_file():
                fabric.print(f"fit: {target} is there already")
                return target
            asked = FitRequest.from_dict(manifest["request"])
            sites = find_sites(workspace, asked, manifest)  # a broken file is told before all scans are read
            readings = measure_scans(dataset, folder)
            plan = plan_task(workspace, asked, dataset, readings, sites)
            if fabric.is_global_zero:
                write_json(folder / "manifest.json", manifest)
            if plan_only:
                return folder / "plan.json"
            cache = fill_cache(dataset, plan, readings, folder)
            conditions = {case: plan.conditions.of(reading, plan.grid) for case, reading in readings.items()}
        return _fit_networks(plan, cache, conditions, folder, target, fabric)


def _fit_networks(
    plan: GeneratorPlan,
    cache: VolumeCache,
    conditions: Mapping[str, Condition],
    folder: Path,
    target: Path,
    fabric: Fabric,
) -> Path:
    for name in ("autoencoder", "denoiser"):  # before the first of them has taken hours
        require_shares(getattr(plan, f"{name}_training"), fabric, name)
    torch.manual_seed(plan.autoencoder_training.seed)
    coder = AutoencoderObjective(plan, cache)
    # changing what comes after must not discard the autoencoder
    later = ("denoiser", "denoiser_training", "views", "conditions")
    identity = {k: v for k, v in asdict(plan).items() if k not in later}
    train(
        coder,
        coder.example,
        plan.autoencoder_training,
        fabric=fabric,
        folder=folder,
        name="autoencoder",
        identity=identity,
    )
    if fabric.is_global_zero:  # said before the long part begins
        check = _check(coder, cache, folder)
        print(f"fit: {check.text()}", flush=True)
    key = fingerprint([identity, plan.views, plan.denoiser_training.seed, _sum(coder.autoencoder)])
    latents = VolumeCache(folder / f"latents_{key}")
    with fabric.rank_zero_first():
        views, held_out = (
            encode_views(coder.autoencoder, plan, cache, cases, latents, fabric.device)
            for cases in (plan.cases, plan.held_out)
        )
    detector = _detector(plan, cache, folder, fabric)
    torch.manual_seed(plan.denoiser_training.seed)
    grain = _grain(coder.autoencoder, plan, cache)
    objective = DenoiserObjective(plan, coder.autoencoder, views, held_out, conditions, detector, grain)
    average = train(
        objective,
        objective.example,
        plan.denoiser_training,
        fabric=fabric,
        folder=folder,
        name="denoiser",
        identity=asdict(plan),
    )
    if fabric.is_global_zero:
        extents = [size for _, size in cache.sizes(plan.cases)]
        detector.save(folder / COPIES)
        _finish(objective.generator(average, extents), folder, target)
    fabric.barrier()
    return target


def _check(coder: AutoencoderObjective, cache: VolumeCache, folder: Path) -> AutoencoderCheck:
    plan = coder.plan
    training = [centre_window(cache, case, plan.grid.shape) for case in plan.cases[: len(coder.held_out)]]
    log = [line for line in read_log(folder / "log.jsonl") if line["fit"] == "autoencoder"]
    check = check_autoencoder(coder.autoencoder, coder.held_out, training, log)
    manifest = read_json(folder / "manifest.json", "run: diffaug fit --fresh")
    write_json(folder / "manifest.json", {**manifest, "autoencoder": check.figures()})
    return check


@torch.no_grad()
def _grain(autoencoder: Autoencoder, plan: GeneratorPlan, cache: VolumeCache) -> Grain:
    """Measure what the autoencoder takes from training scans."""
    autoencoder.eval()
    device = autoencoder.head.weight.device
    scans = (torch.from_numpy(centre_window(cache, case, plan.grid.shape))[None] for case in plan.cases[:GRAIN_SCANS])
    return fit_grain([(scan.to(device), autoencoder.decode(autoencoder.encode(scan.to(device)))) for scan in scans])


def _detector(plan: GeneratorPlan, cache: VolumeCache, folder: Path, fabric: Fabric) -> CopyDetector:
    """Make what knows the training scans again: it watches the denoiser, and screens what is sampled."""
    grid = plan.grid
    file = folder / f"copies_{fingerprint([plan.cases, plan.held_out, asdict(grid)])}.json"
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
    for group in detector.calibration.people:
        both = "held_out" if set(group) & set(plan.held_out) and set(group) & set(plan.cases) else ""
        advice = "; in plan.json move them into one list, so that what is held out is unseen" if both else ""
        fabric.print(f"fit: {', '.join(group)} seem to be scans of one person{advice}")
    return detector


def _sum(autoencoder: Autoencoder) -> float:
    """Tell autoencoders apart: latents of one are noise to another."""
    return float(sum(parameter.detach().double().abs().sum() for parameter in autoencoder.parameters()))


def _finish(generator: Generator, folder: Path, target: Path) -> None:
    log = read_log(folder / "log.jsonl")
    figures: dict[str, Any] = {}
    for line in log:
        figures |= {f"{line['fit']}_{k}": v for k, v in line.items() if k.startswith(("held_out", "perplexity"))}
    for name, keys in (
        ("autoencoder", ("l1", "perplexity", "held_out_psnr")),
        ("denoiser", ("denoiser_loss", "held_out")),
    ):
        lines = {k: [line for line in log if line["fit"] == name and k in line] for k in keys}
        drawn = {k: ([line["step"] for line in v], [line[k] for line in v]) for k, v in lines.items()}
        curves(drawn, folder / f"{name}_curves.png", title=f"fitting the {name}", x="step")
    manifest = read_json(folder / "manifest.json", "run: diffaug fit --fresh")
    hashes = {case: entry["sha256"] for case, entry in read_json(folder / "readings.json", "run again").items()}
    generator.provenance = {"seen": manifest["cases"], "excluded": manifest["excluded"], "figures": figures}
    generator.save(target)
    done = {"finished": True, "figures": figures, "inputs": hashes, "generator_sha256": file_hash(target)}
    write_json(folder / "manifest.json", {**manifest, **done})
    for pattern in ("*.state.pt", "copies_*.json", "latents_*"):  # what resumes a fit is not what a user loads
        for entry in folder.glob(pattern):
            remove(entry)
