"""The Gaussian prior: exact where the latents are Gaussian, honest about what it does not know, EDM's without components."""

import pytest
import torch

from diffaug.generator.prior import GaussianPrior

SIZE = (2, 4, 3, 5)  # channels and cells


def gaussians(scans, views=1, spread=(6.0, 3.0, 2.0), rest=0.5, seed=0):
    """Draw latents from a Gaussian of three directions and an even rest; views of a scan differ by the rest alone."""
    torch.manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(120, 3, generator=torch.Generator().manual_seed(9)))[0].T
    mean = torch.linspace(-1, 1, 120)
    along = (torch.randn(scans, 3) * torch.tensor(spread)).repeat_interleave(views, 0)
    values = mean + along @ axes + rest**0.5 * torch.randn(scans * views, 120)
    covariance = axes.T @ torch.diag(torch.tensor(spread) ** 2) @ axes + rest * torch.eye(120)
    return values.view(-1, *SIZE), mean, covariance


def learned(latents, components=3, views=1):
    prior = GaussianPrior(SIZE[0], SIZE[1:], components)
    torch.manual_seed(0)
    prior.learn(latents, views)
    return prior


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_it_estimates_as_the_true_gaussian_would(sigma):
    latents, mean, covariance = gaussians(4000)
    prior = learned(latents)
    clean = gaussians(500, seed=1)[0]
    noisy = clean + sigma * torch.randn_like(clean)
    estimate, error = prior(noisy, torch.full((500,), sigma))
    gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(120))
    ideal = (mean + (noisy.flatten(1) - mean) @ gain).view_as(clean)
    wanted = (ideal - clean).square().mean().sqrt()
    assert (estimate - clean).square().mean().sqrt() < 1.03 * wanted
    assert float(error.square().mean().sqrt()) == pytest.approx(float(wanted), rel=0.06)


def test_it_knows_how_little_it_knows_of_scans_it_was_not_fitted_to():
    latents, _, covariance = gaussians(24, views=3)
    prior = learned(latents, components=6, views=3)
    unseen = gaussians(300, seed=5)[0]
    noisy = unseen + torch.randn_like(unseen)
    estimate, error = prior(noisy, torch.ones(300))
    truly = (estimate - unseen).square().mean().sqrt()
    assert float(error.square().mean().sqrt()) == pytest.approx(float(truly), rel=0.15)


def test_without_components_it_is_edms_skip_connection():
    prior = GaussianPrior(2)
    prior.learn(torch.randn(5, 2, 3, 3, 3), 1)
    noisy, sigma = torch.randn(2, 2, 4, 6, 5), torch.tensor([0.5, 3.0])
    estimate, error = prior(noisy, sigma)
    wide = sigma.view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(estimate, noisy / (1 + wide**2))
    torch.testing.assert_close(error, (wide / (1 + wide**2).sqrt()).expand(2, 2, 1, 1, 1))


def test_far_noise_leaves_the_mean_and_no_noise_leaves_the_latent():
    latents, mean, _ = gaussians(200)
    prior = learned(latents)
    estimate, _ = prior(latents[:2] + 1e4, torch.full((2,), 1e6))
    torch.testing.assert_close(estimate.flatten(1), mean.expand(2, -1), atol=0.2, rtol=0)
    estimate, error = prior(latents[:2], torch.full((2,), 1e-5))
    torch.testing.assert_close(estimate, latents[:2], atol=1e-4, rtol=1e-4)
    assert error.max() < 1e-4


def test_what_it_learned_travels_with_the_weights_and_needs_no_luck():
    latents = gaussians(50)[0]
    a, b = learned(latents), learned(latents)
    fresh = GaussianPrior(SIZE[0], SIZE[1:], 3)
    fresh.load_state_dict(a.state_dict())
    noisy, sigma = torch.randn(2, *SIZE), torch.ones(2)
    assert torch.equal(a(noisy, sigma)[0], b(noisy, sigma)[0])
    assert torch.equal(a(noisy, sigma)[0], fresh(noisy, sigma)[0])


def test_half_precision_around_it_changes_nothing():
    prior = learned(gaussians(50)[0])
    noisy, sigma = torch.randn(2, *SIZE), torch.ones(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(prior(noisy, sigma)[0], prior(noisy, sigma)[0].float())
        inside = prior(noisy, sigma)[0]
    torch.testing.assert_close(inside, prior(noisy, sigma)[0])
