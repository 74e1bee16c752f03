"""The denoiser's contract and its preconditioning."""

import pytest
import torch

from diffaug.generator.denoiser import Denoiser
from diffaug.generator.diffusion import LOG_MEAN, LOG_STD, denoising_error, draw_sigma

PLACES = torch.zeros(2, 3, 8, 8, 8)


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    return Denoiser(latent_channels=4, channels=[8, 8], blocks=1, attention=True).eval()


@pytest.fixture
def seen(denoiser, monkeypatch):
    """What the raw network is given; it answers with what is put into `answer`."""
    record = {"answer": None}

    def network(x, timesteps):
        record["x"], record["timesteps"] = x, timesteps
        return record["answer"] if record["answer"] is not None else torch.zeros_like(x[:, :4])

    monkeypatch.setattr(denoiser.network, "forward", network)
    return record


@torch.no_grad()
def test_without_noise_the_input_is_returned(denoiser):
    latent = torch.randn(2, 4, 8, 8, 8)
    torch.testing.assert_close(denoiser(latent, torch.full((2,), 1e-5), PLACES), latent, atol=1e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("sigma", [0.01, 0.5, 1.0, 10.0, 80.0])
def test_the_network_sees_unit_variance_and_aims_at_unit_variance(denoiser, seen, sigma):
    latent, noise = torch.randn(2, 4, 32, 32, 32), torch.randn(2, 4, 32, 32, 32)
    places = torch.zeros(2, 3, 32, 32, 32)
    noisy, levels = latent + sigma * noise, torch.full((2,), sigma)
    base = denoiser(noisy, levels, places)
    assert float(seen["x"][:, :4].std()) == pytest.approx(1, abs=0.01)
    seen["answer"] = torch.ones_like(latent)
    target = (latent - base) / (denoiser(noisy, levels, places) - base)  # what the network would have to say
    assert float(target.std()) == pytest.approx(1, abs=0.01)
    seen["answer"] = target
    torch.testing.assert_close(denoiser(noisy, levels, places), latent, atol=1e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_loss_of_a_silent_network_is_one_at_every_level(denoiser, seen, sigma):
    latent, noise = torch.randn(2, 4, 24, 24, 24), torch.randn(2, 4, 24, 24, 24)
    error = denoising_error(denoiser, latent, torch.full((2,), sigma), noise, torch.zeros(2, 3, 24, 24, 24))
    assert error.shape == (2,)
    assert float(error.mean()) == pytest.approx(1, abs=0.03)


@torch.no_grad()
def test_each_volume_has_its_own_level_and_place(denoiser):
    for parameter in denoiser.parameters():  # an untrained network may say nothing
        torch.nn.init.normal_(parameter, std=0.1)
    latent = torch.randn(1, 4, 8, 8, 8).repeat(2, 1, 1, 1, 1)
    places = torch.stack([torch.full((3, 8, 8, 8), v) for v in (-1.0, 1.0)])
    both = denoiser(latent, torch.tensor([0.5, 2.0]), places)
    for i, sigma in enumerate((0.5, 2.0)):
        alone = denoiser(latent[:1], torch.tensor([sigma]), places[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-4, rtol=1e-4)
    same_level = denoiser(latent, torch.tensor([0.5, 0.5]), places)
    assert not torch.allclose(same_level[0], same_level[1]), "the place matters"


@torch.no_grad()
@pytest.mark.parametrize("size", [(2, 4, 6), (8, 2, 2)])
def test_any_size_that_halves_is_taken(denoiser, size):
    assert denoiser(torch.randn(1, 4, *size), torch.ones(1), torch.zeros(1, 3, *size)).shape == (1, 4, *size)


@torch.no_grad()
def test_conditions_are_shown_to_every_cell_and_zero_is_unknown(monkeypatch):
    torch.manual_seed(0)
    denoiser = Denoiser(latent_channels=4, channels=[8, 8], blocks=1, attention=False, condition_channels=2).eval()
    for parameter in denoiser.parameters():  # an untrained network may say nothing
        torch.nn.init.normal_(parameter, std=0.1)
    record, network = [], denoiser.network.forward
    monkeypatch.setattr(denoiser.network, "forward", lambda x, t: record.append(x) or network(x, t))
    noisy, levels = torch.randn(2, 4, 8, 8, 8), torch.ones(2)
    told = torch.tensor([[1.0, 0.0], [0.0, -0.5]])
    known = denoiser(noisy, levels, PLACES, told)
    for volume, values in zip(record[-1], told, strict=True):
        assert torch.equal(volume[-2:], values[:, None, None, None].expand(2, 8, 8, 8))
    unknown = denoiser(noisy, levels, PLACES)
    assert torch.equal(record[-1][:, -2:], torch.zeros(2, 2, 8, 8, 8))
    assert torch.equal(unknown, denoiser(noisy, levels, PLACES, torch.zeros(2, 2)))
    assert not torch.allclose(known, unknown)


@torch.no_grad()
def test_loss_is_that_of_the_conditional_denoiser(monkeypatch):
    denoiser = Denoiser(latent_channels=4, channels=[8, 8], blocks=1, attention=False, condition_channels=2).eval()
    told, shown = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), []
    monkeypatch.setattr(denoiser, "forward", lambda x, sigma, places, condition: shown.append(condition) or x)
    denoising_error(denoiser, torch.zeros(2, 4, 8, 8, 8), torch.ones(2), torch.ones(2, 4, 8, 8, 8), PLACES, told)
    assert shown == [told]


def test_noise_levels_are_log_normal():
    torch.manual_seed(0)
    logs = draw_sigma(20_000, torch.device("cpu")).log()
    assert float(logs.mean()) == pytest.approx(LOG_MEAN, abs=0.03)
    assert float(logs.std()) == pytest.approx(LOG_STD, rel=0.03)


@torch.no_grad()
@pytest.mark.parametrize("size", [(5, 7, 6), (1, 8, 3), (8, 8, 8)])
def test_latents_that_do_not_halve_evenly_keep_their_size(size):
    torch.manual_seed(0)
    denoiser = Denoiser(latent_channels=4, channels=[8, 8, 8], blocks=1, attention=False).eval()
    noisy = torch.randn(1, 4, *size)
    assert denoiser(noisy, torch.ones(1), torch.zeros(1, 3, *size)).shape == noisy.shape
