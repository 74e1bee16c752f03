"""Files from elsewhere, spoilt in many ways: verbs end well or in one line, run none of their code, write nowhere else."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from planned import blob_plans
from strangers import spoil_bytes, spoil_json, spoil_safetensors, spoil_torch

from blobs import LABELLED, UNLABELLED, Task
from diffaug.cli import main
from diffaug.files import write_json
from diffaug.generator.model import Generator
from diffaug.generator.travelling import travelling
from diffaug.nnunet.networks import build_downstream
from diffaug.nnunet.plans import read_plans
from diffaug.pretraining.sharing import export_encoder
from diffaug.stages.pipeline import fit, pretrain, sample
from diffaug.stages.requests import FitRequest, PretrainRequest, SampleRequest

MUTANTS = 12
SECONDS = 60
HERE = "Dataset905_Blobs"
GENERATOR = f"results/{HERE}/diffaug__nnUNetPlans__3d_fullres/generator"
SYNTHETIC, AUDIT, ENCODER = (GENERATOR.replace("generator", stage) for stage in ("synthetic", "audit", "encoder"))
MODEL = "model/nnUNetTrainer__nnUNetPlans__3d_fullres"
TASK = ("--task", "905")
PLAN = ("plan", *TASK, "--budget", "cpu-small")
FIT = ("fit", *TASK, "--plan-only", "--device", "cpu")
MORE = ("sample", *TASK, "-n", "5", "--device", "cpu")
PRETRAIN = ("pretrain", *TASK, "--images", "real", "--budget", "cpu-small", "--pretext-steps", "1", "--device", "cpu")
GIVEN = ("import", "--task", "906", "--generator", "theirs.safetensors")
FEW = ("sample", "--task", "906", "-n", "1", "--steps", "1", "--device", "cpu")
ANEW = ("pretrain", *TASK, "--fresh", "--images", "synthetic", *PRETRAIN[5:])
SHARE = ("share-model", "--model", MODEL, "--out", "shared")
TAKE = ("import", *TASK, "--fresh")
EXPORT = ("export", *TASK, "--generator", "out.safetensors", "--origin", "blobs", "--licence", "CC0")

# kind of file: where it lies, how it is spoilt, what then reads it
KINDS = {
    "generator": ("theirs.safetensors", spoil_safetensors, [GIVEN, FEW]),
    "own generator": (f"{GENERATOR}/generator.safetensors", spoil_safetensors, [MORE]),
    "encoder": ("theirs.pt", spoil_torch, [(*TAKE, "--file", "theirs.pt")]),
    "own encoder": (f"{ENCODER}/encoder.pt", spoil_torch, [("export", *TASK, "--out", "mine.pt")]),
    "checkpoint": (f"{MODEL}/fold_0/checkpoint_final.pth", spoil_torch, [SHARE]),
    "model's plans": (f"{MODEL}/plans.json", spoil_json, [SHARE]),
    "plan": (f"{GENERATOR}/plan.json", spoil_json, [MORE, FIT]),
    "fit's manifest": (f"{GENERATOR}/manifest.json", spoil_json, [FIT, MORE]),
    "readings": (f"{GENERATOR}/readings.json", spoil_json, [FIT, MORE]),
    "copy test": (f"{GENERATOR}/copies.json", spoil_json, [MORE]),
    "volumes' manifest": (f"{SYNTHETIC}/manifest.json", spoil_json, [MORE, ANEW]),
    "audit's manifest": (f"{AUDIT}/manifest.json", spoil_json, [EXPORT]),
    "encoder's manifest": (f"{ENCODER}/manifest.json", spoil_json, [PRETRAIN]),
    "dataset.json": (f"raw/{HERE}/dataset.json", spoil_json, [(*FIT, "--fresh"), ("doctor", *TASK)]),
    "nnU-Net's plans": (f"preprocessed/{HERE}/nnUNetPlans.json", spoil_json, [(*PRETRAIN, "--fresh"), ("doctor", *TASK)]),
    "nnU-Net's plans once more": (f"preprocessed/{HERE}/nnUNetPlans.json", spoil_json, [PLAN]),
    "splits": ("splits.json", spoil_json, [(*FIT, "--fresh", "--exclude", "splits.json:test")]),
    "folds": (f"preprocessed/{HERE}/splits_final.json", spoil_json, [(*PRETRAIN, "--fresh"), ("doctor", *TASK)]),
    "sites": ("sites.csv", spoil_bytes, [(*FIT, "--fresh", "--sites", "sites.csv")]),
    "scan": (f"raw/{HERE}/imagesTr/{LABELLED[0]}_0000.nii.gz", spoil_bytes, [(*FIT, "--fresh"), ("doctor", *TASK)]),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(blobs, tmp_path_factory) -> Path:
    """A task that has been through everything, and what strangers sent."""
    root = tmp_path_factory.mktemp("strangers") / "root"
    shutil.copytree(blobs, root)
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{folder}", str(root / folder))
        torch.set_num_threads(1)
        task, elsewhere = Task(root), Task(root, "Dataset906_Elsewhere")
        task.preprocessed.mkdir()
        write_json(task.preprocessed / "nnUNetPlans.json", blob_plans())
        write_json(task.preprocessed / "splits_final.json", [{"train": [LABELLED[0]], "val": [LABELLED[1]]}])
        task.tiny_plan(2, FitRequest(budget="cpu-small", exclude=("none",)))
        fit(task.workspace, None, device="cpu")
        sample(task.workspace, SampleRequest(4, steps=1), device="cpu")
        request = PretrainRequest(images=("real",), budget="cpu-small", pretext_steps=1, exclude=("none",))
        pretrain(task.workspace, request, device="cpu")
        export_encoder(task.workspace, root / "theirs.pt")
        task.audit_manifest()
        told = {"scans": 6, "of": "blobs", "licence": "CC0", "version": "0", "exported": "2026-01-01"}
        told |= {"audit": {"date": "2026-01-01", "summary": "Copies: none."}}
        generator = Generator.load(task.workspace.generator / "generator.safetensors")
        travelling(generator, told).save(root / "theirs.safetensors")
        info = json.loads((task.raw / "dataset.json").read_text())
        write_json(elsewhere.raw / "dataset.json", info | {"numTraining": 0})
        write_json(root / "splits.json", {"test": [LABELLED[0]], "train": [*LABELLED[1:], *UNLABELLED]})
        rows = [f"{case},{'AB'[number % 2]}" for number, case in enumerate((*LABELLED, *UNLABELLED))]
        (root / "sites.csv").write_text("\n".join(["case,site", *rows]))
        plans, configuration = read_plans(task.workspace)
        network = build_downstream(configuration, plans, info, deep_supervision=False)
        model = root / MODEL
        (model / "fold_0").mkdir(parents=True)
        write_json(model / "plans.json", blob_plans())
        write_json(model / "dataset.json", info)
        content = {"network_weights": network.state_dict(), "init_args": {"fold": 0}, "trainer_name": "nnUNetTrainer"}
        torch.save(content, model / "fold_0" / "checkpoint_final.pth")
    return root


class TooLong(BaseException):
    """No `Exception`, which a reader of files might turn into a line."""


def too_long(*_):
    raise TooLong(f"more than {SECONDS} s")


@pytest.fixture
def alarm():
    before = signal.signal(signal.SIGALRM, too_long)
    yield signal.alarm
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MOVING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


class Watch:
    """Sees what the process opens for writing, starts or unpickles: audit hooks cannot be removed, so there is one."""

    def __init__(self) -> None:
        self.allowed: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self.look)

    def look(self, event: str, arguments: tuple) -> None:
        if self.allowed is None:
            return
        if event in ("os.system", "os.exec", "subprocess.Popen"):
            self.seen.append(f"{event} {arguments[:2]}")
        elif event == "pickle.find_class" and arguments[0].split(".")[0] not in ("torch", "multiprocessing"):
            self.seen.append(f"unpickled {arguments}")  # torch's are what loading processes hand over
        elif event in MOVING or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            self.judge(arguments[0], event)

    def judge(self, path, event: str) -> None:
        """Require that a path lies in the task's folders, or in a temporary one."""
        if isinstance(path, str | Path):
            file = Path(os.path.normpath(Path(path).absolute()))
            if not file.is_relative_to(self.allowed) and not str(file).startswith(("/dev/", "/tmp/tmp", "/proc")):
                self.seen.append(f"{event} {file}")


