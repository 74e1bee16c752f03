"""The stage `pretrain`: from images of any kind to the encoder file that the nnU-Net trainer loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from diffaug import __version__
from diffaug.budgets import BUDGETS, Training
from diffaug.errors import DiffaugError, first_of
from diffaug.files import file_hash, fingerprint
from diffaug.nnunet.dataset_json import channels_and_ending
from diffaug.nnunet.plans import PlannedTask, differences
from diffaug.nnunet.weights.format import ENCODER, IMPORTED
from diffaug.pretraining.fitting import PretextObjective, require_loadable, write_result
from diffaug.pretraining.images import folders_of
from diffaug.pretraining.preprocessing import find_teacher, preprocess
from diffaug.pretraining.pretexts import PRETEXTS, Pretext, pretext_for
from diffaug.pretraining.sources import Source, open_sources, require_channels, require_teacher, source_hashes
from diffaug.scans.cache import VolumeCache
from diffaug.scans.exclusion import excluded_ids, warn_of_folds
from diffaug.stages.requests import PretrainRequest, remembered
from diffaug.stages.stage import Stage, open_stage
from diffaug.training.devices import start_fabric
from diffaug.training.loop import require_shares, train
from diffaug.workspace import Workspace


def require_possible(request: PretrainRequest) -> None:
    """Refuse what cannot be done, before anything is looked at.

    Args:
        request: What is wanted.

    Raises:
        DiffaugError: If pretext, budget, images or steps make no sense.
    """
    if request.pretext not in (None, *PRETEXTS) or request.budget not in BUDGETS:
        raise DiffaugError(
            f"pretrain: found pretext '{request.pretext}' and budget '{request.budget}', expected one of "
            f"{', '.join(PRETEXTS)} and one of {', '.join(BUDGETS)}; fix the options"
        )
    if not request.images:
        raise DiffaugError("--images: found none, expected synthetic, real or folders; fix the option")
    if request.pretext_steps is not None and request.pretext_steps < 1:
        raise DiffaugError(
            f"--pretext-steps: found {request.pretext_steps}, expected a positive number; fix the option"
        )


def finished(workspace: Workspace, request: PretrainRequest) -> bool:
    """Tell whether the encoder that is wanted is there, so that nothing upstream needs to be.

    Args:
        workspace: The task's workspace.
        request: What is wanted.

    Returns:
        Whether it is.

    Raises:
        DiffaugError: If another one is there, or was begun; what differs is named.
    """
    _require_own(workspace)
    work = PlannedTask.of(workspace)
    with open_stage("pretrain", workspace.encoder, fresh=False, active=False) as stage:
        stage.request(PretrainRequest, _settled(request, stage, work))
        stage.refuse(_other_plans(stage, work))
        return stage.finished and (workspace.encoder / ENCODER).is_file()


def pretrain(workspace: Workspace, asked: PretrainRequest, *, device: str, fresh: bool) -> Path:
    """Pretrain the network of a task's nnU-Net plan, or go on.

    Args:
        workspace: The task's workspace.
        asked: What is wanted.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard an encoder that is there, once everything else is found to be in order.

    Returns:
        The encoder file.
    """
    work = PlannedTask.of(workspace)
    fabric = start_fabric(device)
    target = workspace.encoder / ENCODER
    with open_stage("pretrain", workspace.encoder, fresh=fresh, active=fabric.is_global_zero) as stage:
        if not fresh:
            _require_own(workspace)
        request = stage.request(PretrainRequest, _settled(asked, stage, work))
        stage.refuse(_other_plans(stage, work))
        if stage.finished and target.is_file():
            fabric.print(f"pretrain: {target} is there already")
            return target
        training = replace(BUDGETS[request.budget].pretraining, seed=request.seed)
        rate = min(training.learning_rate, work.network.family.recipe.pretraining_rate)
        steps = training.steps if request.pretext_steps is None else request.pretext_steps
        training = replace(training, learning_rate=rate, steps=steps)
        require_shares(training, fabric, "pretext")
        excluded, sources = _sources(workspace, request, request.images)
        seen = sorted({case for source in sources for case in source.seen})
        if told := warn_of_folds(workspace, seen):
            fabric.print(f"pretrain: {told}")
        inputs = {source.name: source_hashes(source) for source in sources}
        stage.refuse(_changed((stage.before or {}).get("inputs", inputs), inputs))
        torch.manual_seed(request.seed)  # of a helper's weights
        pretext = pretext_for(str(request.pretext), work.network, work.channels)
        # what does not fit is told before anything is discarded
        network = _network(work, request.seed, pretext, sources)
        fabric.barrier()  # no process may find what is about to go
        stage.agree(request, inputs=inputs, network=work.network.identity, preprocessing=work.preprocessing)
        stage.save()
        fabric.barrier()
        volumes = _volumes(work, pretext, sources, inputs, fabric)
        provenance = {
            "case_ids": seen,
            "excluded": sorted(excluded),
            **({"origins": origins} if (origins := [source.origin for source in sources if source.origin]) else {}),
            "volumes": len(volumes),
            "preprocessing": work.preprocessing,
            "steps": training.steps,
            **{key: getattr(request, key) for key in ("images", "pretext", "budget", "seed")},
            "version": __version__,
        }
        objective = _fit(work, request, training, pretext, network, volumes, inputs, fabric)
        if fabric.is_global_zero:
            _finish(stage, work, objective, provenance)
        fabric.barrier()
    return target


def check(workspace: Workspace, request: PretrainRequest) -> None:
    """Look for slips before anything upstream is made.

    Args:
        workspace: The task's workspace.
        request: What is wanted.

    Raises:
        DiffaugError: If plans, rules or folders are not there.
    """
    PlannedTask.of(workspace)
    _sources(workspace, request, [name for name in request.images if name != "synthetic"])


def _settled(request: PretrainRequest, stage: Stage, work: PlannedTask) -> PretrainRequest:
    """Choose the pretext where none is named: what was begun, or what helped the network's kind most."""
    begun = remembered(PretrainRequest, stage.before, stage.file).pretext if stage.before is not None else None
    return replace(request, pretext=request.pretext or begun or work.network.family.recipe.pretext)


