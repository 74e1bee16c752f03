"""Residual noise: what is learned from scans is what is put back: strength, colour, loudness, and where it is how strong."""

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.optim import Adam

from diffaug.generator import tiles
from diffaug.generator.fit_residual_noise import energy_score
from diffaug.generator.residual_noise import NOISES, REACH, ResidualNoise

SIZE = (12, 14, 16)


def white(seed, size=SIZE, smooth=0.0):
    made = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(seed))
    if not smooth:
        return made
    blurred = torch.from_numpy(gaussian_filter(made.numpy(), (0, 0, smooth, smooth, smooth), mode="wrap"))
    return blurred / blurred.std()


def draws(network, lost, count, seed=0):
    noises = torch.Generator().manual_seed(seed)
    size = lost.shape[2:]
    noise = torch.stack([network.draw(size, noises) for _ in range(count)])
    many = lost.expand(count, -1, -1, -1, -1)
    return network(torch.zeros_like(many), many, noise)


def trained(truth, lost, steps=250):
    """Train on draws of a truth, as the objective does on scans."""
    torch.manual_seed(0)
    network = ResidualNoise(1, width=8)
    optimiser = Adam(network.parameters(), 1e-2)
    for step in range(steps):
        y = torch.cat([truth(4 * step + k) for k in range(4)])
        many = lost.expand(4, -1, -1, -1, -1)
        first, second = (
            network(torch.zeros_like(many), many, torch.stack([network.draw(lost.shape[2:]) for _ in range(4)]))
            for _ in range(2)
        )
        optimiser.zero_grad()
        energy_score(first, second, y).backward()
        optimiser.step()
    with torch.no_grad():
        return draws(network, lost, 40)


def roughness(volumes):
    return float(volumes.diff(dim=4).square().mean() / volumes.square().mean())


def test_it_begins_with_white_noise_as_strong_as_is_estimated():
    lost = torch.full((1, 1, *SIZE), 0.02)
    lost[..., 8:] = 0.2
    with torch.no_grad():
        made = draws(ResidualNoise(1), lost, 30)
    assert made[..., :8].flatten(1).std(1).median() == pytest.approx(0.02, rel=0.1)
    assert made[..., 8:].flatten(1).std(1).median() == pytest.approx(0.2, rel=0.1)
    assert roughness(made[..., 8:]) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("smooth", [0.0, 0.8])
def test_it_learns_strength_and_colour_of_what_is_lost(smooth):
    made = trained(lambda seed: 0.05 * white(seed, smooth=smooth), torch.full((1, 1, *SIZE), 0.1))
    assert made.std() == pytest.approx(0.05, rel=0.2)
    truth = torch.cat([white(seed, smooth=smooth) for seed in range(20)])
    assert roughness(made) == pytest.approx(roughness(truth), rel=0.25)


def test_it_learns_that_some_scans_are_louder_than_others():
    def truth(seed):
        return (0.03 if seed % 2 else 0.15) * white(seed)

    made = trained(truth, torch.full((1, 1, *SIZE), 0.1), steps=400)
    loud = made.flatten(1).std(1)
    assert loud.max() > 1.8 * loud.min()


def test_draws_of_the_truth_score_best():
    torch.manual_seed(0)

    def score(scale, smooth=0.0):
        return float(
            torch.stack(
                [
                    energy_score(
                        scale * white(3 * n, smooth=smooth), scale * white(3 * n + 1, smooth=smooth), white(3 * n + 2)
                    )
                    for n in range(30)
                ]
            ).mean()
        )

    right = score(1.0)
    for wrong in (score(0.6), score(1.5), score(1.0, smooth=0.8)):
        assert wrong > right + 0.01


def test_channels_have_noise_of_their_own_and_volumes_stay_in_range():
    network, lost = ResidualNoise(2), torch.full((1, 2, *SIZE), 0.3)
    noise = network.draw(SIZE, torch.Generator().manual_seed(0))[None]
    with torch.no_grad():
        made = network(torch.zeros_like(lost), lost, noise)
        full = network.add(torch.full_like(lost, 0.99), lost, noise)
    assert abs(float(torch.corrcoef(made[0].flatten(1))[0, 1])) < 0.1
    assert full.max() == 1


@pytest.mark.parametrize("size", [(12, 14, 16), (5, 9, 3), (2, 2, 2)])
def test_noise_is_a_function_of_its_generator_and_fits_any_size(size):
    first, again, other = (ResidualNoise.draw(size, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == (NOISES, *size)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_large_volumes_are_done_in_tiles_without_seams(monkeypatch):
    torch.manual_seed(0)
    network = ResidualNoise(1)
    with torch.no_grad():
        network.gains.weight.normal_(0, 0.1)
        volumes, lost = torch.randn(1, 1, 20, 20, 20), torch.rand(1, 1, 20, 20, 20) + 0.1
        noise = network.draw((20, 20, 20))[None]
        whole = network(volumes, lost, noise)
        monkeypatch.setattr(tiles.in_tiles, "__defaults__", (8,))
        torch.testing.assert_close(network(volumes, lost, noise), whole, atol=1e-5, rtol=1e-5)
    assert REACH == 3
