"""The stage `fit`: from a raw dataset to a generator file. Each step leaves its result on disk and is never redone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from diffaug.errors import DiffaugError
from diffaug.files import file_hash, read_json, write_json
from diffaug.generator.cards import write_cards
from diffaug.generator.estimate import in_short
from diffaug.generator.fitting import clear, fit_networks
from diffaug.generator.model import Generator
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.planning import make_plan
from diffaug.generator.preparing import (
    READINGS,
    Entries,
    changed_scans,
    fill_cache,
    measure_scans,
    nnunet_geometry,
    readings_of,
    require_known,
    stored_readings,
)
from diffaug.generator.sites import read_sites
from diffaug.scans.cache import VolumeCache
from diffaug.scans.dataset import RawDataset, open_dataset
from diffaug.scans.exclusion import excluded_ids, warn_of_folds
from diffaug.scans.readings import Reading
from diffaug.stages.edited_plan import edits, keep_edited
from diffaug.stages.requests import FitRequest, remembered
from diffaug.stages.stage import MANIFEST, Stage, open_stage
from diffaug.training.devices import start_fabric
from diffaug.training.loop import require_shares
from diffaug.workspace import Workspace

GENERATOR = "generator.safetensors"
FOREIGN = "imported"  # the manifest's key for where a generator came from that was not fitted here


def fit(
    workspace: Workspace,
    asked: FitRequest | None,
    *,
    device: str,
    fresh: bool,
    plan_only: bool,
    used: bool = False,
    others: Sequence[Path] = (),
) -> Path:
    """Fit the generator of a task, or go on fitting it.

    Args:
        workspace: The task's workspace.
        asked: What is wanted; None takes whatever was asked before, or the defaults.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard what is there, once everything else is found to be in order.
        plan_only: Whether to stop once the plan is written, for a person to edit it.
        used: Whether another stage asks, which takes a finished generator as it is, and is but told of changed scans.
        others: Folders of other images, whose cases `exclude` may name, too.

    Returns:
        The generator file, or the plan.
    """
    fabric, folder = start_fabric(device), workspace.generator
    target, plan_file = folder / GENERATOR, folder / "plan.json"
    with open_stage("fit", folder, fresh=fresh, active=fabric.is_global_zero) as stage:
        fresh = fresh and stage.active  # the others find what the first process has made anew
        if FOREIGN in (stage.before or {}):
            return _imported(stage, target, used=used)
        with fabric.rank_zero_first():
            request = stage.request(FitRequest, asked)
            dataset, excluded = _listed(stage, workspace, request, others)
            entries = {} if fresh else stored_readings(folder)
            changed = changed_scans(dataset, stage.before["cases"], entries) if stage.before is not None else []
            if stage.finished and target.is_file():
                _keep(stage, target, changed, fabric, used=used)
                return target
            stage.refuse(changed)
            planned = plan_file.is_file() and not fresh
            sites = {} if planned else _sites(workspace, request, dataset, excluded)  # told before all scans are read
            entries = entries or measure_scans(dataset, workspace)
            readings = readings_of(entries)
            plan = GeneratorPlan.load(plan_file) if planned else _new_plan(workspace, request, dataset, readings, sites)
            require_known(plan, plan_file, readings)
            _require_shares(plan, fabric)
            kept = keep_edited(plan_file, plan) if fresh else []
            stage.agree(request, keep=kept, cases=[case.id for case in dataset.cases], excluded=sorted(excluded))
            _write(stage, entries, plan, plan_file)
            if plan_only:
                return plan_file
            cache = fill_cache(dataset, plan, readings, folder)
            conditions = {case: plan.conditions.of(reading, plan.grid) for case, reading in readings.items()}
        if not used:
            fabric.print(f"fit, all of it: {in_short(plan, fabric.device)}", flush=True)
        generator = fit_networks(plan, cache, conditions, folder, fabric, stage.save)
        if fabric.is_global_zero:
            _finish(stage, generator, entries, target)
        fabric.barrier()
    return target


def _require_shares(plan: GeneratorPlan, fabric: Fabric) -> None:
    for name, training in plan.trainings.items():  # before the first of them has taken hours
        require_shares(training, fabric, name)


def _imported(stage: Stage, target: Path, *, used: bool) -> Path:
    """Take a generator that came from elsewhere; `fit` itself will not go on with it."""
    if not used:
        raise DiffaugError(
            f"{stage.file}: this generator was imported, expected none or one of diffaug fit; discard it: diffaug fit --fresh"
        )
    return target


def _keep(stage: Stage, target: Path, changed: Sequence[str], fabric: Fabric, *, used: bool) -> None:
    """Say that a generator is finished, and what has changed since; only `fit` itself refuses then."""
    if not used:
        stage.refuse(changed or edits(stage.folder / "plan.json", target))
        fabric.print(f"fit: {target} is there already")
    elif changed:
        told = f"fit: the scans have changed since ({'; '.join(changed)})"
        fabric.print(f"{told}; this generator is kept, diffaug fit --fresh begins anew")


def _sites(workspace: Workspace, request: FitRequest, dataset: RawDataset, excluded: set[str]) -> dict[str, str]:
    """Read where the scans come from, if that is known."""
    beside = workspace.raw / "sites.csv"
    if request.sites is None and not beside.is_file():
        return {}
    return read_sites(Path(request.sites or beside), [case.id for case in dataset.cases], sorted(excluded))


def _new_plan(
    workspace: Workspace, request: FitRequest, dataset: RawDataset, readings: dict[str, Reading], sites: dict[str, str]
) -> GeneratorPlan:
    spacing, patch_size = nnunet_geometry(workspace)
    return make_plan(
        list(readings.values()),
        dataset.channels,
        budget=request.budget,
        field_of_view=request.field_of_view,
        spacing=spacing,
        patch_size=patch_size,
        site_of=sites,
        like=request.like,
        seed=request.seed,
    )


def _write(stage: Stage, entries: Entries, plan: GeneratorPlan, plan_file: Path) -> None:
    if not stage.active:
        return
    stage.save()  # first: who is killed between these lines goes on with this request, not with another
    if not (stage.folder / READINGS).is_file():
        write_json(stage.folder / READINGS, entries)
    if not plan_file.is_file():
        plan.save(plan_file)


def _finish(stage: Stage, generator: Generator, entries: Entries, target: Path) -> None:
    manifest = stage.manifest
    figures = generator.provenance.pop("figures")
    generator.provenance = {"seen": manifest["cases"], "excluded": manifest["excluded"], "figures": figures}
    generator.save(target)
    write_cards(stage.folder, generator.plan, list(readings_of(entries).values()), figures, manifest["excluded"])
    inputs: dict[str, Any] = {case: entry["sha256"] for case, entry in entries.items()}
    stage.finish(figures=figures, inputs=inputs, generator_sha256=file_hash(target))
    clear(stage.folder)


def _listed(
    stage: Stage, workspace: Workspace, request: FitRequest, others: Sequence[Path]
) -> tuple[RawDataset, set[str]]:
    """List the scans, and say beforehand where nnU-Net could train no fold afterwards."""
    if stage.before is not None:
        return scans_of(workspace, request, stage.before["excluded"], others)
    dataset, excluded = scans_of(workspace, request, None, others)
    if stage.active and (told := warn_of_folds(workspace, [case.id for case in dataset.cases])):
        print(f"fit: {told}", flush=True)
    return dataset, excluded


def scans_of(
    workspace: Workspace, request: FitRequest, kept: Collection[str] | None = None, others: Sequence[Path] = ()
) -> tuple[RawDataset, set[str]]:
    """List the scans that a request means.

    Args:
        workspace: The task's workspace.
        request: The request.
        kept: The ids that its rules meant when it was begun; None where it is new. A rule may mean others by now, or name a
            case that is gone.
        others: Folders of other images, whose cases the rules may name, too.

    Returns:
        The dataset, and the ids that are left out of it.
    """
    extra = [Path(folder) for folder in request.more_images]
    excluded = set(kept) if kept is not None else excluded_ids(workspace, request.exclude, extra, others)
    dataset = open_dataset(workspace.raw, extra=extra, exclude=excluded, plans=workspace.plans_file)
    return dataset, excluded


def fitted_scans(workspace: Workspace) -> RawDataset:
    """List the scans of a task's generator, as far as they are still there.

    Args:
        workspace: The task's workspace.

    Returns:
        The dataset, with what has come since.
    """
    file = workspace.generator / MANIFEST
    manifest = read_json(file, "run: diffaug fit --fresh")
    dataset, _ = scans_of(workspace, remembered(FitRequest, manifest, file), manifest["excluded"])
    return dataset


def open_cache(workspace: Workspace, plan: GeneratorPlan) -> VolumeCache:
    """Open the scans as fitting resampled them; what is no longer there is resampled again.

    Args:
        workspace: The task's workspace.
        plan: The generator's plan.

    Returns:
        The cache, with all of the plan's scans.
    """
    dataset = fitted_scans(workspace)
    readings = readings_of(stored_readings(workspace.generator) or measure_scans(dataset, workspace))
    return fill_cache(dataset, plan, readings, workspace.generator)
