"""The training loop: interrupted anywhere and by anything, it ends with the very weights of an unbroken run."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diffaug.budgets import Training
from diffaug.errors import DiffaugError
from diffaug.training import checkpoint, loop
from diffaug.training.batches import StepBatches, loader
from diffaug.training.devices import start_fabric
from diffaug.training.log import read_log
from diffaug.training.loop import train
from diffaug.training.overfitting import Watch, find_onset
from diffaug.training.step import AVERAGING, learning_rate_scale

TRAINING = Training(steps=30, batch_size=4, learning_rate=1e-2, warmup_steps=3, ema_decay=0.9, seed=1)
LAST = TRAINING.steps - 1


@pytest.fixture(scope="module", autouse=True)
def a_checkpoint_at_every_line_of_the_log():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SAVING", 1e9)
        yield


class Wobbly(nn.Module):
    """Weights, a moving buffer and random noise: all that a resume could forget."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.mean(0), 0.1)
        return self.layers(x - self.mean)


class Regression:
    """Two networks with an optimiser each, one of them averaged; stops, or spoils its loss, at a given step."""

    averaged = "one"
    watch = None

    def __init__(self, noise=0.1, stop_at=None, stop=KeyboardInterrupt, spoil=None):
        torch.manual_seed(0)
        self.networks = {"one": Wobbly(), "other": nn.Linear(6, 1)}
        self.noise, self.stop_at, self.stop, self.spoil = noise, stop_at, stop, spoil
        self.drawn = 0

    def example(self, generator):
        self.drawn += 1
        if self.stop_at is not None and self.drawn > self.stop_at * TRAINING.batch_size:
            raise self.stop
        x = generator.normal(size=6).astype(np.float32)
        return torch.from_numpy(x), torch.from_numpy(x[:1] ** 2)

    def optimizers(self, learning_rate):
        return {name: torch.optim.Adam(net.parameters(), learning_rate) for name, net in self.networks.items()}

    def losses(self, batch, progress):
        x, y = batch
        for name, network in self.networks.items():
            loss = (network(x + self.noise * torch.randn_like(x)) - y).square().mean()
            yield (
                name,
                self.spoil(loss, progress, network) if self.spoil else loss,
                {"progress": loss.detach() * 0 + progress},
            )

    def validate(self, average):
        with torch.no_grad():
            return {"held_out": float(average.module.layers(torch.ones(1, 6)).mean())}

    def preview(self, file, average):
        file.write_bytes(b"picture")


def run(folder: Path, objective=None, training=TRAINING, identity="same"):
    objective = objective or Regression()
    folder.mkdir(exist_ok=True)
    average = train(
        objective,
        objective.example,
        training,
        fabric=start_fabric("cpu"),
        folder=folder,
        name="fit",
        identity=identity,
    )
    return objective, average


def state(folder: Path) -> dict:
    return torch.load(folder / "fit.state.pt", weights_only=True)


def assert_equal(a, b, where="state") -> None:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{i}")
    else:
        assert a == b, where


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loop") / "unbroken"
    run(folder)
    return folder


def figures(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(folder / "log.jsonl")]


@pytest.mark.parametrize("stop_at", [0, 1, 13, LAST])
def test_resumed_run_equals_unbroken_run(tmp_path, unbroken, stop_at):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Regression(stop_at=stop_at))
    assert (tmp_path / "fit.state.pt").exists() == (stop_at > 0)
    objective, average = run(tmp_path)
    assert_equal(state(tmp_path), state(unbroken))
    assert_equal(dict(objective.networks["one"].state_dict()), state(unbroken)["networks"]["one"])
    assert_equal(dict(average.state_dict()), state(unbroken)["average"])
    assert figures(tmp_path) == figures(unbroken)


def test_two_interruptions_are_like_none(tmp_path, unbroken):
    for stop_at in (7, 9):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Regression(stop_at=stop_at))
    run(tmp_path)
    assert_equal(state(tmp_path), state(unbroken))


SLOW = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import torch
torch.set_num_threads(1)
from test_loop import TRAINING, Regression, run
objective = Regression()
example = objective.example
def slowly(generator):
    time.sleep(0.01)
    return example(generator)
objective.example = slowly
"""
SLOWLY = SLOW + "run(Path(sys.argv[1]), objective)"


def test_killed_run_equals_unbroken_run(tmp_path, unbroken, kill_when):
    """In a process of its own: a forked one cannot go backward once this one's autograd has threads."""
    here = Path(__file__).parent
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "-c", SLOWLY, *map(str, (tmp_path, here, here.parent))]
    kill_when(command, lambda: log.exists() and log.read_text().count("\n") >= 5)
    assert state(tmp_path)["step"] < TRAINING.steps
    run(tmp_path)
    assert_equal(state(tmp_path), state(unbroken))


