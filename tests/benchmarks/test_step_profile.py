import numpy as np
import pytest
import torch
from test_measuring import Clock
from torch import nn

from benchmarks import measuring, step_profile
from benchmarks.medicaldiffusion_shims import RotaryEmbedding, check_shape, load_medicaldiffusion, rearrange_many
from benchmarks.step_profile import flops, profile_fit
from diffaug.budgets import Training
from diffaug.errors import DiffaugError


class SlowLine:
    """Fits one weight, and takes known times."""

    averaged = "line"
    watch = None

    def __init__(self, clock):
        self.clock = clock
        self.networks = {"line": nn.Linear(1, 1)}

    def example(self, generator: np.random.Generator):
        self.clock.sleep(1)
        return torch.ones(1)

    def optimizers(self, learning_rate):
        return {"line": torch.optim.SGD(self.networks["line"].parameters(), learning_rate)}

    def losses(self, batch, progress):
        self.clock.sleep(2)
        yield "line", self.networks["line"](batch).square().mean(), {}

    def validate(self, average):
        self.clock.sleep(7)
        return {"held_out": 0.0}

    def preview(self, file, average):
        pass


def test_a_profile_finds_where_the_time_goes_and_leaves_out_what_runs_beside(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, measuring, step_profile)
    training = Training(steps=20, batch_size=1, learning_rate=0.1, ema_decay=0.9)
    beside = {"other": lambda batch, progress: clock.sleep(5)}
    profile = profile_fit(SlowLine(clock), training, tmp_path, beside, every=2)
    spent = {part: seconds for part, seconds in profile.parts.items() if seconds}
    validations = spent["validation"] / 7
    assert spent == {"data": 20, "forward and loss": 40, "validation": 7 * validations}
    assert validations >= 1
    assert profile.beside == {"other": [5] * 10}
    assert profile.seconds == 60 + 7 * validations
    assert profile.overhead == pytest.approx(1 - 40 / profile.seconds)


def test_a_short_fit_validates_as_often_per_step_as_the_whole_one(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, measuring, step_profile)
    seconds = {}
    for steps in (200, 20):
        (tmp_path / str(steps)).mkdir()
        training = Training(steps=steps, batch_size=1, learning_rate=0.1)
        profile = profile_fit(SlowLine(clock), training, tmp_path / str(steps), {}, whole=200)
        seconds[steps] = profile.parts["validation"] / steps
    assert seconds[20] == seconds[200] > 0


def test_flops_of_a_convolution_are_counted():
    convolution = nn.Conv3d(2, 3, 3, padding=1)
    assert flops(lambda: convolution(torch.ones(1, 2, 4, 4, 4))) == 2 * 2 * 3 * 27 * 4**3


def test_rotary_embedding_makes_products_depend_on_the_distance_alone():
    rotate = RotaryEmbedding(8).rotate_queries_or_keys
    query, key = torch.randn(8).expand(6, 8), torch.randn(8).expand(6, 8)
    products = rotate(query) @ rotate(key).T
    assert torch.allclose(products.diagonal(1), products[0, 1].expand(5), atol=1e-5)
    assert torch.allclose(rotate(query).norm(dim=-1), query.norm(dim=-1), atol=1e-5)
    assert not torch.allclose(products[0, 0], products[0, 3], atol=1e-3)


def test_substitutes_for_einops_extras():
    first, second = rearrange_many((torch.zeros(2, 6), torch.ones(2, 6)), "b (h c) -> b h c", h=3)
    assert first.shape == second.shape == (2, 3, 2)
    with pytest.raises(Exception, match="[Ss]hape"):
        check_shape(torch.zeros(2, 3), "b c", c=4)


def test_a_folder_without_its_code_is_refused_in_one_line(tmp_path):
    with pytest.raises(DiffaugError, match="found no ddpm/diffusion.py, expected a checkout"):
        load_medicaldiffusion(tmp_path)
