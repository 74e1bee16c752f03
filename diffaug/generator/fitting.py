"""The stage `fit`: from a raw dataset to a generator file. Each step leaves its result on disk and is never redone."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from tqdm import tqdm

from diffaug import __version__
from diffaug.engine.devices import start_fabric
from diffaug.engine.loop import read_log, train
from diffaug.errors import DiffaugError
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.fit_autoencoder import AutoencoderObjective
from diffaug.generator.fit_denoiser import DenoiserObjective, encode_views
from diffaug.generator.model import Generator
from diffaug.generator.plan import GeneratorPlan, make_plan
from diffaug.volumes.cache import VolumeCache
from diffaug.volumes.dataset import RawDataset, excluded_ids, open_dataset
from diffaug.volumes.grid import Reading, read_off, to_canonical
from diffaug.volumes.nnunet import read_plans
from diffaug.volumes.pictures import curves
from diffaug.volumes.windows import Window
from diffaug.workspace import Workspace, atomic_path, discard, file_hash, fingerprint, locked, read_json, write_json


@dataclass(frozen=True)
class FitRequest:
    """What was asked of `fit`; a second run must ask the same, or discard the first with `--fresh`.

    Attributes:
        budget: A key of `diffaug.generator.plan.BUDGETS`.
        field_of_view: `auto`, `whole` or `patch`.
        images: Extra folders of images.
        exclude: `--exclude` rules.
        seed: Of everything random.
    """

    budget: str = "gpu-24g"
    field_of_view: str = "auto"
    images: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ("fold:0",)
    seed: int = 0

    @staticmethod
    def from_dict(content: dict[str, Any]) -> FitRequest:
        """Rebuild a request from a manifest.

        Args:
            content: What `asdict` gave, read from JSON.

        Returns:
            The request.
        """
        return FitRequest(**{**content, "images": tuple(content["images"]), "exclude": tuple(content["exclude"])})


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
            manifest, dataset = _agree(workspace, request)
            target = folder / "generator.safetensors"
            if manifest["finished"] and target.is_file():
                fabric.print(f"fit: {target} is there already")
                return target
            readings = _readings(dataset, folder)
            plan = _plan(workspace, FitRequest.from_dict(manifest["request"]), dataset, readings)
            if fabric.is_global_zero:
                write_json(folder / "manifest.json", manifest)
            if plan_only:
                return folder / "plan.json"
            cache = _cache(dataset, plan, readings, folder)
        return _fit_networks(plan, cache, folder, target, fabric)


def _agree(workspace: Workspace, request: FitRequest | None) -> tuple[dict[str, Any], RawDataset]:
    """Compare what is asked now with what was asked before, and list the scans."""
    file = workspace.generator / "manifest.json"
    before = read_json(file, "run: diffaug fit --fresh") if file.is_file() else None
    if before is not None:
        asked = FitRequest.from_dict(before["request"])
        if request is not None and request != asked:
            changed = [k for k, v in asdict(asked).items() if asdict(request)[k] != v]
            raise DiffaugError(
                f"{file}: this generator was begun with other options ({', '.join(changed)}), expected the same; repeat "
                "them, or discard it with --fresh"
            )
        request = asked
    request = request or FitRequest()
    extra = [Path(folder) for folder in request.images]
    excluded = excluded_ids(workspace, request.exclude, extra)
    dataset = open_dataset(workspace.raw, extra=extra, exclude=excluded)
    cases = [case.id for case in dataset.cases]
    if before is None:
        begun = {"stage": "fit", "finished": False, "version": __version__, "request": asdict(request)}
        return {**begun, "cases": cases, "excluded": sorted(excluded)}, dataset
    if before["cases"] != cases:
        raise DiffaugError(
            f"{file}: the scans of {workspace.dataset} are no longer those it was begun with ({len(before['cases'])} then, "
            f"{len(cases)} now); restore them, or fit anew with --fresh"
        )
    return before, dataset


def _readings(dataset: RawDataset, folder: Path) -> dict[str, Reading]:
    """Measure every scan once; this also finds every broken file before anything long begins."""
    file = folder / "readings.json"
    if not file.is_file():
        entries = {}
        for case in tqdm(dataset.cases, "reading scans", unit="scan", ascii=True):
            reading = read_off(case.id, dataset.read(case), dataset.channels)
            entries[case.id] = {**asdict(reading), "sha256": [file_hash(path) for path in case.files]}
        write_json(file, entries)
    stored = read_json(file, "delete it and run diffaug fit again")
    return {case: _reading(entry) for case, entry in stored.items()}


def _reading(entry: dict[str, Any]) -> Reading:
    return Reading(
        case=entry["case"],
        size=tuple(entry["size"]),
        spacing=tuple(entry["spacing"]),
        orientation=entry["orientation"],
        ranges=tuple((low, high) for low, high in entry["ranges"]),
        mean=tuple(entry["mean"]),
        std=tuple(entry["std"]),
    )


def _plan(
    workspace: Workspace, request: FitRequest, dataset: RawDataset, readings: dict[str, Reading]
) -> GeneratorPlan:
    file = workspace.generator / "plan.json"
    if not file.is_file():
        spacing, patch_size = _nnunet_geometry(workspace)
        plan = make_plan(
            list(readings.values()),
            dataset.channels,
            budget=request.budget,
            field_of_view=request.field_of_view,
            spacing=spacing,
            patch_size=patch_size,
            seed=request.seed,
        )
        plan.save(file)
    plan = GeneratorPlan.load(file)
    if unknown := {*plan.cases, *plan.held_out} - readings.keys():
        raise DiffaugError(
            f"{file}: found the unknown case {min(unknown)}, expected ids of the dataset; mend the lists"
        )
    return plan


def _nnunet_geometry(workspace: Workspace) -> tuple[list[float] | None, list[int] | None]:
    """Take spacing and patch size from the nnU-Net plan, if there is one, in the files' axis order."""
    if not workspace.plans_file.is_file():
        return None, None  # an unlabelled dataset has no plan
    plans, configuration = read_plans(workspace)
    back = plans.transpose_backward
    return [float(configuration.spacing[i]) for i in back], [int(configuration.patch_size[i]) for i in back]