def _sources(workspace: Workspace, request: PretrainRequest, images: Sequence[str]) -> tuple[set[str], list[Source]]:
    """Turn the rules into ids that must not be seen, and open the images without them."""
    extra = [Path(folder) for folder in request.more_images]
    others = folders_of(images)
    excluded = excluded_ids(workspace, request.exclude, extra, others)
    return excluded, open_sources(workspace, images, extra, excluded)


def _require_own(workspace: Workspace) -> None:
    if (workspace.encoder / IMPORTED).is_file():
        raise DiffaugError(
            f"{workspace.encoder / ENCODER}: was imported, expected none or one of diffaug pretrain; discard it with --fresh"
        )


def _other_plans(stage: Stage, work: PlannedTask) -> list[str]:
    """Name in what the plans differ from those that this was begun with."""
    now = {"network": work.network.identity, "preprocessing": work.preprocessing}
    return [text for key in now for text in differences((stage.before or {}).get(key, {}), now[key], f"the {key}")]


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name the images that differ from those that this was begun with."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, {}), now.get(name, {})
        cases = sorted(case for case in old.keys() | new.keys() if old.get(case) != new.get(case))
        if cases:
            found.append(f"{len(cases)} images of {name} ({first_of(cases)})")
    return found


def _volumes(
    work: PlannedTask, pretext: Pretext, sources: list[Source], inputs: dict[str, Any], fabric: Fabric
) -> list[tuple[VolumeCache, str]]:
    """Bring all images into the network's space."""
    folder, configuration = work.workspace.encoder, work.configuration
    volumes: list[tuple[VolumeCache, str]] = []
    with fabric.rank_zero_first():
        for source in sources:
            key = fingerprint([source.name, inputs[source.name], work.preprocessing, pretext.taught])
            teacher = cache(partial(find_teacher, source, fabric.device)) if pretext.taught else None
            place = folder / "cache" / key
            made, cases = preprocess(source, work.plans, configuration, work.dataset_json, place, teacher)
            volumes += [(made, case) for case in cases]
            teacher = None  # its networks leave the memory before the training begins
    return volumes


def _network(work: PlannedTask, seed: int, pretext: Pretext, sources: Sequence[Source]) -> torch.nn.Module:
    """Build the network, and require that images, teacher and downstream network fit it."""
    for source in sources:
        require_channels(source, channels_and_ending(work.dataset_json)[0])
        if pretext.taught:
            require_teacher(source)
    torch.manual_seed(seed)
    network = work.network.build(work.channels, pretext.outputs(work.channels))
    require_loadable(network, work.workspace, work.configuration, work.plans, work.dataset_json, {})
    return network


def _fit(
    work: PlannedTask,
    request: PretrainRequest,
    training: Training,
    pretext: Pretext,
    network: torch.nn.Module,
    volumes: list[tuple[VolumeCache, str]],
    inputs: dict[str, Any],
    fabric: Fabric,
) -> PretextObjective:
    configuration = work.configuration
    objective = PretextObjective(
        network,
        pretext,
        volumes,
        configuration.patch_size,
        configuration.spacing,
        request.seed,
        work.network.family.recipe.weight_decay,
    )
    identity = [asdict(request), inputs, work.preprocessing, work.network.identity, configuration.patch_size]
    folder = work.workspace.encoder
    train(objective, objective.example, training, fabric=fabric, folder=folder, name="pretext", identity=identity)
    return objective


def _finish(stage: Stage, work: PlannedTask, objective: PretextObjective, provenance: dict[str, Any]) -> None:
    figures = write_result(work.workspace, work.configuration, objective, provenance)
    told = {key: value for key, value in provenance.items() if key not in ("version", "images", "preprocessing")}
    stage.finish(figures=figures, encoder_sha256=file_hash(stage.folder / ENCODER), **told)
    (stage.folder / "pretext.state.pt").unlink(missing_ok=True)
