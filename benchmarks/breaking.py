"""Work that is killed, or finds the disk full, must end with the unbroken run's result once the same command is run again.

    python -m benchmarks.breaking --work FOLDER --kills 100 --full 100

The whole road on eight tiny phantoms: fit, sample, audit, pretrain, and a training by nnU-Net. Each verb is run unbroken;
then again and again from where it began: killed by `kill -9` at a random moment (`--kills`, dealt out over the verbs), or
with the disk full at one of its writes (`--full`, dealt out over diffaug's own verbs; all writes where they are fewer), and
run once more. Results are compared bit for bit, but for nnU-Net's training, which draws no augmentation twice: that must end
with all its epochs. Verbs run in forked processes, so that torch is imported once; a killed one takes its processes along.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TASK = "970"
CASES = 24
TINY = {
    "autoencoder_training": {"steps": 12, "warmup_steps": 2, "batch_size": 2},
    "refiner_training": {"steps": 8, "warmup_steps": 2, "batch_size": 2},
    "denoiser_training": {"steps": 20, "warmup_steps": 2, "batch_size": 2},
}
OWN = ("fit", "sample", "audit", "pretrain")
EPOCHS = 5


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code (negative for a signal), what it printed, seconds, and how often it wrote a file."""

    code: int
    said: str
    seconds: float
    writes: int


class Road:
    """The folders of the tiny task, and its verbs."""

    def __init__(self, work: Path) -> None:
        self.work = work
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (work / name).mkdir(parents=True, exist_ok=True)
            os.environ[name] = str(work / name)
        few = {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "TQDM_DISABLE": "1"}
        os.environ.update(few)
        from nnunet_plugin.trainer_path import trainer_path

        os.environ.update(nnUNet_extTrainer=str(trainer_path()))
        self.results = work / "nnUNet_results"

    @property
    def run(self) -> Path:
        """The task's run folder of the tiny configuration."""
        return next(self.results.glob(f"Dataset{TASK}_*/diffaug__nnUNetPlans__3d_cpu_small"))

    def prepare(self) -> None:
        """Write phantoms, have nnU-Net plan and preprocess them, plan the generator and shorten everything."""
        from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

        from diffaug.cli import main

        cases = ["--cases", str(CASES), "--labelled", "6", "--shape", "12", "16", "16"]
        _require(main(["phantom", "--out", str(self.work / "nnUNet_raw"), "--task", TASK, *cases]))
        os.environ.update(nnUNet_n_proc_DA="1")  # nnU-Net's planner takes none for a number of threads
        _require(main(["plan", "--task", TASK, "--budget", "cpu-small", "--epochs", str(EPOCHS)]))
        preprocess_dataset(int(TASK), "nnUNetPlans", configurations=("3d_cpu_small",), num_processes=(1,))
        os.environ.update(nnUNet_n_proc_DA="0")
        plans = next((self.work / "nnUNet_preprocessed").glob("*/nnUNetPlans.json"))
        content = json.loads(plans.read_text())
        block = content["configurations"]["3d_cpu_small"]["diffaug"]
        block |= {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1}
        plans.write_text(json.dumps(content))
        _require(main([*self.command("fit"), "--plan-only"]))
        plan = self.run / "generator" / "plan.json"
        content = json.loads(plan.read_text())
        for key, few in TINY.items():
            content[key] |= few
        content["views"] = 2
        content["denoiser"]["channels"] = [8, 8]
        content["refiner"] = {"width": 8, "blocks": 1}
        content["autoencoder"]["channels"] = [8] * len(content["autoencoder"]["strides"])
        plan.write_text(json.dumps(content))

    def command(self, verb: str) -> list[str]:
        """Write diffaug's command of a verb."""
        options = {
            "fit": ["--budget", "cpu-small", "--exclude", "none"],
            "sample": ["-n", "12", "--steps", "3"],
            "pretrain": ["--budget", "cpu-small", "--pretext-steps", "12", "--exclude", "none"],
        }
        return [verb, "--task", TASK, "--configuration", "3d_cpu_small", *options.get(verb, [])]

    def do(self, verb: str) -> int:
        """Run a verb in this process."""
        from diffaug.cli import main

        if verb != "train":
            return main(self.command(verb))
        from nnunetv2.run.run_training import run_training

        trained = self.results / self.run.parent.name / "nnUNetTrainerDiffAug__nnUNetPlans__3d_cpu_small" / "fold_all"
        run_training(
            TASK,
            "3d_cpu_small",
            "all",
            trainer_class_name="nnUNetTrainerDiffAug",
            continue_training=trained.is_dir(),
            device=_cpu(),
        )
        return 0

    def digest(self, verb: str) -> str:
        """Hash what a verb leaves behind."""
        import torch

        folder, digest = self.run, hashlib.sha256()
        if verb == "fit":
            digest.update((folder / "generator" / "generator.safetensors").read_bytes())
        elif verb == "sample":
            for file in sorted((folder / "synthetic" / "imagesTr").iterdir()):
                digest.update(file.name.encode() + file.read_bytes())
        elif verb == "audit":
            told = json.loads((folder / "audit" / "manifest.json").read_text())
            digest.update(json.dumps(_without_times(told), sort_keys=True).encode())
            digest.update((folder / "audit" / "copies.csv").read_bytes())
        elif verb == "pretrain":
            weights = torch.load(folder / "encoder" / "encoder.pt", weights_only=True)["network_weights"]
            for name in sorted(weights):
                digest.update(name.encode() + weights[name].numpy().tobytes())
        else:
            file = next(self.results.rglob("checkpoint_final.pth"))
            digest.update(str(torch.load(file, weights_only=False)["current_epoch"]).encode())
        return digest.hexdigest()[:16]


