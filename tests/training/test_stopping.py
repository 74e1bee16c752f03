"""SIGTERM and SIGUSR1, which clusters send before the end: a checkpoint of the very step, one line, 128 + the signal."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_loop import SLOW, TRAINING, Regression, assert_equal, run, state

from diffaug.cli import main
from diffaug.stopping import Stopped, at_a_step, listening
from diffaug.training import checkpoint
from diffaug.verbs import VERBS

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Signalled(Regression):
    """Gets a signal while it draws the examples of a step."""

    def __init__(self, number, step):
        super().__init__()
        self.number, self.step = number, step

    def example(self, generator):
        if self.drawn == self.step * TRAINING.batch_size:
            os.kill(os.getpid(), self.number)
        return super().example(generator)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("step", [1, 8, 17])
def test_a_signalled_training_ends_at_its_step_and_goes_on_to_the_result_of_an_unbroken_one(
    tmp_path, monkeypatch, number, step
):
    monkeypatch.setattr(checkpoint, "SAVING", 0.0)  # else there would be a checkpoint anyway
    run(tmp_path / "unbroken")
    with listening(), pytest.raises(Stopped) as stopped:
        run(tmp_path / "stopped", Signalled(number, step))
    assert stopped.value.number == number
    assert state(tmp_path / "stopped")["step"] == step + 1
    run(tmp_path / "stopped")
    assert_equal(state(tmp_path / "stopped"), state(tmp_path / "unbroken"))


@pytest.mark.parametrize("number", SIGNALS)
def test_the_command_line_says_so_in_one_line_with_the_exit_code_of_the_signal(monkeypatch, capsys, number):
    def work(*_):
        os.kill(os.getpid(), number)
        raise AssertionError("not reached")

    monkeypatch.setattr("diffaug.doctor.examine", work)
    before = signal.getsignal(number)
    assert main(["doctor"]) == 128 + number
    assert capsys.readouterr().err.count("\n") == 1
    assert signal.getsignal(number) == before
    assert "doctor" in VERBS


def test_what_must_not_be_interrupted_is_asked_when_it_can_stop():
    with listening(), pytest.raises(Stopped), at_a_step() as received:
        assert received() is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert received() == signal.SIGUSR1
    with at_a_step() as received:  # nobody listens: a library call
        assert received() is None


def test_a_signal_of_the_last_moment_is_not_lost():
    with listening(), pytest.raises(Stopped), at_a_step():
        os.kill(os.getpid(), signal.SIGTERM)


PAIR = f"""{SLOW}
import os
from dataclasses import replace
from diffaug.stopping import Stopped, listening
rank = os.environ["RANK"]
Path(sys.argv[1]).with_name("process-" + rank).write_text(str(os.getpid()))
try:
    with listening():
        run(Path(sys.argv[1]), objective, replace(TRAINING, steps=1000))
except Stopped:
    Path(sys.argv[1]).with_name("stopped-" + rank).write_text("")
"""


@pytest.mark.slow
def test_of_two_processes_one_signal_stops_both_at_one_step(tmp_path):
    script, here = tmp_path / "script.py", Path(__file__).parent
    script.write_text(PAIR)
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29555", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *command, str(tmp_path / "run"), str(here), str(here.parent)], env=environment
    )
    log, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(int((tmp_path / "process-1").read_text()), signal.SIGUSR1)  # not the one that writes
    assert process.wait(timeout=120) == 0
    assert {file.name for file in tmp_path.glob("stopped-*")} == {"stopped-0", "stopped-1"}
    assert 0 < state(tmp_path / "run")["step"] < 1000


def test_pools_that_end_their_processes_at_once_are_not_waited_for_for_ever():
    """nnU-Net makes such a pool in every planning; one process that misses its SIGTERM would stop all."""
    with listening():
        for _ in range(30):
            with multiprocessing.get_context("fork").Pool(2):
                pass
    assert not multiprocessing.active_children()


def test_a_forked_process_ends_by_the_signal_and_keeps_nothing():
    with listening():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join(30)
    assert child.exitcode == -signal.SIGTERM
