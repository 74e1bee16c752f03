"""Every sampler against the one case whose ideal denoiser is known: independent Gaussian data."""

import itertools
import math

import pytest
import torch

from diffaug.generator.samplers import (
    SAMPLERS,
    SIGMA_MAX,
    SIGMA_MIN,
    cosine_sigmas,
    ddim,
    ddpm,
    dpm_solver_pp_2m,
    guided,
    heun,
    karras_sigmas,
    run_sampler,
)

MU, S = 0.7, 0.5
COUNT = 20_000
STEPS = {"ddpm": 300, "ddim": 200, "heun": 48, "dpmpp": 60}  # so many that the solver's error is below 2 %


def ideal(x, sigma):
    """The posterior mean of x0 ~ N(MU, S^2) given x = x0 + sigma * noise."""
    return MU + S**2 / (S**2 + sigma**2) * (x - MU)


def exact(start, sigma):
    """Where the probability flow takes noise at `sigma`: the standardised value stays what it is."""
    return MU + (start - MU) * S / math.sqrt(S**2 + sigma**2)


def normal(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(count, generator=generator, dtype=torch.float64)


def unit_noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_reproduces_mean_and_standard_deviation(name):
    """With 20 000 draws the standard error is 0.0035 of the mean and 0.0025 of the deviation; the rest is the solver's."""
    drawn = run_sampler(name, STEPS[name], ideal, unit_noise(COUNT), normal(COUNT, seed=1))
    assert float(drawn.mean()) == pytest.approx(MU, abs=0.02)
    assert float(drawn.std()) == pytest.approx(S, rel=0.03)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp"])
def test_default_steps_keep_the_standard_deviation_of_standardised_latents(name):
    """One start suffices: for Gaussian data every solver is linear."""
    start = torch.ones(1, dtype=torch.float64)
    made = run_sampler(name, None, lambda x, sigma: x / (1 + sigma**2), start, None)
    assert float(made) == pytest.approx(SIGMA_MAX / math.sqrt(1 + SIGMA_MAX**2), rel=0.1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_single_step_gives_the_denoisers_own_estimate(name):
    start = unit_noise(5)
    sigmas = [SIGMA_MAX, 0.0]
    torch.testing.assert_close(
        SAMPLERS[name].run(ideal, start * SIGMA_MAX, sigmas, None), ideal(start * SIGMA_MAX, SIGMA_MAX)
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_point_mass_is_found_exactly(name):
    drawn = run_sampler(name, STEPS[name], lambda x, sigma: torch.full_like(x, 0.3), unit_noise(64), normal(64))
    torch.testing.assert_close(drawn, torch.full_like(drawn, 0.3), atol=1e-6, rtol=0)


def shifted(by):
    return lambda x, sigma: ideal(x - by, sigma) + by


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_of_one_is_the_conditional_denoiser_bit_for_bit(name):
    def never(x, sigma):
        raise AssertionError("an evaluation for nothing")

    plain = run_sampler(name, 10, shifted(0.4), unit_noise(64), normal(64))
    assert torch.equal(run_sampler(name, 10, guided(shifted(0.4), never, 1), unit_noise(64), normal(64)), plain)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("weight", [0, 0.5, 2, 3.5])
def test_guidance_moves_samples_of_linear_denoisers_in_proportion_to_its_weight(name, weight):
    """Both are ideal for Gaussians of one deviation, so the guided one is ideal for their extrapolated mean."""

    def drawn(denoise):
        return run_sampler(name, STEPS[name], denoise, unit_noise(64), normal(64))

    without, conditional = drawn(ideal), drawn(shifted(0.4))
    made = drawn(guided(shifted(0.4), ideal, weight))
    torch.testing.assert_close(made, without + weight * (conditional - without))
    torch.testing.assert_close(made - without, torch.full_like(made, weight * 0.4), atol=0.02, rtol=0)


def error(sampler, evaluations):
    start = unit_noise(500) * SIGMA_MAX
    sigmas = karras_sigmas((evaluations + 1) // 2 if sampler is heun else evaluations)
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return ideal(x, sigma)

    made = sampler(counted, start, sigmas, None)
    assert len(calls) <= evaluations
    return float((made - exact(start, SIGMA_MAX)).abs().max())


@pytest.mark.parametrize("evaluations", [63, 127])
def test_higher_order_is_more_accurate_at_equal_evaluations(evaluations):
    first = error(ddim, evaluations)
    assert error(heun, evaluations) < first / 2
    assert error(dpm_solver_pp_2m, evaluations) < first / 2


@pytest.mark.parametrize("sampler, order", [(ddim, 1), (heun, 2), (dpm_solver_pp_2m, 2)])
def test_halving_the_steps_sizes_divides_the_error_by_two_to_the_order(sampler, order):
    coarse, fine = ([80 ** (1 - i / n) * 0.05 ** (i / n) for i in range(n + 1)] for n in (200, 400))
    start = unit_noise(500) * 80
    truth = MU + (start - MU) * math.sqrt((S**2 + 0.05**2) / (S**2 + 80**2))
    errors = [float((sampler(ideal, start, sigmas, None) - truth).abs().max()) for sigmas in (coarse, fine)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("steps", [1, 2, 16, 300])
def test_karras_levels_decrease_from_the_largest_to_zero(steps):
    sigmas = karras_sigmas(steps)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(SIGMA_MAX)
    assert sigmas[-1] == 0
    assert steps == 1 or sigmas[-2] == pytest.approx(SIGMA_MIN)
    assert all(a > b for a, b in itertools.pairwise(sigmas))


@pytest.mark.parametrize("steps", [1, 2, 50, 300, 1000])
def test_cosine_levels_never_rise_and_end_in_zero(steps):
    sigmas = cosine_sigmas(steps)
    assert len(sigmas) == steps + 1
    assert sigmas[-1] == 0 < sigmas[-2]
    assert max(sigmas) <= SIGMA_MAX
    assert all(a > b or a == b == SIGMA_MAX for a, b in itertools.pairwise(sigmas))


def test_ddpm_step_has_the_posteriors_mean_and_variance():
    """q(x_s | x_t, x0) of two Gaussian observations of x0: precision-weighted, from Bayes' rule alone."""
    sigma, after, x, clean = 2.0, 0.8, 1.5, 0.3
    jump = sigma**2 - after**2  # x_t = x_s + N(0, jump), x_s = x0 + N(0, after^2)
    variance = 1 / (1 / jump + 1 / after**2)
    mean = variance * (x / jump + clean / after**2)
    noise = unit_noise(200_000)
    calls = iter([noise])
    made = ddpm(
        lambda x, sigma: torch.full_like(x, clean), torch.full_like(noise, x), [sigma, after], lambda: next(calls)
    )
    assert float(made.mean()) == pytest.approx(mean, abs=0.005)
    assert float(made.var()) == pytest.approx(variance, rel=0.01)


def test_ddpm_draws_from_its_noise_alone():
    def drawn(seed):
        return run_sampler("ddpm", 20, ideal, unit_noise(10), normal(10, seed))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