def test_finished_run_is_not_redone(tmp_path):
    run(tmp_path)
    before = (tmp_path / "fit.state.pt").read_bytes()
    objective, _ = run(tmp_path)
    assert objective.drawn == 0
    assert (tmp_path / "fit.state.pt").read_bytes() == before


def test_workers_change_nothing(tmp_path, unbroken):
    objective, _ = run(tmp_path, training=Training(**{**vars(TRAINING), "workers": 2}))
    assert_equal(dict(objective.networks["one"].state_dict()), state(unbroken)["networks"]["one"])


def test_log_has_no_line_beyond_the_checkpoint_after_a_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Regression(stop_at=10))
    log = tmp_path / "log.jsonl"
    with log.open("a") as file:
        file.write(json.dumps({"fit": "fit", "step": 11, "one_loss": 1.0}) + "\n")
        file.write(json.dumps({"fit": "another", "step": 99, "loss": 1.0}) + "\n")
        file.write('{"fit": "fit", "st')
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Regression(stop_at=0))
    lines = read_log(log)
    assert max(line["step"] for line in lines if line["fit"] == "fit") == 10
    assert [line["step"] for line in lines if line["fit"] == "another"] == [99], "another fit's lines are kept"
    assert len(log.read_text().splitlines()) == len(lines), "the half line is gone"


def test_checkpoints_that_take_long_are_few_and_change_nothing(tmp_path, unbroken, monkeypatch):
    written = []
    save = loop.torch.save

    def slow(content, file):
        time.sleep(0.05)
        written.append(content["step"])
        save(content, file)

    monkeypatch.setattr(checkpoint, "SAVING", 0.02)
    monkeypatch.setattr(loop.torch, "save", slow)
    run(tmp_path)
    assert written == [1, TRAINING.steps], "the first tells what one costs; the last holds the result"
    assert_equal(state(tmp_path), state(unbroken))


def test_long_run_logs_a_hundred_times_and_validates_ten_times(tmp_path):
    run(tmp_path, training=Training(**{**vars(TRAINING), "steps": 400}))
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(4, 401, 4))
    assert [line["step"] for line in lines if "held_out" in line] == list(range(40, 401, 40))


def _not_a_number(loss, progress, network):
    return loss * float("nan") if progress >= 0.5 else loss


def _infinite_gradient(loss, progress, network):
    """The loss stays finite; its gradient does not: the derivative of a square root at zero."""
    return loss + (next(network.parameters()).sum() * 0).sqrt() if progress >= 0.5 else loss


@pytest.mark.parametrize("spoil", [_not_a_number, _infinite_gradient])
@pytest.mark.parametrize("steps", [30, 400])
def test_divergence_stops_the_run_and_leaves_a_sound_checkpoint(tmp_path, refusal, spoil, steps):
    training = Training(**{**vars(TRAINING), "steps": steps})
    message = refusal(run, tmp_path, Regression(spoil=spoil), training)
    assert str(tmp_path) in message
    assert "not finite" in message
    kept = state(tmp_path)
    assert 0 < kept["step"] <= steps // 2
    for weights in (*kept["networks"].values(), kept["average"]):
        assert all(tensor.isfinite().all() for tensor in weights.values()), "the checkpoint is poisoned"


def test_divergence_in_the_last_step_makes_no_model(tmp_path, refusal):
    def spoil(loss, progress, network):
        return _infinite_gradient(loss, float(progress >= LAST / TRAINING.steps), network)

    refusal(run, tmp_path, Regression(spoil=spoil))
    assert state(tmp_path)["step"] == LAST


@pytest.mark.parametrize("change", [{"identity": "other"}, {"training": Training(**{**vars(TRAINING), "seed": 2})}])
def test_checkpoint_of_other_settings_is_refused(tmp_path, refusal, change):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Regression(stop_at=5))
    before = (tmp_path / "fit.state.pt").read_bytes()
    message = refusal(run, tmp_path, **change)
    assert str(tmp_path / "fit.state.pt") in message
    assert (tmp_path / "fit.state.pt").read_bytes() == before


@pytest.mark.parametrize("keep", [0, 100, 0.9])
def test_truncated_checkpoint_is_refused(tmp_path, refusal, keep):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Regression(stop_at=5))
    file = tmp_path / "fit.state.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[: keep if keep > 1 else int(keep * len(whole))])
    assert str(file) in refusal(run, tmp_path)


def test_foreign_checkpoint_is_refused(tmp_path, refusal):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "fit.state.pt")
    assert str(tmp_path / "fit.state.pt") in refusal(run, tmp_path)


