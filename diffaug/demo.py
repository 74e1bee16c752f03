"""The verb `demo`: two hospitals, the README's own commands on phantoms, and one page at the end."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from diffaug import demo_page
from diffaug.errors import DiffaugError
from diffaug.files import read_json, write_json

SHIPPED = Path(__file__).parent / "phantom" / "hospital_a.safetensors"  # how it was made: hospital_a.md beside it
SHAPE = "16 24 32"
SCANS_OF_A, UNSEEN_SCANS, LABELLED, TEST = 300, 60, 10, 20
SYNTHETIC = 200
READ = 3  # scans, and as many samples, that the reader of the page may try to tell apart
# as long as twelve minutes allow; what more is worth is measured in benchmarks/scarce_labels.py
PRETEXT_STEPS = 1000
EPOCHS, ITERATIONS = 50, 12
RATE = 3e-3  # what the small transformer learns most at, from scratch and pretrained (docs/notebook/scarce_labels.md)
CONFIGURATION = "3d_cpu_small_PrimusS"
ARMS = {"without pretraining": "nnUNetTrainerDiffAugPrimusSScratch", "with pretraining": "nnUNetTrainerDiffAugPrimusS"}
# who is who; number and name are nnU-Net's
HOSPITAL_B, NAME = 501, "Dataset501_BreastPhantomB"
HOSPITAL_A = 502
UNSEEN_OF_A, NAME_OTHERS = 503, "Dataset503_BreastPhantomA"


def demo(out: Path, *, seed: int = 0, fit: bool = False) -> None:
    """Run the whole road: hospital A's generator, hospital B's ten labelled scans, audit, encoder, two nnU-Nets, Dice.

    Args:
        out: Where everything goes; a second run goes on where the first one stopped.
        seed: Of hospital B's phantoms and of the generator's volumes.
        fit: Whether hospital A's generator is fitted here, half an hour more, in place of the one that is shipped.

    Raises:
        DiffaugError: If a command fails, or the folder holds a demo of other options.
    """
    out = out.resolve()
    _require_same(out / "demo.json", {"seed": seed, "fit": fit})
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
    generator = _hospital_a(run, out, raw) if fit else SHIPPED
    task, size = f"--task {HOSPITAL_B} --configuration {CONFIGURATION}", f"--shape {SHAPE}"
    cases = f"--cases {LABELLED} --test {TEST} --site B --seed {seed}"
    run("phantoms of B", f"diffaug phantom --out {_q(raw)} --task {HOSPITAL_B} {cases} {size}")
    run("plan", f"diffaug plan --task {HOSPITAL_B} --budget cpu-small --network PrimusS --epochs {EPOCHS}")
    _set_rate(preprocessed / NAME / "nnUNetPlans.json")
    run("preprocess", f"nnUNetv2_preprocess -d {HOSPITAL_B} -c {CONFIGURATION} -np 1")
    run("sample", f"diffaug sample {task} --generator {_q(generator)} -n {SYNTHETIC} --seed {seed}")
    synthetic = results / NAME / f"diffaug__nnUNetPlans__{CONFIGURATION}" / "synthetic"
    others = f"--cases {UNSEEN_SCANS} --labelled 0 --site A --seed 1"
    run("other phantoms of A", f"diffaug phantom --out {_q(raw)} --task {UNSEEN_OF_A} {others} {size}")
    real = raw / NAME_OTHERS / "imagesUn"
    run("audit", f"diffaug audit --real {_q(real)} --synthetic {_q(synthetic / 'imagesTr')} --out {_q(out / 'audit')}")
    sides = f"--real {_q(real)} --synthetic {_q(synthetic / 'imagesTr')} --real-count {READ} --synthetic-count {READ}"
    run("reader study", f"diffaug reader-study make {sides} --out {_q(out / 'reader_study')}")
    run("pretrain", f"diffaug pretrain {task} --network PrimusS --budget cpu-small --pretext-steps {PRETEXT_STEPS}")
    environment["nnUNet_extTrainer"] = run.output("diffaug trainer-path")
    for arm, trainer in ARMS.items():
        _arm(run, arm, trainer, out, raw, results)
    page = demo_page.write(
        out,
        demo_page.Shown(
            scans=real,
            synthetic=synthetic / "imagesTr",
            audit=out / "audit",
            study=out / "reader_study" / "index.html",
            tests=raw / NAME / "imagesTs",
            truth=raw / NAME / "labelsTs",
            predictions={arm: out / "predictions" / trainer for arm, trainer in ARMS.items()},
            seconds=run.seconds,
        ),
    )
    print(f"{'total':>18}: {sum(run.seconds.values()) / 60:.1f} minutes\n{'page':>18}: {page}", flush=True)


def _require_same(file: Path, options: dict[str, int]) -> None:
    """A demo goes on only as it was begun: what other options have made would be shown as its own."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, options)
    begun = read_json(file, "delete the folder, or give another --out")
    if begun != options:
        before, now = (" ".join(f"{k}={v}" for k, v in some.items()) for some in (begun, options))
        raise DiffaugError(f"{file.parent}: holds a demo of {before}, expected one of {now}; give another --out")


def _hospital_a(run: _Runner, out: Path, raw: Path) -> Path:
    """Fit, audit and export a generator where its scans are."""
    task, file = f"--task {HOSPITAL_A}", out / "hospital_a.safetensors"
    cases = f"--cases {SCANS_OF_A} --labelled 0 --site A --seed 0 --shape {SHAPE}"
    run("phantoms of A", f"diffaug phantom --out {_q(raw)} --task {HOSPITAL_A} {cases}")
    run("fit at A", f"diffaug fit {task} --budget cpu-small --exclude none")
    run("sample at A", f"diffaug sample {task} -n {SYNTHETIC}")
    run("audit at A", f"diffaug audit {task}")
    told = "--origin '300 breast MRI phantoms of site A, seed 0' --licence 'Apache-2.0'"
    run("export", f"diffaug export {task} --generator {_q(file)} {told}")
    return file


def _set_rate(plans: Path) -> None:
    """Edit the plan as a user would: length of an epoch and learning rate."""
    content = json.loads(plans.read_text())
    block = {"iterations_per_epoch": ITERATIONS, "initial_lr": RATE}
    content["configurations"][CONFIGURATION]["diffaug"].update(block)
    print(f"   edited {plans}: {', '.join(f'{key} {value}' for key, value in block.items())}")
    write_json(plans, content)


def _arm(run: _Runner, arm: str, trainer: str, out: Path, raw: Path, results: Path) -> None:
    """Train on all labelled scans, predict the test scans, evaluate: nnU-Net's own three commands."""
    tests, truth, predicted = raw / NAME / "imagesTs", raw / NAME / "labelsTs", out / "predictions" / trainer
    common = f"-d {HOSPITAL_B} -c {CONFIGURATION} -f all -tr {trainer} -device cpu -npp 1 -nps 1 --disable_tta"
    # --c: a killed demo goes on with the training, too
    run(f"train {arm}", f"nnUNetv2_train {HOSPITAL_B} {CONFIGURATION} all -tr {trainer} -device cpu --c")
    run(f"predict {arm}", f"nnUNetv2_predict -i {_q(tests)} -o {_q(predicted)} {common}")
    model = results / NAME / f"{trainer}__nnUNetPlans__{CONFIGURATION}"
    files = f"-djfile {_q(model / 'dataset.json')} -pfile {_q(model / 'plans.json')}"
    run(f"evaluate {arm}", f"nnUNetv2_evaluate_folder {_q(truth)} {_q(predicted)} {files} -np 1")


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
