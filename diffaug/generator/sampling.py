"""The stage `sample`: synthetic volumes as an nnU-Net raw dataset, with manifest and montage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from tqdm import tqdm

from diffaug import __version__
from diffaug.engine.devices import start_fabric
from diffaug.errors import DiffaugError
from diffaug.generator.fitting import fit
from diffaug.generator.model import Generator
from diffaug.generator.samplers import SAMPLERS
from diffaug.volumes.grid import synthetic_scan
from diffaug.volumes.pictures import mosaic
from diffaug.volumes.scan import write_scan
from diffaug.volumes.windows import paste_extent
from diffaug.workspace import Workspace, discard, file_hash, locked, read_json, write_json

BATCH = 4  # volumes made together; part of what a seed means, so it never depends on the machine
MONTAGE = 8


@dataclass(frozen=True)
class SampleRequest:
    """What was asked of `sample`. A longer set with equal other options begins with the volumes of the shorter one.

    Attributes:
        count: Number of volumes.
        seed: Of the set.
        sampler: A key of `diffaug.generator.samplers.SAMPLERS`.
        steps: Number of steps; None for the sampler's default.
    """

    count: int = 200
    seed: int = 0
    sampler: str = "dpmpp"
    steps: int | None = None


# 300: "Medical Diffusion", supplementary table 1; the others: the fewest that keep the standard deviation of a Gaussian,
# whose ideal denoiser is known, within 3 % (tests/generator/test_samplers.py)
DEFAULT_STEPS = {"ddpm": 300, "ddim": 100, "heun": 24, "dpmpp": 30}


def sample(
    workspace: Workspace, request: SampleRequest | None = None, *, device: str = "auto", fresh: bool = False
) -> Path:
    """Write synthetic volumes, or go on writing them; fits the generator first where there is none.

    Args:
        workspace: The task's workspace.
        request: What is wanted; None takes whatever was asked before, or the defaults.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard the volumes that are there.

    Returns:
        The folder, in nnU-Net's raw layout.

    Raises:
        DiffaugError: If an option is bad, or the set was begun with other options or another generator.
    """
    model = fit(workspace, device=device)
    fabric = start_fabric(device)
    if fabric.is_global_zero:  # sampling is short: under torchrun the other processes wait
        _sample(workspace, model, request, fabric.device, fresh=fresh)
    fabric.barrier()
    return workspace.synthetic


def _sample(
    workspace: Workspace, model: Path, request: SampleRequest | None, device: torch.device, *, fresh: bool
) -> None:
    folder = workspace.synthetic
    with locked(folder):
        if fresh:
            discard(folder)
        manifest, request = _agree(folder, request, file_hash(model))
        steps = request.steps or DEFAULT_STEPS[request.sampler]
        made = manifest["volumes"]
        missing = [n for n in range(request.count) if name(n) not in made]
        if manifest["finished"] and not missing:
            print(f"sample: {folder} holds {request.count} volumes already")
            return
        generator = Generator.load(model).to(device)
        numbers = sorted({n // BATCH * BATCH for n in missing})
        with tqdm(total=request.count, initial=request.count - len(missing), desc="sampling", unit="volume") as bar:
            for first in numbers:
                # always whole batches, so that a volume does not depend on how many were asked for
                volumes, windows = generator.sample(
                    request.seed, range(first, first + BATCH), sampler=request.sampler, steps=steps
                )
                for number, volume, window in zip(range(first, first + BATCH), volumes.numpy(), windows, strict=True):
                    if number in missing:
                        inside = paste_extent(volume, window)
                        write_scan(synthetic_scan(inside, generator.plan.grid), folder / "imagesTr", name(number))
                        made[name(number)] = {"offset": window.offset, "extent": window.extent}
                        bar.update()
                write_json(folder / "manifest.json", manifest)
        _finish(folder, manifest, generator, request)


def name(number: int) -> str:
    """Name a synthetic volume so that nobody takes it for a patient's.

    Args:
        number: Its number in the set.

    Returns:
        The case id.
    """
    return f"synthetic_{number:05d}"


def _agree(folder: Path, request: SampleRequest | None, generator_hash: str) -> tuple[dict[str, Any], SampleRequest]:
    file = folder / "manifest.json"
    if not file.is_file():
        request = request or SampleRequest()
        if request.sampler not in SAMPLERS or request.count < 1 or (request.steps or 1) < 1:
            raise DiffaugError(
                f"sample: found sampler '{request.sampler}', count {request.count}, steps {request.steps}, expected one of "
                f"{', '.join(SAMPLERS)} and positive numbers; mend the options"
            )
        begun = {
            "stage": "sample",
            "finished": False,
            "version": __version__,
            "request": asdict(request),
            "generator_sha256": generator_hash,
            "volumes": {},
        }
        write_json(file, begun)
        return begun, request
    manifest = read_json(file, "run: diffaug sample --fresh")
    before = SampleRequest(**manifest["request"])
    if manifest["generator_sha256"] != generator_hash:
        raise DiffaugError(
            f"{file}: these volumes come from another generator; discard them with diffaug sample --fresh"
        )
    if request is None:
        return manifest, before
    if (request.seed, request.sampler, request.steps) != (before.seed, before.sampler, before.steps):
        raise DiffaugError(
            f"{file}: this set was begun with seed {before.seed}, sampler {before.sampler}, steps {before.steps}, expected "
            "the same; repeat them, or discard it with --fresh"
        )
    wanted = max(request.count, before.count)
    request = SampleRequest(wanted, request.seed, request.sampler, request.steps)
    finished = manifest["finished"] and wanted == before.count
    return {**manifest, "request": asdict(request), "finished": finished}, request


def _finish(folder: Path, manifest: dict[str, Any], generator: Generator, request: SampleRequest) -> None:
    plan = generator.plan
    info = {
        "channel_names": {str(i): channel for i, channel in enumerate(plan.channels)},
        "labels": {"background": 0},
        "numTraining": request.count,
        "file_ending": ".nii.gz",
        "description": "synthetic volumes made by diffaug; images only, there are no labels",
    }
    write_json(folder / "dataset.json", info)
    shown = [folder / "imagesTr" / f"{name(n)}_0000.nii.gz" for n in range(min(MONTAGE, request.count))]
    volumes = [sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in shown]
    grid = plan.grid
    mosaic(
        {"synthetic": [np.asarray(v) for v in volumes]},
        folder / "montage.png",
        spacing=grid.spacing,
        orientation=grid.orientation,
        limits=grid.ranges[0],
    )
    manifest["finished"] = True
    manifest["grid"] = asdict(grid)
    manifest["seen"] = generator.provenance["seen"]
    write_json(folder / "manifest.json", manifest)
