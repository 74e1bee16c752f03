"""The stage `sample`: synthetic volumes as an nnU-Net raw dataset, with manifest and montage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from lightning_fabric import Fabric
from tqdm import tqdm

from diffaug.copies.detector import CopyDetector
from diffaug.errors import DiffaugError
from diffaug.files import file_hash, write_json
from diffaug.generator.conditions import require_learned
from diffaug.generator.fitting import COPIES
from diffaug.generator.model import Generator
from diffaug.generator.samplers import SAMPLERS
from diffaug.generator.sampling import Candidate, rounds
from diffaug.generator.travelling import ORIGIN
from diffaug.scans.canonical import synthetic_scan
from diffaug.scans.grid import Grid
from diffaug.scans.pictures import mosaic
from diffaug.scans.scan import write_scan
from diffaug.stages.fit import open_cache
from diffaug.stages.requests import SampleRequest
from diffaug.stages.stage import Stage, open_stage
from diffaug.training.devices import start_fabric
from diffaug.workspace import Workspace

MONTAGE = 8
FEW, MOST_REFUSED = 40, 0.9  # candidates refused, before and above which share sampling gives up


def sample(workspace: Workspace, model: Path, asked: SampleRequest | None, *, device: str, fresh: bool) -> Path:
    """Write synthetic volumes, or go on writing them.

    Args:
        workspace: The task's workspace.
        model: The generator file.
        asked: What is wanted; None takes whatever was asked before, or the defaults.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard the volumes that are there, once everything else is found to be in order.

    Returns:
        The folder, in nnU-Net's raw layout.
    """
    require_possible(asked or SampleRequest())
    fabric = start_fabric(device)
    with open_stage("sample", workspace.synthetic, fresh=fresh, active=fabric.is_global_zero) as stage:
        _sample(workspace, model, stage, asked, fabric)
        fabric.barrier()
    return workspace.synthetic


def require_possible(request: SampleRequest) -> None:
    """Refuse what no generator can do.

    Args:
        request: What is wanted.

    Raises:
        DiffaugError: If there is no such sampler, or a number makes no sense.
    """
    if request.sampler not in SAMPLERS or request.count < 1 or (request.steps is not None and request.steps < 1):
        raise DiffaugError(
            f"sample: found sampler '{request.sampler}', count {request.count}, steps {request.steps}, expected one of "
            f"{', '.join(SAMPLERS)} and positive numbers; fix the options"
        )


def _sample(workspace: Workspace, model: Path, stage: Stage, asked: SampleRequest | None, fabric: Fabric) -> None:
    folder, generator_hash = stage.folder, file_hash(model)
    request = stage.request(SampleRequest, asked, free=("count",))
    if stage.before is not None:
        if stage.before["generator_sha256"] != generator_hash:
            stage.refuse(["these volumes come from another generator than today's"])
        before = stage.request(SampleRequest, None)
        if stage.finished and request.count <= before.count:
            fabric.print(f"sample: {folder} holds {before.count} volumes already")
            return
        if request.count < before.count:  # asking for fewer removes none
            request = before
    generator = Generator.load(model).to(fabric.device)
    require_learned(request.condition, request.guidance, generator.conditions)
    detector = _detector(workspace, generator, fabric)
    fabric.barrier()  # no process may find what is about to go, or to come
    stage.agree(request, generator_sha256=generator_hash, volumes={}, refused=[])
    # before the first volume, so that no other set mixes with it
    stage.save(screened=detector is not None and not detector.blind)
    _make(stage, request, generator, detector, fabric)
    if stage.active:
        _finish(stage, request, generator)


def _detector(workspace: Workspace, generator: Generator, fabric: Fabric) -> CopyDetector | None:
    """Know the training scans again, where they are; say so where no volume can be held against them."""
    if ORIGIN in generator.provenance:
        told = "the generator came from elsewhere, and its scans are not here; its sender has looked for copies"
        fabric.print(f"sample: {told}")
        return None
    with fabric.rank_zero_first():  # which makes what is missing
        scans = open_cache(workspace, generator.plan)
    detector = CopyDetector.load(workspace.generator / COPIES, scans.__getitem__, fabric.device)
    if detector.blind:
        fabric.print("sample: the copy test is blind for these scans (too few, or too alike); no volume is screened")
    return detector


def _make(
    stage: Stage, request: SampleRequest, generator: Generator, detector: CopyDetector | None, fabric: Fabric
) -> None:
    made, refused = stage.manifest["volumes"], stage.manifest["refused"]
    first = 1 + max([-1, *refused, *(entry["candidate"] for entry in made.values())])
    options = {key: getattr(request, key) for key in ("sampler", "steps", "guidance", "refine")}
    make = partial(generator.synthesise, request.seed, wanted=request.condition, **options)
    endless = rounds(make, detector, first, fabric)
    bar = tqdm(
        total=request.count, initial=len(made), desc="sampling", unit="volume", ascii=True, disable=not stage.active
    )
    with bar:
        while len(made) < request.count:
            _sort(next(endless), stage, request, generator.plan.grid)
            fabric.barrier()  # the manifest tells of no volume that is not there
            bar.update(len(made) - bar.n)
            stage.save()
            _require_volumes(stage.folder, refused, made)


def _sort(candidates: Sequence[Candidate], stage: Stage, request: SampleRequest, grid: Grid) -> None:
    """Refuse copies, name what passes until there is enough, and write those of this process."""
    made, refused = stage.manifest["volumes"], stage.manifest["refused"]
    for candidate in candidates:
        if len(made) == request.count:
            return
        if candidate.copy and not request.keep_copies:
            refused.append(candidate.number)
            continue
        number = name(len(made))
        made[number] = candidate.entry
        if candidate.volume is not None:
            write_scan(synthetic_scan(candidate.volume, grid), stage.folder / "imagesTr", number)


def _require_volumes(folder: Path, refused: Sequence[int], made: Mapping[str, Any]) -> None:
    """Stop where hardly a volume passes: it would take for ever, and what passes is not to be trusted either."""
    if len(refused) >= FEW and len(refused) > MOST_REFUSED * (len(refused) + len(made)):
        raise DiffaugError(
            f"{folder}: found {len(refused)} of {len(refused) + len(made)} volumes too like a training scan, expected at "
            f"most {MOST_REFUSED:.0%}; the generator knows its scans by heart: fit it on more scans, or for research "
            "alone keep them with --keep-copies"
        )


def name(number: int) -> str:
    """Name a synthetic volume so that nobody takes it for a patient's.

    Args:
        number: Its number in the set.

    Returns:
        The case id.
    """
    return f"synthetic_{number:05d}"


def _finish(stage: Stage, request: SampleRequest, generator: Generator) -> None:
    plan, folder = generator.plan, stage.folder
    info = {
        "channel_names": {str(i): channel for i, channel in enumerate(plan.channels)},
        "labels": {"background": 0},
        "numTraining": request.count,
        "file_ending": ".nii.gz",
        "description": "synthetic volumes made by diffaug; images only, there are no labels",
    }
    write_json(folder / "dataset.json", info)
    shown = [folder / "imagesTr" / f"{name(n)}_0000.nii.gz" for n in range(min(MONTAGE, request.count))]
    mosaic(
        {"synthetic": [np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))) for file in shown]},
        folder / "montage.png",
        spacing=plan.grid.spacing,
        orientation=plan.grid.orientation,
        limits=plan.grid.ranges[0],
    )
    origin = {ORIGIN: told["of"]} if (told := generator.provenance.get(ORIGIN)) else {}
    stage.finish(grid=asdict(plan.grid), seen=generator.provenance["seen"], **origin)
