"""Processes that train together: the same chance and the same batches give the losses and the weights of one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from planned import blob_plans
from safetensors.torch import load_file

from blobs import Task
from diffaug.phantom.dataset import write_dataset
from diffaug.stages.requests import FitRequest
from diffaug.training import together
from diffaug.training.log import read_log

STEPS = 4  # rounding, which differs between processors, too, grows with every step
PRETEXTS = ("denoise", "mae", "anatomy")
SCRIPT = """
import sys, os
sys.path[:0] = sys.argv[2].split(os.pathsep)
import torch
torch.set_num_threads(1)
from dataclasses import replace
from pathlib import Path
from diffaug.audit import apartness
from diffaug.audit.fit_feature_space import FEATURE_STEPS
from diffaug.audit.requests import FoldersRequest
from diffaug.budgets import BUDGETS, Training
from diffaug.copies.detector import CopyDetector
from diffaug.stages.pipeline import audit_folders, fit, pretrain, sample
from diffaug.stages.requests import PretrainRequest, SampleRequest
from diffaug.training.devices import start_fabric
from diffaug.workspace import Workspace
few = Training(steps=6, batch_size=2, learning_rate=1e-3, warmup_steps=2)
BUDGETS["cpu-small"] = replace(BUDGETS["cpu-small"], pretraining=few)
workspace = Workspace("Dataset905_Blobs")
if sys.argv[1] == "generator":
    fit(workspace, None, device="cpu")
elif sys.argv[1] == "report":
    apartness.CLASSIFIER_STEPS, FEATURE_STEPS["cpu"] = 5, 5
    root = Path(os.environ["nnUNet_raw"])
    request = FoldersRequest(root / "Dataset970_BreastPhantomA/imagesUn", root / "Dataset971_BreastPhantomA/imagesUn")
    audit_folders(request, root / "report", device="cpu")
elif sys.argv[1].isdigit():
    judge = CopyDetector.judge
    def strict(self, volumes):  # by chance, but the same for the same volume
        found = judge(self, volumes)
        return [replace(n, copy=int(abs(float(v.double().sum())) * 1e4) % 3 == 0) for n, v in zip(found, volumes)]
    CopyDetector.judge = strict
    sample(workspace, SampleRequest(int(sys.argv[1]), 2, "ddim", 2))  # and no device, as most people do
else:  # one start of the processes for all pretexts
    for pretext in sys.argv[1].split(","):
        request = PretrainRequest(images=("real",), budget="cpu-small", pretext=pretext, pretext_steps=6)
        pretrain(workspace, request, device="cpu")
        with start_fabric("cpu").rank_zero_first():
            if workspace.encoder.exists() and os.environ.get("RANK", "0") == "0":
                workspace.encoder.rename(workspace.encoder.with_name(pretext))
"""


def launch(what: str, root: Path, processes: int) -> str:
    environment = {**os.environ, **{f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}}
    environment |= {"OMP_NUM_THREADS": "1"}
    script = root / "script.py"
    script.write_text(SCRIPT)
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *start, str(script), what, os.pathsep.join(sys.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def losses(folder: Path) -> dict:
    lines = read_log(folder / "log.jsonl")
    told = ("loss", "held_out", "l1", "noise", "latent_square", "adversarial_weight")
    return {
        (line["fit"], line["step"], name): value
        for line in lines
        for name, value in line.items()
        if name.endswith(told)
    }


def assert_same_training(one: Path, two: Path) -> None:
    alone, together_ = losses(one), losses(two)
    assert alone
    assert alone.keys() == together_.keys()
    for key, value in alone.items():
        # Adam's first steps are as long for gradients of rounding errors, which differ, as for true ones
        assert together_[key] == pytest.approx(value, rel=1e-4, abs=1e-4), key


def assert_same_weights(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    near = torch.cat([((one[k] - two[k]).abs() < 1e-4).flatten().float() for k in one if one[k].is_floating_point()])
    assert near.mean() > 0.995, "of weights whose gradient is not all rounding"


@pytest.fixture(scope="module")
def fitted(blobs, tmp_path_factory) -> Path:
    """nnU-Net's folders after a fit in one process."""
    root = shutil.copytree(blobs, tmp_path_factory.mktemp("fitted") / "root")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{name}", str(root / name))
        Task(root).tiny_plan(STEPS)
    launch("generator", root, 1)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("like", [None, "paper"])
def test_two_processes_fit_the_generator_that_one_fits(request, task, tmp_path_factory, like):
    task.tiny_plan(STEPS, FitRequest(budget="cpu-small", like=like))
    if like is None:
        one = request.getfixturevalue("fitted")
    else:
        one = shutil.copytree(task.root, tmp_path_factory.mktemp("other") / "root")
        launch("generator", one, 1)
    launch("generator", task.root, 2)
    folders = [next((root / "results").glob("*/*/generator")) for root in (one, task.root)]
    assert_same_training(*folders)
    assert_same_weights(*(load_file(folder / "generator.safetensors") for folder in folders))


