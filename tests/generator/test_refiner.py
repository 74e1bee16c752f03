"""The refiner: what is lost between autoencoder and scan is drawn as it is in scans, where the reconstruction says."""

import copy

import pytest
import torch

from diffaug.budgets import Training
from diffaug.generator import tiles
from diffaug.generator.diffusion import denoising_error, draw_sigma
from diffaug.generator.refiner import Refiner, loudness_of
from diffaug.training.devices import start_fabric
from diffaug.training.loop import train
from diffaug.training.step import Unwatched

SHAPE = (8, 16, 16)
SKIN, GRAIN = 0.2, 0.05  # what a reconstruction lacks: a bright line, and noise that runs along X


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def scans(count):
    """Scans of two halves with a line between them, their reconstructions without the line, and what is expected to lack."""
    volumes, lines = torch.full((2, count, 1, *SHAPE), -0.5)
    for volume, line, edge in zip(volumes, lines, torch.randint(4, 12, (count,)).tolist(), strict=True):
        volume[:, :, edge:] = 0.3
        line[:] = 0
        line[:, :, edge] = SKIN
    white = torch.randn(count, 1, *SHAPE)
    grain = GRAIN * (white + white.roll(1, 4)) / 2**0.5
    return volumes + lines + grain, volumes, torch.full_like(volumes, 0.1)


class Toy(Unwatched):
    """Trains a refiner on such scans."""

    def __init__(self):
        self.networks = {"refiner": Refiner(image_channels=1, stride=[1, 2, 2], width=16, blocks=2)}

    def example(self, rng):
        torch.manual_seed(int(rng.integers(2**31)))
        return tuple(part[0] for part in scans(1))

    def optimizers(self, learning_rate):
        return {"refiner": torch.optim.AdamW(self.networks["refiner"].parameters(), learning_rate)}

    def losses(self, batch, progress):
        seen, volumes, lost = batch
        refiner, sigma = self.networks["refiner"], draw_sigma(len(seen), seen.device)
        residual = refiner.standardised(seen, volumes, lost)
        error = denoising_error(refiner, residual, sigma, torch.randn_like(residual), volumes, lost)
        yield "refiner", error.mean(), {}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    toy, settings = Toy(), Training(steps=250, batch_size=8, learning_rate=5e-3, warmup_steps=10)
    folder = tmp_path_factory.mktemp("refiner")
    train(toy, toy.example, settings, fabric=start_fabric("cpu"), folder=folder, name="refiner", identity=None)
    refiner = toy.networks["refiner"].eval()
    real, volumes, lost = scans(32)
    with torch.no_grad():
        drawn = refiner.draw(volumes, lost, torch.randn(volumes.shape))
    refiner.calibrate(loudness_of(refiner.standardised(real, volumes, lost)), loudness_of(drawn))
    return refiner


def refined(refiner, volumes, lost, white, chance=0.5):
    return refiner.refine(volumes, lost, white, torch.full((len(volumes),), chance))


@torch.no_grad()
def test_a_line_is_drawn_where_the_reconstruction_has_an_edge_and_nowhere_else(trained):
    real, volumes, lost = scans(12)
    made = refined(trained, volumes, lost, torch.randn(volumes.shape)) - volumes
    wanted = real - volumes
    line = wanted.mean((2, 4), keepdim=True) > SKIN / 2
    assert line.sum() == 12
    assert made.mean((2, 4), keepdim=True)[line].mean() == pytest.approx(SKIN, abs=0.05)
    assert made.mean((2, 4), keepdim=True)[~line].abs().mean() < 0.03


@torch.no_grad()
def test_grain_is_as_strong_and_as_smooth_as_that_of_the_scans(trained):
    real, volumes, lost = scans(12)
    made = refined(trained, volumes, lost, torch.randn(volumes.shape)) - volumes

    def figures(residual):
        grain = residual - residual.mean((2, 4), keepdim=True)
        return grain.std(), (grain[..., 1:] * grain[..., :-1]).mean() / grain.square().mean()

    strength, smoothness = figures(made)
    assert strength == pytest.approx(float(figures(real - volumes)[0]), rel=0.25)
    assert smoothness == pytest.approx(float(figures(real - volumes)[1]), abs=0.15)


@torch.no_grad()
def test_other_noise_draws_other_grain_and_the_same_noise_the_same(trained):
    _, volumes, lost = scans(2)
    one, other = torch.randn(2, *volumes.shape)
    torch.testing.assert_close(refined(trained, volumes, lost, one), refined(trained, volumes, lost, one))
    assert (refined(trained, volumes, lost, one) - refined(trained, volumes, lost, other)).std() > 0.5 * GRAIN


@torch.no_grad()
def test_what_is_expected_to_lack_little_is_changed_little_and_nothing_leaves_the_range(trained):
    _, volumes, lost = scans(4)
    white = torch.randn(volumes.shape)
    little = refined(trained, volumes, 0.01 * lost, white) - volumes
    assert little.abs().max() < 0.1 * SKIN
    assert refined(trained, volumes + 0.69, lost, white).max() == 1


@torch.no_grad()
def test_calibrated_it_draws_one_volume_as_smooth_as_the_smoothest_scans_and_another_as_noisy_as_the_noisiest(trained):
    refiner = copy.deepcopy(trained)
    real, volumes, lost = scans(48)
    loudness = torch.linspace(0.5, 1.5, len(real)).view(-1, 1, 1, 1, 1)
    true = refiner.standardised(volumes + loudness * (real - volumes), volumes, lost)
    drawn = refiner.draw(volumes, lost, torch.randn(volumes.shape))
    refiner.calibrate(loudness_of(true), loudness_of(drawn))

    def made(chance):
        refined_ones = refined(refiner, volumes, lost, torch.randn(volumes.shape), chance)
        return refiner.standardised(refined_ones, volumes, lost).square().mean().sqrt()

    assert [
        float(made(chance) / true[i].square().mean().sqrt()) for chance, i in ((0.0, 0), (0.5, 24), (0.999, 47))
    ] == (pytest.approx([1, 1, 1], rel=0.15))


@torch.no_grad()
def test_an_untrained_one_knows_nothing_but_the_noise_level():
    refiner = Refiner(image_channels=2, stride=[2, 2, 2], width=8, blocks=1)
    noisy, volumes = torch.randn(2, 1, 2, 8, 8, 8)
    made = refiner(noisy, torch.tensor([2.0]), volumes, torch.full_like(volumes, 0.1))
    torch.testing.assert_close(made, noisy / 5)


@torch.no_grad()
@pytest.mark.parametrize("stride", [[1, 2, 2], [2, 2, 2]])
def test_large_volumes_are_refined_in_tiles_that_leave_no_seams(stride, monkeypatch):
    refiner = Refiner(image_channels=1, stride=stride, width=8, blocks=1)
    for parameter in refiner.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    white, volumes = torch.randn(2, 1, 1, 8, 12, 64)
    lost = torch.full_like(volumes, 0.1)
    whole = refined(refiner, volumes, lost, white)
    assert (whole - volumes.clamp(-1, 1)).abs().mean() > 1e-3
    monkeypatch.setattr(tiles.in_tiles, "__defaults__", (16,))
    torch.testing.assert_close(refined(refiner, volumes, lost, white), whole, atol=1e-4, rtol=1e-4)
