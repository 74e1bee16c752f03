"""Quality for equal wall time: diffaug and medicaldiffusion trained on the same phantoms, audited by the same command.

`speed.py --quality MINUTES` runs this. Whatever is finished is not done again, so a killed run goes on when it is repeated.
Half of the minutes go to the autoencoder, half to the diffusion model, for both; sampling is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from benchmarks.assembled import TASK, assemble, set_folders, write_phantoms
from benchmarks.contenders import BATCH, SHAPE, resize_plan, silenced
from benchmarks.measuring import interleaved
from benchmarks.medicaldiffusion_shims import make_diffusion, make_vqgan
from benchmarks.step_profile import bare_step
from diffaug.files import atomic_path, write_json
from diffaug.generator.plan import GeneratorPlan
from diffaug.scans.pictures import mosaic
from diffaug.training.batches import StepBatches
from diffaug.workspace import Workspace

CASES, UNSEEN, VOLUMES = 60, 24, 32
SHOWN = 4  # volumes of each set in the picture
OVERHEAD = 1.05  # of a step above the bare network's
SAVE_EVERY = 60  # seconds
VQGAN_BATCH = 2  # its published batch
LEARNING_RATE = 3e-4  # published; its code would use 1.9e-5, with which minutes of training change nothing
CRITIC_START = 0.1  # of its training: 10,000 of 100,000 iterations


def compare_quality(
    library: SimpleNamespace, work: Path, minutes: float, threads: int, *, volumes: int = VOLUMES
) -> dict[str, Any]:
    """Train, sample and audit both.

    Args:
        library: What `load_medicaldiffusion` gave.
        work: Where everything goes.
        minutes: Wall time of training, for each.
        threads: How many.
        volumes: How many to sample of each.

    Returns:
        A section of the report.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    lengths = calibrate(work / "calibration", 30 * minutes)
    raw = write_phantoms(set_folders(work), SHAPE, cases=CASES, unseen=UNSEEN)
    plan, ours, seconds = run_ours(lengths, volumes)
    scans = [raw / "imagesTr" / f"{case}_0000.nii.gz" for case in plan.cases]
    theirs, theirs_seconds = run_theirs(library, scans, work / "medicaldiffusion", minutes, volumes)
    draw_side_by_side({"phantom": raw, "diffaug": ours, "medicaldiffusion": theirs}, work / "volumes.png")
    found = {}
    for name, folder in (("diffaug", ours), ("medicaldiffusion", theirs)):
        out = work / f"audit_{name}"
        _diffaug(f"audit --real {raw / 'imagesTr'} --unseen {raw / 'imagesTs'} --synthetic {folder} --out {out}")
        found[name] = json.loads((out / "manifest.json").read_text())["figures"]
    flat = {name: flatten(figures) for name, figures in found.items()}
    told = ("figure value", "figure low", "figure high", "floor value", "verdict")  # the JSON has all
    shared = [key for key in flat["diffaug"] if key in flat["medicaldiffusion"] and key.endswith(told)]
    rows = [{"figure": key, **{name: flat[name][key] for name in flat}} for key in shared]
    spent = {"diffaug": seconds, "medicaldiffusion": theirs_seconds}
    text = (
        f"{CASES} phantoms of {' x '.join(map(str, SHAPE))} voxels, {minutes:g} minutes for each, {volumes} volumes sampled; "
        f"seconds really spent: {json.dumps(spent)}. "
        "medicaldiffusion has its published settings but for the batch of the "
        f"DDPM ({BATCH}), LPIPS (the error of pixel differences on the slice) and intensities and geometry of its volumes, "
        "which it has none of: they are given those of the first scan."
    )
    return {"text": text, "rows": rows, "figures": {"seconds": spent, "audits": found}}