@pytest.mark.slow
def test_two_processes_share_the_volumes_that_one_makes(fitted, folders, tmp_path_factory):
    task = Task(shutil.copytree(fitted, folders / "root"))
    other = Task(shutil.copytree(task.root, tmp_path_factory.mktemp("other") / "root"))
    made = []
    for root, processes in ((task.root, 1), (other.root, 2)):
        if processes == 2:  # begun by one, in the middle of a batch
            launch("2", root, 1)
        assert "Traceback" not in launch("9", root, processes)
        folder = next((root / "results").glob("*/*/synthetic"))
        files = sorted((folder / "imagesTr").iterdir())
        told = json.loads((folder / "manifest.json").read_text())
        assert told["finished"]
        assert len(files) == len(told["volumes"]) == 9
        made.append(({file.name: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files}, told))
    for name, voxels in made[0][0].items():
        assert np.array_equal(made[1][0][name], voxels), name
    assert made[0][1]["volumes"] == made[1][1]["volumes"]
    assert made[0][1]["refused"] == made[1][1]["refused"]
    assert made[0][1]["refused"], "some are copies"


@pytest.mark.slow
def test_two_processes_audit_as_one_does(folders, tmp_path_factory):
    for number in (970, 971):
        write_dataset(folders / "raw", task=number, cases=20, seed=number, shape=(12, 16, 16), labelled=0)
    other = shutil.copytree(folders, tmp_path_factory.mktemp("other") / "root")
    found = []
    for root, processes in ((folders, 1), (other, 2)):
        launch("report", root, processes)
        told = json.loads((root / "raw" / "report" / "manifest.json").read_text())
        assert told["finished"]
        assert (root / "raw" / "report" / "report.html").is_file()
        found.append(told["figures"])
    assert found[0]["c2st_auc"] is not None
    assert_near(*found)


def assert_near(one, two, where="figures") -> None:
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key, value in one.items():
            assert_near(value, two[key], f"{where}.{key}")
    elif isinstance(one, list):
        for number, pair in enumerate(zip(one, two, strict=True)):
            assert_near(*pair, f"{where}.{number}")
    else:
        assert two == (pytest.approx(one, rel=1e-3, abs=1e-5) if isinstance(one, float) else one), where


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="tells processes apart by /proc")
@pytest.mark.parametrize("killed", [0, 1])
def test_one_killed_process_ends_the_other_with_one_line(task, killed):
    task.tiny_plan(5000)
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "diffaug"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, "fit", "--task", "905", "--budget", "cpu-small"]
    output = task.root / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        log, deadline = task.workspace.generator / "log.jsonl", time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        environments = {child: Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children}
        (chosen,) = (child for child, told in environments.items() if f"RANK={killed}".encode() in told)
        os.kill(int(chosen), signal.SIGKILL)
        assert process.wait(timeout=60) != 0
    told = [line for line in re.split(r"[\r\n]", output.read_text()) if "diffaug: " in line]
    assert len(told) == 1
    assert "the same command goes on" in told[0]
    assert "[rank" not in output.read_text(), "a traceback"


@pytest.mark.slow
def test_two_processes_pretrain_as_one_does(task, tmp_path_factory):
    task.preprocessed.mkdir()
    (task.preprocessed / "nnUNetPlans.json").write_text(json.dumps(blob_plans()))
    other = Task(shutil.copytree(task.root, tmp_path_factory.mktemp("other") / "root"))
    for root, processes in ((task.root, 1), (other.root, 2)):
        launch(",".join(PRETEXTS), root, processes)
    for pretext in PRETEXTS:
        folders = [next((each.root / "results").glob(f"*/*/{pretext}")) for each in (task, other)]
        assert_same_training(*folders)
        weights = [torch.load(folder / "encoder.pt", weights_only=True)["network_weights"] for folder in folders]
        assert_same_weights(*weights)


class Part:
    """A process among several, as Fabric tells."""

    def __init__(self, rank: int, world: int) -> None:
        self.global_rank, self.world_size = rank, world


def test_processes_keep_their_parts_of_one_draw():
    drawn = {}
    for world in (1, 2, 4):
        parts = []
        for rank in range(world):
            with together.step_of(Part(rank, world), seed=3, step=5):
                parts.append(
                    [draw((8 // world, 2, 2), torch.device("cpu")) for draw in (together.normal, together.uniform)]
                )
        drawn[world] = [torch.cat(each) for each in zip(*parts, strict=True)]
    for world in (2, 4):
        for one, many in zip(drawn[1], drawn[world], strict=True):
            assert torch.equal(one, many)


def test_each_volume_is_changed_by_chance_of_its_own():
    volumes = torch.zeros(4, 1, 3, 3, 3)

    def change(volume):
        for _ in range(int(torch.randint(1, 9, ()))):  # how much chance it needs is itself chance
            volume = volume + torch.randn_like(volume)
        return volume

    made = []
    for rank in range(2):
        with together.step_of(Part(rank, 2), seed=0, step=0):
            made.append(together.changed_each(volumes[2 * rank : 2 * rank + 2], change))
    with together.step_of(Part(0, 1), seed=0, step=0):
        whole = together.changed_each(volumes, change)
    assert torch.equal(torch.cat(made), whole)
    assert len({float(volume.sum()) for volume in whole}) == 4


def test_beside_steps_every_process_is_alone():
    with pytest.raises(KeyboardInterrupt), together.step_of(Part(1, 2), seed=0, step=0):
        assert together.processes() == 2
        assert list(together.own_places(3)) == [3, 4, 5]
        assert together.chance(torch.device("cpu")) is together.chance(torch.device("cpu"))
        raise KeyboardInterrupt
    assert together.processes() == 1
    assert together.chance(torch.device("cpu")) is None
    assert list(together.own_places(3)) == [0, 1, 2]
