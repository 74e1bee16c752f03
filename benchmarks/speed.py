"""Speed of diffaug against medicaldiffusion and MONAI at equal latent, parameters and threads; ratios within one run.

    python -m benchmarks.speed --medicaldiffusion PATH
    python -m benchmarks.speed --medicaldiffusion PATH --quality 30

PATH is a checkout of github.com/FirasGit/medicaldiffusion, whose code runs unmodified; its package is not part of this
repository. Without it only MONAI is compared. Everything is timed in turn, A B C A B C, so that a busy machine falls on all
alike, but figures to publish come from a quiet one. The second form trains both for equal wall time and audits both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.assembled import assemble
from benchmarks.contenders import BATCH, PARAMETERS, SHAPE, MedicalDiffusion, Monai, Ours
from benchmarks.equal_time import VOLUMES, compare_quality
from benchmarks.measuring import interleaved, machine, ratio, times, write_report
from benchmarks.medicaldiffusion_shims import load_medicaldiffusion
from benchmarks.quantise_memory import LATENT
from benchmarks.step_profile import PARTS, Profile, bare_step, flops, peaks, profile_fit, variants
from diffaug.budgets import Training
from diffaug.training.batches import StepBatches

PART = 30  # steps timed of samplers with hundreds of equal ones; the whole of them is timed once, too
HIPPOCAMPUS = (36, 50, 35)  # voxels of a typical crop of the Decathlon's task
Section = dict[str, Any]


def measure_sampling(ours: Ours, theirs: MedicalDiffusion | None, monai: Monai, rounds: int) -> Section:
    """Time sampling to the decoded volume.

    Args:
        ours: diffaug.
        theirs: medicaldiffusion, if there is a checkout.
        monai: MONAI.
        rounds: How often.

    Returns:
        A section of the report.
    """
    rows, figures = [], {}
    for count in (1, BATCH):
        runs: dict[str, Callable[[], object]] = {"diffaug": partial(ours.sample, count)}
        long: dict[str, tuple[Callable[[int], object], Callable[[], object], Sequence[int]]] = {}
        if theirs is not None:
            long["medicaldiffusion DDPM"] = partial(theirs.sample, count), partial(theirs.decode, count), [theirs.steps]
        long["MONAI DDPM"] = partial(monai.sample, count, "DDPM"), partial(monai.decode, count), [300, 1000]
        for name, (some, decode, _) in long.items():
            runs[f"{name}, {PART} steps"] = partial(some, PART)
            runs[f"{name}, decoding"] = decode
        runs["MONAI DDIM, 50 steps"] = partial(monai.sample, count, "DDIM", 50)
        runs["MONAI RFlow, 30 steps"] = partial(monai.sample, count, "RFlow", 30)
        seconds = interleaved(runs, rounds)
        shown = {f"diffaug {ours.sampler}, {ours.steps} steps": seconds["diffaug"]}
        once = {}
        for name, (some, _, lengths) in long.items():
            some_steps, decoding = seconds[f"{name}, {PART} steps"], seconds[f"{name}, decoding"]
            for steps in lengths:
                whole = [d + (s - d) * steps / PART for s, d in zip(some_steps, decoding, strict=True)]
                shown[f"{name}, {steps} steps"] = whole
            full = time_once(partial(some, lengths[0]))
            once[f"{name}, {lengths[0]} steps"] = full
        shown |= {name: seconds[name] for name in ("MONAI DDIM, 50 steps", "MONAI RFlow, 30 steps")}
        for name, values in shown.items():
            rows.append(
                {
                    "sampler": name,
                    "batch": count,
                    "s per volume": statistics.median(values) / count,
                    "timed whole, once": once[name] / count if name in once else "",
                    "slower than diffaug": times(ratio(values, seconds["diffaug"])),
                }
            )
        figures[f"batch {count}"] = {"seconds": seconds, "whole": once}
    text = (
        f"Seconds per sampled volume of {' x '.join(map(str, SHAPE))} voxels, decoding included: median of the rounds, and "
        f"the rounds' ratios (smallest to largest). Samplers of hundreds of equal steps are timed on {PART} of them, "
        "multiplied, and decoding added; the column beside it is one whole run."
    )
    return {"text": text, "rows": rows, "figures": figures}


def time_once(run: Callable[[], object]) -> float:
    """Time one run that was warmed up before.

    Args:
        run: What to time.

    Returns:
        Seconds.
    """
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure_training(
    ours: Ours, theirs: MedicalDiffusion | None, monai: Monai, steps: int, rounds: int, folder: Path
) -> Section:
    """Time training steps of the diffusion model; the others' run between ours.

    Args:
        ours: diffaug.
        theirs: medicaldiffusion, if there is a checkout.
        monai: MONAI.
        steps: How many of ours.
        rounds: How many parts of the run are compared on their own.
        folder: For the fit's files.

    Returns:
        A section of the report.
    """
    beside = {"MONAI": lambda *_: monai.train_step(), "bare network": bare_step(ours.objective)}
    if theirs is not None:
        beside["medicaldiffusion"] = lambda *_: theirs.train_step()
    profiles = []
    for number in range(rounds):
        training = replace(ours.training, steps=steps // rounds, batch_size=BATCH)
        place = folder / f"round_{number}"
        place.mkdir()
        profiles.append(profile_fit(ours.objective, training, place, beside, every=10, whole=ours.training.steps))
    mine = [profile.step for profile in profiles]
    values = {"diffaug": mine} | {
        name: [statistics.median(profile.beside[name]) for profile in profiles] for name in beside
    }
    rows = [
        {"step": name, "s per step": statistics.median(each), "slower than diffaug": times(ratio(each, mine))}
        for name, each in values.items()
    ]
    text = (
        f"One training step of the diffusion model with {BATCH} volumes. diffaug: `training.loop.train`, {steps} steps in "
        f"{rounds} fits, divided by their number: latents from memory, EMA, logging, validation, previews and checkpoints "
        f"included, as often as in the budget's {ours.training.steps} steps. medicaldiffusion: its `Trainer`, encoding and "
        "EMA included, samples and checkpoints left out. MONAI: as its tutorial, encoding included. The bare network is "
        "diffaug's forward, loss, backward and optimiser."
    )
    return {"text": text, "rows": rows, "figures": {"profiles": [asdict(profile) for profile in profiles]}}


def measure_memory(checkout: Path | None, rounds: int, threads: int) -> Section:
    """Measure peak memory of one quantisation, each in a process of its own.

    Args:
        checkout: Of medicaldiffusion, if there is one.
        rounds: How often.
        threads: How many.

    Returns:
        A section of the report.
    """
    commands = {"diffaug": ["diffaug"]}
    if checkout is not None:
        commands["medicaldiffusion"] = ["medicaldiffusion", "--medicaldiffusion", str(checkout)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, options in commands.items():
            command = [sys.executable, "-m", "benchmarks.quantise_memory", *options, "--threads", str(threads)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name].append(json.loads(answer.splitlines()[-1]))
    rows = []
    for name, each in found.items():
        size, seconds = ([values[key] for values in each] for key in ("bytes", "seconds"))
        mine = [values["bytes"] for values in found["diffaug"]]
        rows.append(
            {
                "codebook": name,
                "peak MiB": statistics.median(size) / 2**20,
                "seconds": statistics.median(seconds),
                "of diffaug's memory": times(ratio(size, mine)),
            }
        )
    positions = int(np.prod(LATENT[2:]))
    text = (
        f"Peak memory above the start of one quantisation, {positions:,} positions of 8 channels against 16,384 codes, "
        "without gradients, in fresh processes."
    )
    return {"text": text, "rows": rows, "figures": found}


def measure_fitting(objectives: dict[str, tuple[Any, Training]], steps: int | None, folder: Path) -> Section:
    """Tell where the time of a step goes, and what fitting costs above the bare network.

    Args:
        objectives: Objective and training, by name.
        steps: How many; None for the budget's own number.
        folder: For the fits' files.

    Returns:
        A section of the report.
    """
    profiles: dict[str, Profile] = {}
    for name, (objective, training) in objectives.items():
        part = replace(training, steps=steps or training.steps)
        (folder / name).mkdir()
        bare = {"bare network": bare_step(objective)}
        profiles[name] = profile_fit(objective, part, folder / name, bare, whole=training.steps)
    rows = [_part_row(part, lambda p, part=part: p.parts[part] / p.steps, profiles) for part in PARTS]
    rows.append(_part_row("the rest", lambda p: p.step - sum(p.parts.values()) / p.steps, profiles))
    rows.append(_part_row("all", lambda p: p.step, profiles))
    rows.append(
        _part_row("bare network, run in between", lambda p: statistics.fmean(p.beside["bare network"]), profiles)
    )
    done = ", ".join(f"{name} {profile.steps}" for name, profile in profiles.items())
    over = ", ".join(f"{name} {profile.overhead:.1%}" for name, profile in profiles.items())
    text = (
        f"Where the time of a step goes: fits of the budget cpu-small on phantoms of {' x '.join(map(str, HIPPOCAMPUS))} "
        f"voxels ({done} steps), milliseconds per step and share. What is not network (neither forward, loss, backward nor "
        f"optimiser): {over}. Steps of the bare network run between the fit's, on the same batches."
    )
    return {"text": text, "rows": rows, "figures": {name: asdict(profile) for name, profile in profiles.items()}}


def _part_row(part: str, seconds: Callable[[Profile], float], profiles: dict[str, Profile]) -> dict[str, Any]:
    row: dict[str, Any] = {"part": part}
    for name, profile in profiles.items():
        row[f"{name}, ms"] = f"{1e3 * seconds(profile):.2f}"
        row[f"{name}, share"] = f"{seconds(profile) / profile.step:.1%}"
    return row


def measure_arithmetic(steps: dict[str, tuple[Any, Training]], rounds: int, *, compiled: bool) -> Section:
    """Compare the bare step's arithmetic with the machine's best, in every way torch offers.

    Args:
        steps: Objective and training, by name.
        rounds: How often.
        compiled: Whether to try `torch.compile`.

    Returns:
        A section of the report.
    """
    best = peaks(5 * rounds)
    rows, figures = [], {"peaks": best}
    for name, (objective, training) in steps.items():
        draw = StepBatches(objective.example, steps=1, batch_size=training.batch_size, seed=0, rank=0, world_size=1)
        ways = variants(objective, draw[0], compiled=compiled)
        work = flops(ways["float32"])
        seconds = interleaved(ways, 5 * rounds)
        figures[name] = {"flops": work, "seconds": seconds}
        for way, each in seconds.items():
            rate = work / statistics.median(each) / 1e9
            peak = best["bfloat16 3D convolution" if "bfloat16" in way else "float32 3D convolution"]
            rows.append(
                {
                    "step": f"{name}, {way}",
                    "GFLOP": work / 1e9,
                    "ms": 1e3 * statistics.median(each),
                    "GFLOP/s": rate,
                    "of the convolution peak": f"{rate / peak:.0%}",
                    "faster than float32": times(ratio(seconds["float32"], each)),
                }
            )
    text = "Peaks of this machine, GFLOP/s: " + ", ".join(f"{name} {value:.0f}" for name, value in best.items()) + "."
    return {"text": text, "rows": rows, "figures": figures}


def _command(arguments: argparse.Namespace) -> str:
    """Write the command line again, without this machine's paths."""
    told = {key: value for key, value in vars(arguments).items() if value is not None and key not in ("out", "work")}
    told["medicaldiffusion"] = "PATH" if arguments.medicaldiffusion else False
    told["parts"] = " ".join(arguments.parts) if arguments.quality is None else False
    told["volumes"] = arguments.volumes if arguments.quality is not None else False
    words = [f"--{key}" if value is True else f"--{key} {value}" for key, value in told.items() if value is not False]
    return " ".join(["python -m benchmarks.speed", *words])