WATCH = Watch()


@pytest.mark.parametrize("kind", KINDS)
def test_a_strangers_file_ends_in_one_line_and_harms_nothing(whole, folders, kind, capfd, monkeypatch, alarm):
    file, spoil, commands = KINDS[kind]
    root = folders / "root"

    refused, failed = 0, []
    for seed in range(MUTANTS):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(whole, root)
        for name in ("raw", "preprocessed", "results"):
            monkeypatch.setenv(f"nnUNet_{name}", str(root / name))
        monkeypatch.chdir(root)
        spoil(root / file, np.random.default_rng([seed, sorted(KINDS).index(kind)]))
        for number, command in enumerate(commands):
            where = f"{kind}, mutant {seed}, {' '.join(command)}"
            capfd.readouterr()
            alarm(SECONDS)
            WATCH.allowed, WATCH.seen = root, []
            try:
                code = main(list(command))
            except BaseException as error:
                failed.append(f"{where}: {type(error).__name__}: {error}")
                continue
            finally:
                WATCH.allowed = None
                alarm(0)
            told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("diffaug: ")]
            if code not in (0, 2) or (len(told) != (code == 2) and command[0] != "doctor"):
                failed.append(f"{where}: ended with {code} and {told}")
            failed += [f"{where}: {each}" for each in WATCH.seen]
            refused += code == 2 and number == 0
    assert not failed, "\n".join(failed)
    assert refused, "none of them was refused"


# through what torch's own modules have imported
REACHED = {"nonlin": "torch.nn.parallel.distributed.os.system", "nonlin_kwargs": {"command": "touch escaped"}}


def test_plans_that_name_other_peoples_code_import_none_of_it(whole, folders, monkeypatch, capsys):
    root = folders / "root"
    shutil.copytree(whole, root)
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(root / name))
    (root / "theirs.py").write_text(f"open({str(root / 'escaped')!r}, 'w')\nclass PlainConvUNet: ...\n")
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.chdir(root)
    file = root / "preprocessed" / HERE / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    kwargs = architecture["arch_kwargs"]
    for key, spoilt in (
        ("network_class_name", architecture | {"network_class_name": "theirs.PlainConvUNet"}),
        ("norm_op", architecture | {"arch_kwargs": kwargs | {"norm_op": "theirs.PlainConvUNet"}}),
        ("nonlin", architecture | {"arch_kwargs": kwargs | REACHED}),
        (
            "block",
            architecture
            | {"arch_kwargs": kwargs | {"block": "theirs.PlainConvUNet"}, "_kw_requires_import": ["block"]},
        ),
    ):
        plans["configurations"]["3d_fullres"]["architecture"] = spoilt
        file.write_text(json.dumps(plans))
        assert main([*PRETRAIN, "--fresh"]) == 2
        assert key in capsys.readouterr().err
    assert not (root / "escaped").exists()