def _cpu() -> object:
    import torch

    return torch.device("cpu")


def _require(code: int) -> None:
    if code:
        sys.exit("the tiny task could not be prepared")


def _without_times(content: object) -> object:
    if isinstance(content, dict):
        return {key: _without_times(value) for key, value in content.items() if "seconds" not in key and key != "date"}
    return [_without_times(value) for value in content] if isinstance(content, list) else content


@contextmanager
def _full_at(number: int | None, count: list[int]) -> Iterator[None]:
    """Fail the file that is the `number`-th to be written, as a full disk does; every file is synced before it counts."""
    sync = os.fsync

    def fails(descriptor: int) -> None:
        count[0] += 1
        if count[0] == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    os.fsync = fails
    try:
        yield
    finally:
        os.fsync = sync


def forked(work: Callable[[], int], folder: Path, *, kill_after: float = 0, full_at: int | None = None) -> Outcome:
    """Run something in a process of its own.

    Args:
        work: What; gives an exit code.
        folder: Where its output goes.
        kill_after: Seconds until it is killed; 0 for never.
        full_at: Which of its writes finds the disk full.

    Returns:
        How it ended.
    """
    output, counted = folder / "output.txt", folder / "writes.txt"
    counted.unlink(missing_ok=True)
    begun = time.monotonic()
    if not (child := os.fork()):
        os.setsid()
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code, count = 1, [0]
        try:
            import torch

            torch.set_num_threads(1)
            with _full_at(full_at, count):
                code = work()
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        counted.write_text(str(count[0]))
        os._exit(code)
    status = 0
    while time.monotonic() - begun < (kill_after or 3600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.005)
    else:
        os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - begun
    writes = int(counted.read_text()) if counted.is_file() else 0
    return Outcome(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"), seconds, writes)


def main() -> int:
    """Break the road in as many places as the command line wants, and write the table.

    Returns:
        0 if everything came out as it must.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    parser.add_argument("--kills", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--full", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--out", type=Path, help="the table; benchmarks/results/breaking.md is one")
    arguments = parser.parse_args()
    road = Road(arguments.work.resolve())
    from benchmarks.measuring import table
    from diffaug.audit import apartness, fit_feature_space

    apartness.CLASSIFIER_STEPS, fit_feature_space.FEATURE_STEPS["cpu"] = 6, 6
    # what every process would import for itself, once: time that is better spent on what can break
    from nnunetv2.run import run_training  # noqa: F401

    from diffaug import verbs  # noqa: F401
    from diffaug.stages import pipeline  # noqa: F401

    outcome = forked(lambda: (road.prepare(), 0)[1], road.work)
    if outcome.code:
        print(outcome.said)
        return 1
    rows = list(broken(road, arguments.kills, arguments.full, random.Random(arguments.seed)))
    text = table(rows)
    print(text)
    if arguments.out:
        arguments.out.write_text(f"# Breaking\n\n```\n{__doc__}```\n\n{text}\n")
    return int(any(row["as it must be"] != row["broken"] for row in rows))


def broken(road: Road, kills: int, full: int, rng: random.Random) -> Iterator[dict[str, object]]:
    """Break each verb, and tell how it came out.

    Args:
        road: The task, prepared.
        kills: How many times by a signal, over all verbs.
        full: How many times by a full disk, over diffaug's own verbs.
        rng: Of the moments.

    Yields:
        A row of the table for each verb and way.
    """
    verbs = (*OWN, "train")
    for place, verb in enumerate(verbs):
        before = road.work / f"before_{verb}"
        shutil.copytree(road.results, before)
        unbroken = forked(lambda verb=verb: road.do(verb), road.work)  # type: ignore[misc]
        if unbroken.code:
            sys.exit(f"{verb} does not run:\n{unbroken.said[-3000:]}")
        wanted, after = road.digest(verb), road.work / f"after_{verb}"
        road.results.rename(after)

        def again(verb: str = verb, before: Path = before, wanted: str = wanted, **how: object) -> tuple[Outcome, str]:
            shutil.rmtree(road.results, ignore_errors=True)
            shutil.copytree(before, road.results)
            first = forked(lambda: road.do(verb), road.work, **how)  # type: ignore[arg-type]
            second = forked(lambda: road.do(verb), road.work)
            if second.code:
                return first, f"does not go on: {second.said[-500:]}"
            return first, "" if road.digest(verb) == wanted else "another result"

        share = kills // len(verbs) + (place < kills % len(verbs))
        told = []
        for _ in range(share):
            first, fault = again(kill_after=rng.uniform(0.02, unbroken.seconds))
            told.append(
                fault or ("" if first.code in (0, -signal.SIGKILL) else f"ended with {first.code}: {first.said[-500:]}")
            )
        if share:
            yield _row(verb, "kill -9", unbroken, told)
        if verb in OWN and full:
            writes = range(1, unbroken.writes + 1)
            chosen = sorted(rng.sample(writes, min(len(writes), full // len(OWN))))
            told = []
            for number in chosen:
                first, fault = again(full_at=number)
                lines = [line for line in first.said.splitlines() if line.startswith("diffaug: ")]
                one_line = (
                    first.code == 2 and len(lines) == 1 and "disk is full" in lines[0] and "Traceback" not in first.said
                )
                told.append(
                    fault or ("" if one_line else f"write {number} ended with {first.code}: {first.said[-500:]}")
                )
            yield _row(verb, f"disk full at {len(chosen)} of {unbroken.writes} writes", unbroken, told)
        shutil.rmtree(road.results, ignore_errors=True)
        after.rename(road.results)


def _row(verb: str, how: str, unbroken: Outcome, told: list[str]) -> dict[str, object]:
    for fault in filter(None, told):
        print(f"{verb}, {how}: {fault}", flush=True)
    print(f"{verb}, {how}: {told.count('')} of {len(told)} as it must be", flush=True)
    return {
        "verb": verb,
        "how": how,
        "unbroken, s": f"{unbroken.seconds:.1f}",
        "broken": len(told),
        "as it must be": told.count(""),
    }


if __name__ == "__main__":
    sys.exit(main())
