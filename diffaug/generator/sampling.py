"""The stage `sample`: synthetic volumes as an nnU-Net raw dataset, with manifest and montage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from tqdm import tqdm

from diffaug import __version__
from diffaug.copies.detector import CopyDetector
from diffaug.engine.devices import start_fabric
from diffaug.errors import DiffaugError
from diffaug.generator.conditions import Condition, require_learned
from diffaug.generator.fitting import COPIES, fit
from diffaug.generator.model import Generator
from diffaug.generator.preparing import open_cache
from diffaug.generator.samplers import SAMPLERS
from diffaug.volumes.grid import synthetic_scan
from diffaug.volumes.pictures import mosaic
from diffaug.volumes.scan import write_scan
from diffaug.volumes.windows import paste_extent, refill
from diffaug.workspace import Workspace, discard, file_hash, locked, read_json, write_json

BATCH = 4  # volumes made together; part of what a seed means, so it never depends on the machine
MONTAGE = 8
FEW, MOST_REFUSED = 40, 0.9  # candidates refused, before and above which share sampling gives up


@dataclass(frozen=True)
class SampleRequest:
    """What was asked of `sample`. A longer set with equal other options begins with the volumes of the shorter one.

    Attributes:
        count: Number of volumes.
        seed: Of the set.
        sampler: A key of `diffaug.generator.samplers.SAMPLERS`.
        steps: Number of steps; None for the sampler's default.
        condition: What all volumes shall be alike in; what is unknown varies as it does among the training scans.
        guidance: Weight of the conditions; 1 is the plain conditional denoiser, more exaggerates what they change.
        grain: Whether volumes get the grain of scans, or stay as smooth as the autoencoder makes them.
        keep_copies: Whether volumes too like a training scan stay in the set, for research alone.
    """

    count: int = 200
    seed: int = 0
    sampler: str = "dpmpp"
    steps: int | None = None
    condition: Condition = Condition()
    guidance: float = 1.0
    grain: bool = True
    keep_copies: bool = False

    @staticmethod
    def from_dict(content: dict[str, Any]) -> SampleRequest:
        """Rebuild a request from a manifest.

        Args:
            content: What `asdict` gave, read from JSON.

        Returns:
            The request.
        """
        return SampleRequest(**{**content, "condition": Condition.from_dict(content.get("condition", {}))})


# ddpm: "Medical Diffusion", supplementary table 1; the others: the fewest of 4, 8, 10, 16, 32 whose figures are within the
# interval of its 300 steps (benchmarks/results/sampler_steps.md), and that keep the standard deviation of a Gaussian,
# whose ideal denoiser is known, within 10 % (tests/generator/test_samplers.py)
DEFAULT_STEPS = {"ddpm": 300, "ddim": 32, "heun": 16, "dpmpp": 16}


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
        if manifest["finished"]:
            print(f"sample: {folder} holds {request.count} volumes already")
            return
        generator = Generator.load(model).to(device)
        require_learned(request.condition, request.guidance, generator.conditions)
        write_json(folder / "manifest.json", manifest)  # before the first volume, so that no other set mixes with it
        scans = open_cache(workspace, generator.plan)
        detector = CopyDetector.load(workspace.generator / COPIES, scans.__getitem__, device)
        if detector.blind:
            print(
                "sample: the copy test is blind for these scans (too few, or too alike); no volume is screened",
                flush=True,
            )
        manifest["screened"] = not detector.blind
        made, refused = manifest["volumes"], manifest["refused"]
        with tqdm(total=request.count, initial=len(made), desc="sampling", unit="volume", ascii=True) as bar:
            while len(made) < request.count:
                done = 1 + max([-1, *refused, *(entry["candidate"] for entry in made.values())])
                for candidate in _make(generator, detector, request, done // BATCH * BATCH):
                    if candidate.number < done or len(made) == request.count:
                        continue
                    if candidate.copy and not request.keep_copies:
                        refused.append(candidate.number)
                        continue
                    number = name(len(made))
                    write_scan(synthetic_scan(candidate.volume, generator.plan.grid), folder / "imagesTr", number)
                    made[number] = candidate.entry
                    bar.update()
                write_json(folder / "manifest.json", manifest)
                _require_volumes(folder, refused, made)
        _finish(folder, manifest, generator, request)


@dataclass(frozen=True)
class _Candidate:
    """A volume before it is known whether it may pass."""

    number: int
    volume: np.ndarray
    copy: bool
    entry: dict[str, Any]


def _make(generator: Generator, detector: CopyDetector, request: SampleRequest, first: int) -> list[_Candidate]:
    """Make a whole batch, so that a volume does not depend on how many were asked for."""
    numbers = range(first, first + BATCH)
    volumes, windows, conditions = generator.sample(
        request.seed,
        numbers,
        sampler=request.sampler,
        steps=request.steps or DEFAULT_STEPS[request.sampler],
        wanted=request.condition,
        guidance=request.guidance,
        grain=request.grain,
    )
    insides = [paste_extent(volume, window) for volume, window in zip(volumes.numpy(), windows, strict=True)]
    # judged as the audit will see them, who has but the files
    shape = generator.plan.grid.shape
    shown = [refill(inside, window, shape) for inside, window in zip(insides, windows, strict=True)]
    verdicts = detector.judge(torch.from_numpy(np.stack(shown)))
    candidates = []
    for number, inside, window, known, nearest in zip(numbers, insides, windows, conditions, verdicts, strict=True):
        entry = {
            "candidate": number,
            "offset": window.offset,
            "extent": window.extent,
            "condition": known.known(),
            "copy": nearest.copy,  # but not of whom: the manifest goes where the volumes go
        }
        candidates.append(_Candidate(number, inside, nearest.copy, entry))
    return candidates


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
            "refused": [],
        }
        return begun, request
    manifest = read_json(file, "run: diffaug sample --fresh")
    before = SampleRequest.from_dict(manifest["request"])
    if manifest["generator_sha256"] != generator_hash:
        raise DiffaugError(
            f"{file}: these volumes come from another generator; discard them with diffaug sample --fresh"
        )
    if request is None:
        return manifest, before
    if replace(request, count=before.count) != before:
        raise DiffaugError(
            f"{file}: this set was begun with seed {before.seed}, sampler {before.sampler}, steps {before.steps}, "
            f"condition {before.condition.known() or 'none'}, guidance {before.guidance:g}, grain {before.grain}, "
            f"keep_copies {before.keep_copies}, expected the same; repeat them, or discard it with --fresh"
        )
    wanted = max(request.count, before.count)
    request = replace(request, count=wanted)
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