def test_failure_while_a_checkpoint_is_written_keeps_the_one_before(tmp_path, unbroken, monkeypatch):
    save, calls = torch.save, []

    def fails_halfway(content, file):
        calls.append(file)
        save(content, file)
        if len(calls) == 6:
            file.write_bytes(file.read_bytes()[:99])
            raise RuntimeError("the writer gave up")

    monkeypatch.setattr(torch, "save", fails_halfway)
    with pytest.raises(RuntimeError, match="gave up"):
        run(tmp_path)
    monkeypatch.setattr(torch, "save", save)
    assert state(tmp_path)["step"] == 5
    assert not list(tmp_path.glob(".*")), "nothing half-written remains"
    run(tmp_path)
    assert_equal(state(tmp_path), state(unbroken))


def test_learning_rate_warms_up_then_falls_to_zero():
    training = Training(steps=1000, batch_size=1, learning_rate=1.0, warmup_steps=100)
    scale = [learning_rate_scale(step, training) for step in range(1000)]
    assert scale == [learning_rate_scale(step, training) for step in range(1000)], "a pure function"
    np.testing.assert_allclose(np.diff(scale[:100]), 0.01)
    assert scale[99] == 1
    assert (np.diff(scale[100:]) < 0).all()
    assert 0 < scale[-1] < 1e-4
    assert scale[550] == pytest.approx(0.5)


@pytest.mark.parametrize("warmup, steps", [(0, 5), (50, 5), (5, 5)])
def test_learning_rate_is_positive_in_short_runs(warmup, steps):
    training = Training(steps=steps, batch_size=1, learning_rate=1.0, warmup_steps=warmup)
    assert all(0 < learning_rate_scale(step, training) <= 1 for step in range(steps))


def test_averages_follow_the_weights_and_start_as_them(tmp_path):
    objective = Regression(stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, objective)
    content = state(tmp_path)
    for name, weight in objective.networks["one"].named_parameters():
        torch.testing.assert_close(content["average"][f"module.{name}"], weight.detach())
    assert content["average"]["n_averaged"] == 1


def test_without_a_decay_there_is_no_average(tmp_path):
    objective = Regression()
    objective.validate = lambda average: {"held_out": 0.0 if average is None else 1.0}
    _, average = run(tmp_path, objective, Training(**{**vars(TRAINING), "ema_decay": None}))
    assert average is None
    assert read_log(tmp_path / "log.jsonl")[-1]["held_out"] == 0


