"""What many tests share: nnU-Net's three folders, a tiny raw dataset, a tiny generator plan, a process to kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter

from diffaug.errors import DiffaugError
from diffaug.generator.fitting import FitRequest, fit
from diffaug.workspace import Workspace

DATASET = "Dataset905_Blobs"
SIZE = (20, 24, 22)  # voxels (Z, Y, X)
SPACING = (2.0, 1.5, 1.5)  # mm (Z, Y, X)
ORIGIN = (-12.5, 30.0, -7.25)  # mm, LPS
LABELLED = tuple(f"blob_{i}" for i in range(6))
UNLABELLED = ("free_0", "free_1")
REQUEST = FitRequest(budget="cpu-small")


def blob(seed: int, size: tuple[int, ...] = SIZE) -> np.ndarray:
    """A smooth body of its own shape in a dark background with a little noise, 0 to about 1000, as MR units run."""
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.normal(size=size), 2)
    texture /= texture.std()
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    radius = sum((a / s) ** 2 for a, s in zip(axes, rng.uniform(0.6, 0.95, 3), strict=True))
    body = 1 / (1 + np.exp(12 * (radius - 1)))
    return (body * (500 + 120 * texture) + rng.uniform(1, 20, size)).astype(np.float32)


def write_image(
    file: Path,
    voxels: np.ndarray,
    spacing: tuple[float, ...] = SPACING,
    origin: tuple[float, ...] = ORIGIN,
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> Path:
    """Write `(Z, Y, X)` with ITK; spacing is (Z, Y, X) as in diffaug."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin)
    image.SetDirection(direction)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))
    return file


@dataclass
class Task:
    """A dataset in nnU-Net's folders, and what tests do with it."""

    root: Path
    dataset: str = DATASET

    @property
    def raw(self) -> Path:
        return self.root / "raw" / self.dataset

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed" / self.dataset

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.dataset)

    def image(self, case: str) -> Path:
        folder = "imagesUn" if case in UNLABELLED else "imagesTr"
        return self.raw / folder / f"{case}_0000.nii.gz"

    def tiny_plan(self, steps: int = 6, request: FitRequest = REQUEST, **changes) -> dict:
        """Let diffaug plan, then edit plan.json as a person would: a few steps of tiny networks."""
        fit(self.workspace, request, device="cpu", plan_only=True)
        file = self.workspace.generator / "plan.json"
        plan = json.loads(file.read_text())
        plan["autoencoder"] |= {"channels": [8, 8], "latent_channels": 4, "codes": 32}
        plan["denoiser"] |= {"channels": [8, 8], "latent_channels": 4}
        plan["views"] = 2
        plan["autoencoder_training"] |= {"steps": steps, "warmup_steps": 2}
        plan["denoiser_training"] |= {"steps": steps, "batch_size": 2, "warmup_steps": 2}
        plan |= changes
        file.write_text(json.dumps(plan))
        return plan


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def blobs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("blobs")
    for folder in ("raw", "preprocessed", "results"):
        (root / folder).mkdir()
    raw = Task(root).raw
    for seed, case in enumerate((*LABELLED, *UNLABELLED)):
        write_image(Task(root).image(case), blob(seed))
    for seed, case in enumerate(LABELLED):
        write_image(raw / "labelsTr" / f"{case}.nii.gz", (blob(seed) > 400).astype(np.uint8))
    write_image(raw / "imagesTs" / "held_back_0000.nii.gz", blob(99))
    info = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "body": 1},
        "numTraining": len(LABELLED),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(info))
    return root


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """nnU-Net's three variables, set to empty folders."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    return tmp_path


@pytest.fixture
def task(blobs, folders) -> Task:
    shutil.copytree(blobs, folders, dirs_exist_ok=True)
    return Task(folders)


@pytest.fixture
def refusal() -> Callable[..., str]:
    """Call something that must refuse, and give its one line."""

    def call(action, *arguments, **keywords) -> str:
        with pytest.raises(DiffaugError) as caught:
            action(*arguments, **keywords)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return call


@pytest.fixture
def kill_when() -> Callable[..., None]:
    """Start a command, kill -9 it as soon as a condition holds, and require that it was not done yet."""

    def kill(command: list[str], condition: Callable[[], bool], seconds: float = 180) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + seconds
            while process.poll() is None and time.monotonic() < deadline and not condition():
                time.sleep(0.002)
            process.kill()
            output = process.communicate()[0].decode()
        finally:
            process.kill()
        assert process.returncode == -signal.SIGKILL, f"ended before it could be killed:\n{output[-3000:]}"

    return kill


@pytest.fixture
def diffaug() -> Callable[..., subprocess.CompletedProcess]:
    """Run the real command line in a process of its own."""

    def run(*arguments: str, **keywords) -> subprocess.CompletedProcess:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, "-m", "diffaug", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, **keywords)

    return run
