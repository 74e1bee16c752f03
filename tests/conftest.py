"""What many tests share: nnU-Net's three folders, a tiny raw dataset, a process to kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shortened
import torch

from blobs import LABELLED, UNLABELLED, Task, blob, write_image
from diffaug.audit import apartness
from diffaug.audit.fit_feature_space import FEATURE_STEPS
from diffaug.budgets import BUDGETS
from diffaug.errors import DiffaugError


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
def short(monkeypatch):
    """The CPU's budget with a few steps of each fit and smaller networks, and an audit with short trainings."""
    monkeypatch.setitem(BUDGETS, "cpu-small", shortened.short(BUDGETS["cpu-small"]))
    monkeypatch.setattr(apartness, "CLASSIFIER_STEPS", shortened.STEPS)
    monkeypatch.setitem(FEATURE_STEPS, "cpu", shortened.STEPS)


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes: begun last, they keep one process busy while the other has nothing left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # stable: within a file nothing moves