def test_a_step_sees_the_same_examples_however_many_processes_and_workers():
    def example(generator):
        return torch.from_numpy(generator.normal(size=3))

    def batches(rank, world):
        return StepBatches(example, steps=5, batch_size=4, seed=3, rank=rank, world_size=world)

    whole = batches(0, 1)[2]
    assert torch.equal(torch.cat([batches(rank, 2)[2] for rank in (0, 1)]), whole)
    assert not torch.equal(whole, batches(0, 1)[3])
    assert len(set(whole.flatten().tolist())) == 12, "no two examples of a batch are alike"
    assert torch.equal(next(iter(loader(batches(0, 1), start=2, workers=0, pin=False))), whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_examples_complaint_stays_one_line_from_whichever_process(workers, refusal):
    def example(generator):
        raise DiffaugError("volume.npy: broken")

    batches = StepBatches(example, steps=2, batch_size=1, seed=0, rank=0, world_size=1)
    told = refusal(lambda: next(iter(loader(batches, start=0, workers=workers, pin=False))))
    assert told == "volume.npy: broken"


def test_a_loading_process_that_is_killed_is_told_in_one_line(refusal):
    def example(generator):
        os.kill(os.getpid(), signal.SIGKILL)

    batches = StepBatches(example, steps=2, batch_size=1, seed=0, rank=0, world_size=1)
    assert "--ipc=host" in refusal(lambda: next(iter(loader(batches, start=0, workers=1, pin=False))))


class Turning(Regression):
    """Its held-out loss falls until step 30, then rises."""

    watch = Watch(loss="held_out", patience=2)

    def validate(self, average):
        return {"held_out": abs(float(average.n_averaged) - -(-30 // AVERAGING))}


HUNDRED = replace(TRAINING, steps=100)


def test_a_fit_that_turns_stops_and_keeps_the_weights_before(tmp_path):
    _, average = run(tmp_path / "turning", Turning(), HUNDRED)
    assert figures(tmp_path / "turning")[-1]["step"] == 50, "two validations after the best one"
    assert int(average.n_averaged) == -(-30 // AVERAGING)
    objective = Regression(stop_at=30)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "short", objective, HUNDRED)
    kept = state(tmp_path / "short")
    assert kept["step"] == 30
    assert_equal(average.state_dict(), kept["average"])


def test_a_stopped_fit_is_not_gone_on_with(tmp_path):
    _, first = run(tmp_path, Turning(), HUNDRED)
    again, second = run(tmp_path, Turning(), HUNDRED)
    assert again.drawn <= TRAINING.batch_size, "one batch is fetched before it is seen that none is needed"
    assert_equal(first.state_dict(), second.state_dict())


def test_device_that_is_not_there_is_refused(refusal):
    assert "'tpu'" in refusal(start_fabric, "tpu")
    if not torch.cuda.is_available():
        assert "no GPU" in refusal(start_fabric, "cuda")


ALONE_OR_TWO = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_loop import Regression, Training, TRAINING, run
objective = Regression(noise=0)
del objective.networks["one"].layers[2]  # dropout, and a buffer that follows each process's own share of the batch
objective.networks["one"].forward = lambda x: objective.networks["one"].layers(x)
run(Path(sys.argv[1]), objective, Training(**{**vars(TRAINING), "batch_size": int(sys.argv[3])}))
"""


def torchrun(processes: int, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=180
    )


AT_ODDS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_loop import HUNDRED, Turning, run
objective, rank = Turning(), int(os.environ["RANK"])
if rank:
    objective.validate = lambda average: {"held_out": 1 / float(average.n_averaged)}
run(Path(sys.argv[1]), objective, HUNDRED)
(Path(sys.argv[1]).parent / f"drawn-by-{rank}").write_text(str(objective.drawn))
"""


@pytest.mark.slow
def test_processes_whose_figures_differ_turn_together(tmp_path):
    """Otherwise one would wait for the others' gradients until it is killed."""
    script = tmp_path / "script.py"
    script.write_text(AT_ODDS)
    done = torchrun(2, script, tmp_path / "run", Path(__file__).parent)
    assert done.returncode == 0, done.stderr[-3000:]
    assert figures(tmp_path / "run")[-1]["step"] == 50
    drawn = [file.read_text() for file in tmp_path.glob("drawn-by-*")]
    assert len(drawn) == 2
    assert len(set(drawn)) == 1


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ALONE_OR_TWO)
    for processes in (1, 2):
        done = torchrun(processes, script, tmp_path / str(processes), Path(__file__).parent, 4)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = state(tmp_path / "1"), state(tmp_path / "2")
    for name in ("one", "other"):
        for key, tensor in one["networks"][name].items():
            torch.testing.assert_close(two["networks"][name][key], tensor, atol=1e-5, rtol=1e-4)
    odd = torchrun(2, script, tmp_path / "odd", Path(__file__).parent, 3)
    assert odd.returncode
    assert "batch size 3 does not divide among 2 processes" in odd.stderr


WATCH = Watch(loss="held_out", limits={"copies": 0.25}, patience=3)


def history(losses, copies=None):
    copies = copies or [0.0] * len(losses)
    return [{"held_out": loss, "copies": share} for loss, share in zip(losses, copies, strict=True)]


def test_a_falling_loss_never_stops():
    for length in range(1, 30):
        onset = find_onset(history([1 / n for n in range(1, length + 1)]), WATCH)
        assert (onset.best, onset.stop, onset.why) == (length - 1, False, "")


def test_a_loss_that_rises_stops_after_the_patience_and_its_minimum_is_kept():
    losses = [1.0, 0.8, 0.7, 0.75, 0.8, 0.85, 0.9]
    stops = [find_onset(history(losses[: n + 1]), WATCH).stop for n in range(len(losses))]
    assert stops == [False] * 5 + [True] * 2
    assert find_onset(history(losses), WATCH).best == 2
    assert find_onset(history(losses), WATCH).why == "held_out"


def test_a_loss_that_stays_level_goes_on():
    assert not find_onset(history([1.0, 0.7, *[0.703] * 10]), WATCH).stop


def test_copies_stop_a_fit_whose_loss_still_falls():
    losses = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    onset = find_onset(history(losses, [0, 0, 0, 0.5, 0.6, 0.9]), WATCH)
    assert (onset.best, onset.stop, onset.why) == (2, True, "copies")


def test_one_bad_look_at_copies_is_forgiven():
    losses = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    onset = find_onset(history(losses, [0, 0.5, 0, 0, 0.0, 0]), WATCH)
    assert (onset.best, onset.stop) == (5, False)


def test_if_everything_is_a_copy_the_first_weights_are_kept():
    onset = find_onset(history([1.0, 0.9, 0.8, 0.7], [1, 1, 1, 1]), WATCH)
    assert (onset.best, onset.stop, onset.why) == (0, True, "copies")


def test_a_figure_that_was_not_measured_limits_nothing():
    onset = find_onset([{"held_out": 1.0}, {"held_out": 0.5}], WATCH)
    assert (onset.best, onset.stop) == (1, False)


def test_a_missing_loss_is_an_error_not_a_guess():
    with pytest.raises(KeyError):
        find_onset([{"copies": 0.0}], WATCH)