def draw_side_by_side(folders: dict[str, Path], file: Path) -> None:
    """Draw the first volumes of each set, each scaled by its own percentiles: scanners' units differ.

    Args:
        folders: Datasets, by title.
        file: The PNG.
    """
    rows = {}
    for title, folder in folders.items():
        images = [sitk.ReadImage(str(path)) for path in sorted((folder / "imagesTr").glob("*.nii.gz"))[:SHOWN]]
        rows[title] = [_scaled(sitk.GetArrayFromImage(image).astype(np.float32)) for image in images]
    mosaic(rows, file, spacing=images[0].GetSpacing()[::-1], limits=(0.0, 1.0))


def _scaled(voxels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(voxels, (1, 99.5))
    return (voxels - low) / (high - low)


def run_ours(lengths: dict[str, dict[str, int]], volumes: int) -> tuple[GeneratorPlan, Path, dict[str, float]]:
    """Fit and sample with diffaug's own commands, after an edit of the plan.

    Args:
        lengths: What `calibrate` gave.
        volumes: How many to sample.

    Returns:
        The plan, the folder of volumes and the seconds of each fit.
    """
    workspace = Workspace(TASK)
    file = workspace.generator / "plan.json"
    task = f"--task {TASK} --device cpu"
    if not file.is_file():
        _diffaug(f"fit {task} --budget cpu-small --field-of-view whole --exclude none --plan-only")
        edited = asdict(resize_plan(GeneratorPlan.load(file)))
        write_json(file, {**edited, **{key: {**edited[key], **length} for key, length in lengths.items()}})
    plan = GeneratorPlan.load(file)
    _diffaug(f"fit {task} --budget cpu-small --field-of-view whole --exclude none")
    _diffaug(f"sample {task} --count {volumes}")
    lines = [json.loads(line) for line in (workspace.generator / "log.jsonl").read_text().splitlines()]
    # a resumed fit counts its seconds anew
    seconds = {line["fit"]: line["seconds"] for line in lines}
    return plan, workspace.synthetic / "imagesTr", seconds


def calibrate(folder: Path, seconds: float) -> dict[str, dict[str, int]]:
    """Choose as many steps as fit into the time, from those of the bare networks and a little for everything else.

    Args:
        folder: Where to; what is chosen is kept there.
        seconds: Of each training.

    Returns:
        What to change in the plan's trainings, by name.
    """
    file = folder / "lengths.json"
    if not file.is_file():
        lengths = {}
        for name, (objective, training) in assemble(folder, SHAPE, resize_plan).fits.items():
            draw = StepBatches(objective.example, steps=1, batch_size=training.batch_size, seed=0, rank=0, world_size=1)
            step, batch = bare_step(objective), draw[0]
            # the second half of the autoencoder's training has a discriminator
            halves = {"first": partial(step, batch, 0.0), "second": partial(step, batch, 0.9)}
            mean = np.mean([np.median(each) for each in interleaved(halves, 5).values()])
            steps = max(1, int(seconds / mean / OVERHEAD))
            lengths[f"{name}_training"] = {"steps": steps, "warmup_steps": min(training.warmup_steps, steps // 10)}
        write_json(file, lengths)
    return json.loads(file.read_text())


def run_theirs(
    library: SimpleNamespace, scans: list[Path], folder: Path, minutes: float, volumes: int
) -> tuple[Path, dict[str, float]]:
    """Train its VQ-GAN and DDPM, and write its samples as NIfTI.

    Args:
        library: What `load_medicaldiffusion` gave.
        scans: The training scans.
        folder: Where to.
        minutes: Wall time of training.
        volumes: How many to sample.

    Returns:
        The folder of volumes and the seconds of each training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    data = torch.from_numpy(np.stack([sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in scans]))[:, None]
    low, high = (getattr(data, which)((1, 2, 3, 4), keepdim=True) for which in ("amin", "amax"))
    data = (data - low) / (high - low) * 2 - 1  # its RescaleIntensity
    vqgan = make_vqgan(library, discriminator_start=1)
    vqgan.cfg.model.lr = LEARNING_RATE
    optimizers = vqgan.configure_optimizers()[0]
    seconds = {"autoencoder": _train_vqgan(vqgan, optimizers, data, folder / "vqgan.pt", 30 * minutes)}
    diffusion = make_diffusion(library, vqgan, tuple(n // 4 for n in SHAPE))
    with silenced():
        trainer = library.Trainer(
            diffusion,
            cfg=None,
            dataset=[{"data": volume} for volume in data],
            train_batch_size=BATCH,
            train_num_steps=0,
            gradient_accumulate_every=1,
            save_and_sample_every=10**9,
            results_folder=folder,
            num_workers=0,
        )

    def step(_: float) -> None:
        trainer.train_num_steps = trainer.step + 1
        trainer.train()

    kept = {"model": trainer.model, "ema": trainer.ema_model, "optimizer": trainer.opt}
    seconds["denoiser"] = _train_for(30 * minutes, step, kept, folder / "ddpm.pt", trainer)
    vqgan.codebook._need_init = False
    out = folder / "imagesTr"
    first = sitk.ReadImage(str(scans[0]))
    bottom, top = float(low[0]), float(high[0])
    for start in range(0, volumes, BATCH):
        names = [f"medicaldiffusion_{number:05d}_0000.nii.gz" for number in range(start, min(start + BATCH, volumes))]
        if all((out / name).is_file() for name in names):
            continue
        torch.manual_seed(start)
        with silenced():
            made = trainer.ema_model.eval().sample(batch_size=BATCH).clamp(-1, 1)
        for name, volume in zip(names, made[:, 0].numpy(), strict=False):
            image = sitk.GetImageFromArray((volume + 1) / 2 * (top - bottom) + bottom)
            image.CopyInformation(first)
            with atomic_path(out / name) as temporary:
                sitk.WriteImage(image, str(temporary), useCompression=True)
    return out, seconds


def _train_vqgan(vqgan: Any, optimizers: list[Any], data: torch.Tensor, file: Path, seconds: float) -> float:
    """Train as Lightning did: both optimisers in turn on each batch, gradients clipped at 1."""

    def step(done: float) -> None:
        vqgan.global_step = int(done >= CRITIC_START)  # all that its code asks of it is whether the critics count yet
        batch = {"data": data[torch.randint(len(data), (VQGAN_BATCH,))]}
        for number, optimizer in enumerate(optimizers):
            optimizer.zero_grad()
            vqgan.training_step(batch, 0, number).backward()
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

    kept = {"vqgan": vqgan, "coder": optimizers[0], "critics": optimizers[1]}
    if file.is_file():
        vqgan.codebook._need_init = False  # it forgets on resuming that its codes are set
    return _train_for(seconds, step, kept, file, SimpleNamespace(step=0))


def _train_for(seconds: float, step: Callable[[float], None], kept: dict[str, Any], file: Path, counter: Any) -> float:
    """Make steps until the time is over, saving now and then; a repeated run takes up the clock where it was."""
    spent = 0.0
    if file.is_file():
        state = torch.load(file, weights_only=True)
        spent, counter.step = state.pop("seconds"), state.pop("step")
        for name, content in state.items():
            kept[name].load_state_dict(content)
    saved = spent
    while spent < seconds:
        start = time.perf_counter()
        with silenced():
            step(spent / seconds)
        spent += time.perf_counter() - start
        if spent - saved > SAVE_EVERY or spent >= seconds:
            state = {name: thing.state_dict() for name, thing in kept.items()}
            with atomic_path(file) as temporary:
                torch.save({**state, "seconds": spent, "step": counter.step}, temporary)
            saved = spent
    return spent


def flatten(content: Any, path: str = "") -> dict[str, Any]:
    """List the numbers of nested dictionaries.

    Args:
        content: Dictionaries in dictionaries.
        path: Where it lies in a larger one.

    Returns:
        Numbers by path.
    """
    if isinstance(content, dict):
        parts = [flatten(value, f"{path} {key}".strip()) for key, value in content.items()]
        return {key: value for part in parts for key, value in part.items()}
    return {path: content} if isinstance(content, int | float | str) else {}


def _diffaug(command: str) -> None:
    print(f"$ diffaug {command}", flush=True)
    subprocess.run([sys.executable, "-m", "diffaug", *command.split()], check=True)