def main() -> None:
    """Measure what the command line asks for and write the report."""
    parts = ("sampling", "training", "memory", "fitting", "arithmetic")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--medicaldiffusion", type=Path, metavar="PATH", help="checkout of FirasGit/medicaldiffusion")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, help="training steps timed (300; for fitting the budget's own, else as many)"
    )
    parser.add_argument("--compile", action="store_true", help="try torch.compile too (minutes)")
    parser.add_argument("--quality", type=float, metavar="MINUTES", help="train both so long and audit both instead")
    parser.add_argument("--volumes", type=int, default=VOLUMES, help="sampled for --quality (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("speed_work"), help="folder of --quality (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speed.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    checkout = arguments.medicaldiffusion
    library = load_medicaldiffusion(checkout) if checkout else None
    about = {"command": f"`{_command(arguments)}`", **machine()}
    if library is not None:
        about["replaced for medicaldiffusion"] = ", ".join([*library.substituted, "LPIPS"])
    if arguments.quality is not None:
        if library is None:
            parser.error("--quality needs --medicaldiffusion")
        section = compare_quality(
            library, arguments.work, arguments.quality, arguments.threads, volumes=arguments.volumes
        )
        write_report(arguments.out, "Quality for equal wall time", about, {"Audit": section})
        return
    sections: dict[str, Section] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if {"sampling", "training"} & set(arguments.parts):
            ours, monai = Ours(folder / "ours"), Monai()
            theirs = MedicalDiffusion(library, folder / "medicaldiffusion") if library else None
            about["parameters"] = ", ".join(
                f"{each.name} {each.denoiser_parameters:,} and {each.autoencoder_parameters:,}"
                for each in (ours, theirs, monai)
                if each
            )
            about["parameters"] += f" (diffusion model, wanted {PARAMETERS:,} ± 5 %; autoencoder)"
        if "sampling" in arguments.parts:
            sections["Sampling"] = measure_sampling(ours, theirs, monai, arguments.rounds)
            write_report(arguments.out, "Speed", about, sections)
        if "training" in arguments.parts:
            place = folder / "training"
            place.mkdir()
            steps = arguments.steps or 300
            sections["Training"] = measure_training(ours, theirs, monai, steps, arguments.rounds, place)
            write_report(arguments.out, "Speed", about, sections)
        if "memory" in arguments.parts:
            sections["Memory"] = measure_memory(checkout, arguments.rounds, arguments.threads)
            write_report(arguments.out, "Speed", about, sections)
        if {"fitting", "arithmetic"} & set(arguments.parts):
            objectives = assemble(folder / "small", HIPPOCAMPUS).fits
        if "fitting" in arguments.parts:
            sections["Fitting"] = measure_fitting(objectives, arguments.steps, folder)
            write_report(arguments.out, "Speed", about, sections)
        if "arithmetic" in arguments.parts:
            sections["Arithmetic"] = measure_arithmetic(objectives, arguments.rounds, compiled=arguments.compile)
            write_report(arguments.out, "Speed", about, sections)
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
