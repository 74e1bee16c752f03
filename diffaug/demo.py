"""The verb `demo`: the README's own commands, run on phantoms, with a table of Dice at the end."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from diffaug.errors import DiffaugError
from diffaug.files import write_json

TASK = 501
NAME = "Dataset501_BreastPhantomB"
CONFIGURATION = "3d_cpu_small"
LABELLED, UNLABELLED, TEST = 6, 60, 8
SYNTHETIC = 40
DEMO_STEPS = {"autoencoder_training": 300, "denoiser_training": 400}
EPOCHS = 15  # the budget's own 50 would double the demo's minutes
ARMS = {"without pretraining": "nnUNetTrainerDiffAugScratch", "with pretraining": "nnUNetTrainerDiffAug"}


def demo(out: Path) -> None:
    """Run the whole road: phantoms, plans, generator, synthetic volumes, audit, encoder, two nnU-Nets, Dice.

    Args:
        out: Where everything goes; a second run goes on where the first one stopped.
    """
    out = out.resolve()
    raw, preprocessed, results = (out / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"))
    environment = {
        **os.environ,
        "nnUNet_raw": str(raw),
        "nnUNet_preprocessed": str(preprocessed),
        "nnUNet_results": str(results),
        # what a small CPU needs: no flood of workers, and threads that sleep while they wait
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    run = _Runner(out, environment)
    task = f"--task {TASK} --configuration {CONFIGURATION}"
    cases = f"--cases {LABELLED + UNLABELLED} --labelled {LABELLED} --test {TEST}"
    run("phantom", f"diffaug phantom --out {_q(raw)} --task {TASK} {cases} --site B")
    run("plan", f"diffaug plan --task {TASK} --budget cpu-small --epochs {EPOCHS}")
    run("preprocess", f"nnUNetv2_preprocess -d {TASK} -c {CONFIGURATION} -np 1")
    run("plan the generator", f"diffaug fit {task} --budget cpu-small --plan-only")
    _shorten(results / NAME / f"diffaug__nnUNetPlans__{CONFIGURATION}" / "generator" / "plan.json")
    run("fit", f"diffaug fit {task} --budget cpu-small")
    run("sample", f"diffaug sample {task} -n {SYNTHETIC}")
    run("audit", f"diffaug audit {task}")
    run("pretrain", f"diffaug pretrain {task} --budget cpu-small")
    environment["nnUNet_extTrainer"] = run.output("diffaug trainer-path")
    tests = raw / NAME / "imagesTs"
    scores = {}
    for arm, trainer in ARMS.items():
        predicted = out / "predictions" / trainer
        common = f"-d {TASK} -c {CONFIGURATION} -f 0 -tr {trainer} -device cpu -npp 1 -nps 1 --disable_tta"
        # --c: a killed demo goes on with the training, too
        run(f"train {arm}", f"nnUNetv2_train {TASK} {CONFIGURATION} 0 -tr {trainer} -device cpu --c")
        run(f"predict {arm}", f"nnUNetv2_predict -i {_q(tests)} -o {_q(predicted)} {common}")
        truth, model = raw / NAME / "labelsTs", results / NAME / f"{trainer}__nnUNetPlans__{CONFIGURATION}"
        files = f"-djfile {_q(model / 'dataset.json')} -pfile {_q(model / 'plans.json')}"
        run(f"evaluate {arm}", f"nnUNetv2_evaluate_folder {_q(truth)} {_q(predicted)} {files} -np 1")
        scores[arm] = _dice(predicted / "summary.json")
    _tell(out, results, scores, run.seconds)


def _shorten(plan: Path) -> None:
    """Edit the plan as a user would: the budget's own steps would take the demo beyond its minutes."""
    content = json.loads(plan.read_text())
    for fit, steps in DEMO_STEPS.items():
        content[fit]["steps"] = steps
    print(f"   edited {plan}: {', '.join(f'{fit} {steps} steps' for fit, steps in DEMO_STEPS.items())}")
    write_json(plan, content)


def _q(path: Path) -> str:
    return shlex.quote(str(path))


class _Runner:
    """Runs each command once: what is finished is remembered beside the logs."""

    def __init__(self, out: Path, environment: dict[str, str]) -> None:
        self.logs = out / "logs"
        self.environment = environment
        self.seconds: dict[str, float] = {}
        self.logs.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, command: str) -> None:
        log = self.logs / f"{name.replace(' ', '_')}.log"
        done = log.with_suffix(".json")
        if done.is_file():
            self.seconds[name] = json.loads(done.read_text())["seconds"]
            print(f"\n== {name}: finished before", flush=True)
            return
        print(f"\n== {name}\n$ {command}", flush=True)
        started = time.monotonic()
        with log.open("w") as file:
            code = subprocess.run(shlex.split(command), env=self.environment, stdout=file, stderr=file).returncode
        if code:
            last = (log.read_text().strip().splitlines() or ["no output"])[-1]
            raise DiffaugError(f"demo: '{command}' ended with exit code {code} ({last}); look at {log}, then run again")
        self.seconds[name] = time.monotonic() - started
        write_json(done, {"command": command, "seconds": self.seconds[name]})
        print(f"   {self.seconds[name]:.0f} s", flush=True)

    def output(self, command: str) -> str:
        made = subprocess.run(shlex.split(command), env=self.environment, stdout=subprocess.PIPE, text=True, check=True)
        return made.stdout.strip()


def _dice(summary: Path) -> dict[str, float]:
    cases = json.loads(summary.read_text())["metric_per_case"]
    return {Path(case["prediction_file"]).name.split(".")[0]: case["metrics"]["1"]["Dice"] for case in cases}


def _tell(out: Path, results: Path, scores: dict[str, dict[str, float]], seconds: dict[str, float]) -> None:
    table = pd.DataFrame(scores).rename_axis("test case")
    gain = table["with pretraining"] - table["without pretraining"]
    run_folder = results / NAME / f"diffaug__nnUNetPlans__{CONFIGURATION}"
    write_json(out / "dice.json", {"dice": scores, "seconds": seconds})
    print(f"\nDice on {TEST} held-out phantoms, {LABELLED} labelled, {UNLABELLED} unlabelled")
    print(table.round(3).to_string())
    print(table.mean().round(4).to_frame("mean").T.to_string())
    low, high = _interval(gain.to_numpy())
    print(f"difference of the means {gain.mean():+.4f}, 95 % interval over test cases {low:+.4f} to {high:+.4f}")
    print("one seed, minutes of training: this shows that the road is whole; benchmarks/ shows what it is worth")
    for text, path in (
        ("audit report", run_folder / "audit" / "report.html"),
        ("synthetic volumes", run_folder / "synthetic" / "montage.png"),
        ("generator", run_folder / "generator"),
        ("encoder file", run_folder / "encoder" / "encoder.pt"),
        ("predictions", out / "predictions"),
        ("logs", out / "logs"),
    ):
        print(f"{text:>18}: {path}")
    print(f"{'total':>18}: {sum(seconds.values()) / 60:.1f} minutes", flush=True)


def _interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(np.asarray(values), (2000, len(values)))
    low, high = np.percentile(draws.mean(1), (2.5, 97.5))
    return float(low), float(high)
