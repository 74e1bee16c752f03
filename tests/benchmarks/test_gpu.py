"""Ten minutes of a GPU: parts that fail, hang or are killed are recorded and leave the others alone; all of them run."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.gpu.datasets import PHANTOMS
from benchmarks.gpu.jobs import Job, run_jobs
from benchmarks.gpu.record import LINES, record, recorded
from benchmarks.gpu.report import write_report
from benchmarks.gpu.schedule import jobs_of
from benchmarks.gpu.sizes import ARMS, HEARTS, SMOKE
from benchmarks.gpu.steps import measure_steps
from benchmarks.scarce import data
from diffaug.budgets import Training

ROOT = Path(__file__).parents[2]
NOTHING = ["true"]
# what may happen to a part, and what is then written down
ACCIDENTS = {
    "killed": ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    "out of memory": ("raise type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory.')", "out of memory"),
    "failing": ("raise ValueError('no such thing')", "failed: ValueError: no such thing"),
    "hanging": ("import time; time.sleep(600)", "killed: too long"),
}
PARTS = [job.name for job in jobs_of(Path("out"), Path("work"), 60, smoke=True)]


def run(jobs, tmp_path, seconds=60.0, cores=2):
    return run_jobs(jobs, seconds=seconds, cores=cores, out=tmp_path, logs=tmp_path / "logs")


@pytest.mark.parametrize("accident", ACCIDENTS)
@pytest.mark.parametrize("part", PARTS)
def test_an_accident_of_one_part_leaves_the_others_alone(tmp_path, part, accident):
    """Only those go without that need what it makes."""
    code, expected = ACCIDENTS[accident]
    planned = jobs_of(tmp_path, tmp_path, 60, smoke=True)
    jobs = [replace(job, command=NOTHING) for job in planned]
    jobs = [
        replace(job, command=[sys.executable, "-c", code], seconds=30 if accident != "hanging" else 0.5)
        if job.name == part
        else job
        for job in jobs
    ]
    ended = run(jobs, tmp_path, cores=8)
    lost = {part}
    for job in planned:  # whoever needs it, and whoever needs those
        lost |= {job.name} if lost & set(job.needs) else set()
    assert ended[part] == expected
    assert {name for name, status in ended.items() if status != "ok"} == lost
    assert all(ended[name].startswith("not started: ") for name in lost - {part})
    assert {line["job"]: line["status"] for line in recorded(tmp_path, "job")} == ended, "on disk, too"


def test_a_killed_part_takes_its_children_with_it(tmp_path):
    """Loading processes that are left behind would keep the GPU's memory; torchrun's are sessions of their own."""
    code = (
        "import subprocess, sys, time, pathlib;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True);"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid)); time.sleep(600)"
    )
    assert run([Job("parent", [sys.executable, "-c", code], 2)], tmp_path) == {"parent": "killed: too long"}
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _lives(child):
        time.sleep(0.05)
    assert not _lives(child)


def _lives(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return not state.is_file() or state.read_text().split()[2] != "Z"


def test_when_the_time_is_up_everything_stops(tmp_path):
    wait = [sys.executable, "-c", "import time; time.sleep(600)"]
    jobs = [Job("quick", NOTHING, 30), Job("slow", wait, 600), Job("late", NOTHING, 30, needs=("slow",))]
    started = time.monotonic()
    assert run(jobs, tmp_path, seconds=3) == {
        "quick": "ok",
        "slow": "killed: out of time",
        "late": "not started: out of time",
    }
    assert time.monotonic() - started < 10


def test_what_measures_time_has_the_machine_for_itself(tmp_path):
    """Each job writes when it began and ended; none overlaps the one that runs alone, and none overtakes it."""
    code = "import sys, time; a = time.time(); time.sleep(0.3); open(sys.argv[1], 'w').write(f'{a} {time.time()}')"

    def job(name, **rules):
        return Job(name, [sys.executable, "-c", code, str(tmp_path / name)], 30, **rules)

    run([job("before"), job("beside"), job("alone", alone=True), job("after")], tmp_path, cores=4)
    times = {n: tuple(map(float, (tmp_path / n).read_text().split())) for n in ("before", "beside", "alone", "after")}
    assert times["before"][0] < times["beside"][1], "those two ran together"
    assert times["beside"][0] < times["before"][1]
    assert max(times["before"][1], times["beside"][1]) <= times["alone"][0]
    assert times["alone"][1] <= times["after"][0]


def test_cores_are_shared_out_and_an_urgent_job_does_not_wait_for_them(tmp_path):
    wait = [sys.executable, "-c", "import time; time.sleep(1.5)"]
    jobs = [
        Job("first", wait, 30, cores=2),
        Job("second", NOTHING, 30),
        Job("urgent", NOTHING, 30, urgent=True),
    ]
    assert list(run(jobs, tmp_path)) == ["urgent", "first", "second"], "in the order in which they ended"


def test_lines_that_many_processes_write_are_all_there(tmp_path):
    code = (
        "import sys; from pathlib import Path; from benchmarks.gpu.record import record;"
        "[record(Path(sys.argv[1]), sys.argv[2], number=n, filler='x' * 500) for n in range(200)]"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen([*words, f"part{n}"], cwd=ROOT) for n in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    for n in range(4):
        assert [line["number"] for line in recorded(tmp_path, f"part{n}")] == list(range(200))


def test_a_line_cut_short_costs_only_itself(tmp_path):
    record(tmp_path, "volume", seconds=1.5, loss=float("nan"))
    with (tmp_path / LINES).open("a") as file:
        file.write('{"part": "volume", "sec')
    assert recorded(tmp_path) == [{"part": "volume", "seconds": 1.5, "loss": None}]


def test_the_report_is_written_from_whatever_there_is_and_tells_no_path(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "data.log").write_text(f"wrote {tmp_path}/work/file")
    record(tmp_path, "where", GPU="Some GPU", commit="abc")
    record(tmp_path, "job", job="data", status=f"failed: {tmp_path}/work: no such file", seconds=3.0)
    record(tmp_path, "volume", budget="gpu-24g", surprise="a figure of another kind", seconds="none")
    write_report(tmp_path, logs, [str(tmp_path)], 9, smoke=False)
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("# GPU: Some GPU")
    assert "Could not be written" in page, "the section that cannot be shown says so"
    assert "Nothing was measured." in page
    for file in tmp_path.glob("gpu.*"):
        assert str(tmp_path) not in file.read_text()


class Line:
    """The smallest objective."""

    averaged = None
    watch = None

    def __init__(self):
        self.networks = {"line": nn.Sequential(nn.Conv3d(1, 1, 1))}

    def optimizers(self, learning_rate):
        return {"line": torch.optim.SGD(self.networks["line"].parameters(), learning_rate)}

    def losses(self, batch, progress):
        self.progress = progress
        yield "line", self.networks["line"](batch).square().mean(), {}

    def example(self, generator: np.random.Generator):
        time.sleep(0.02)
        return torch.zeros(1, 2, 2, 2)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_steps_are_measured_with_their_loading_and_without(compiled):
    objective = Line()
    training = Training(steps=10, batch_size=2, learning_rate=1e-3)
    found = measure_steps(objective, training, torch.device("cpu"), 0.5, progress=0.9, compiled=compiled)
    assert objective.progress == pytest.approx(0.9, abs=1e-3)
    assert found["steps_per_second"] < 25, "two examples of 20 ms each"
    assert found["without_loading"] > 100
    assert found["loader_share"] > 0.7
    assert 30 < found["examples_per_core_second"] < 50
    assert ("compiling_seconds" in found) == compiled


def test_hearts_are_those_of_the_scarce_label_benchmark():
    assert (data.HEARTS.task, data.HEARTS.pool) == HEARTS
    assert PHANTOMS.name not in data.DATA_SETS
    assert (
        data.HEARTS.patient("heartA_003_ED")
        == data.HEARTS.patient("heartA_003_ES")
        != data.HEARTS.patient("heartA_004_ES")
    )


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    """The command that a lent GPU will be given, at tiny sizes."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--smoke", "--minutes", "10", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stdout + process.stderr
    content = json.loads((tmp_path / "out" / "gpu.json").read_text())
    lines = content["lines"]
    statuses = {line["job"]: line["status"] for line in lines if line["part"] == "job"}
    assert statuses == dict.fromkeys(PARTS, "ok")
    assert content["about"]["cannot import"] == {}
    assert len(content["about"]["sources"]) == 16
    volumes = [line for line in lines if line["part"] == "volume"]
    assert {tuple(line["shape"]) for line in volumes} == set(SMOKE.volumes)
    assert {line["sampler"] for line in volumes} == {"dpmpp", "ddpm"}
    kinds = [line["kind"] for line in lines if line["part"] == "training" and "kind" in line]
    assert kinds == ["autoencoder", "refiner", "denoiser", "pretraining nnUNetPlans"]
    assert all(line["equal"] for line in lines if line["part"] == "repeats"), "bit for bit on a CPU"
    assert any(line.get("killed_at_step") for line in lines if line["part"] == "repeat")
    assert {line["arm"] for line in lines if line["part"] == "train"} == set(ARMS)
    pictures = {file.name for file in (tmp_path / "out").iterdir()}
    assert pictures == {"gpu.json", "gpu.md", "volumes.png", "losses.png", "audit.html", "logs.json.gz"}
    assert str(tmp_path) not in (tmp_path / "out" / "gpu.json").read_text()


def test_results_are_not_overwritten(tmp_path):
    (tmp_path / LINES).touch()
    command = [sys.executable, "-m", "benchmarks.gpu", "--smoke", "--out", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert "expected a new folder" in process.stdout