def _cache(dataset: RawDataset, plan: GeneratorPlan, readings: dict[str, Reading], folder: Path) -> VolumeCache:
    # an edited grid gets a cache of its own
    cache = VolumeCache(folder / "cache" / fingerprint([plan.grid.spacing, plan.grid.orientation]))
    cases = {case.id: case for case in dataset.cases}
    wanted = tqdm([*plan.cases, *plan.held_out], "resampling scans", unit="scan", ascii=True)
    cache.fill(wanted, lambda case: to_canonical(dataset.read(cases[case]), readings[case], plan.grid)[0])
    return cache


def open_cache(workspace: Workspace, plan: GeneratorPlan) -> VolumeCache:
    """Open the scans as fitting resampled them; what is no longer there is resampled again.

    Args:
        workspace: The task's workspace.
        plan: The generator's plan.

    Returns:
        The cache, with all of the plan's scans.
    """
    _, dataset = _agree(workspace, None)
    return _cache(dataset, plan, _readings(dataset, workspace.generator), workspace.generator)


def _fit_networks(plan: GeneratorPlan, cache: VolumeCache, folder: Path, target: Path, fabric: Fabric) -> Path:
    torch.manual_seed(plan.autoencoder_training.seed)
    coder = AutoencoderObjective(plan, cache)
    later = ("denoiser", "denoiser_training", "views")  # changing what comes after must not discard the autoencoder
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
    key = fingerprint([identity, plan.views, plan.denoiser_training.seed, _sum(coder.autoencoder)])
    with fabric.rank_zero_first():
        latents = _latents(coder.autoencoder, plan, cache, plan.cases, folder / f"latents_{key}.npz", fabric)
        held_out = _latents(
            coder.autoencoder, plan, cache, plan.held_out, folder / f"latents_held_out_{key}.npz", fabric
        )
    torch.manual_seed(plan.denoiser_training.seed)
    objective = DenoiserObjective(plan, coder.autoencoder, latents, held_out)
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
        _finish(objective.generator(average, extents), folder, target)
    fabric.barrier()
    return target


def _sum(autoencoder: Autoencoder) -> float:
    """Tell autoencoders apart: latents of one are noise to another."""
    return float(sum(parameter.detach().double().abs().sum() for parameter in autoencoder.parameters()))


def _latents(
    autoencoder: Autoencoder, plan: GeneratorPlan, cache: VolumeCache, cases: Sequence[str], file: Path, fabric: Fabric
) -> tuple[np.ndarray, list[Window]]:
    """Encode all views once; a run that goes on reads them."""
    if not file.is_file():
        latents, windows = encode_views(autoencoder, plan, cache, cases, fabric.device)
        offsets, extents = [w.offset for w in windows], [w.extent for w in windows]
        with atomic_path(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, latents=latents, offsets=offsets, extents=extents)
    with np.load(file) as stored:
        windows = [
            Window(tuple(map(int, offset)), tuple(map(int, extent)))
            for offset, extent in zip(stored["offsets"], stored["extents"], strict=True)
        ]
        return stored["latents"], windows


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
    for state in folder.glob("*.state.pt"):  # what resumes a fit is not what a user loads; it has done its duty
        state.unlink()
