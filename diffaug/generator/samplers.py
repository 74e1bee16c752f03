"""Samplers as free functions over `denoise(x, sigma) -> x0`, each readable beside its paper.

All work on x = x0 + sigma * noise (variance exploding), to which every other form is a change of variables, and take
`sigmas` from large to small, the last one zero. `x` comes in as noise of standard deviation `sigmas[0]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads the registry, and need not wait for torch
    from torch import Tensor

    Denoise = Callable[[Tensor, float], Tensor]
    Noise = Callable[[], Tensor]

SIGMA_MIN, SIGMA_MAX = 0.01, 80.0  # the noise levels between which the denoiser is asked


def karras_sigmas(steps: int) -> list[float]:
    """EDM's noise levels (arXiv 2206.00364, equation 5, rho = 7), then zero.

    Args:
        steps: Number of steps.

    Returns:
        `steps + 1` levels.
    """
    high, low = SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7)
    return [(high + i / max(1, steps - 1) * (low - high)) ** 7 for i in range(steps)] + [0.0]


def cosine_sigmas(steps: int) -> list[float]:
    """The cosine schedule of improved DDPM (arXiv 2102.09672, equation 17), which "Medical Diffusion" uses, then zero.

    Args:
        steps: Number of steps.

    Returns:
        `steps + 1` levels; the first ones are cut off at the largest level the denoiser knows.
    """

    def kept(t: int) -> float:
        return math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    shares = [kept(t) / kept(0) for t in range(steps, 0, -1)]
    return [min(SIGMA_MAX, math.sqrt((1 - a) / max(a, 1e-12))) for a in shares] + [0.0]


def ddpm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Ancestral sampling of DDPM (arXiv 2006.11239, algorithm 2 with the posterior of equations 6 and 7).

    Args:
        denoise: The denoiser.
        x: Noise.
        sigmas: Noise levels.
        noise: Gives unit noise of the shape of `x`.

    Returns:
        A sample.
    """
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        share = (after / sigma) ** 2
        x = share * x + (1 - share) * denoise(x, sigma)
        if after > 0:
            x = x + after * math.sqrt(1 - share) * noise()
    return x


def ddim(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Deterministic DDIM (arXiv 2010.02502, equation 12 with eta = 0), which is Euler's method in sigma.

    Args:
        denoise: The denoiser.
        x: Noise.
        sigmas: Noise levels.
        noise: Not used; all samplers have one signature.

    Returns:
        A sample.
    """
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = x + (after - sigma) * (x - denoise(x, sigma)) / sigma
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Heun's second-order method (EDM, arXiv 2206.00364, algorithm 1): two evaluations a step, one in the last.

    Args:
        denoise: The denoiser.
        x: Noise.
        sigmas: Noise levels.
        noise: Not used; all samplers have one signature.

    Returns:
        A sample.
    """
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (x - denoise(x, sigma)) / sigma
        guess = x + (after - sigma) * slope
        if after > 0:
            slope = (slope + (guess - denoise(guess, after)) / after) / 2
        x = x + (after - sigma) * slope
    return x


def dpm_solver_pp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): second order, one evaluation a step.

    Args:
        denoise: The denoiser.
        x: Noise.
        sigmas: Noise levels.
        noise: Not used; all samplers have one signature.

    Returns:
        A sample.
    """
    old: Tensor | None = None
    old_step = 0.0
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        clean = denoise(x, sigma)
        if after == 0:
            return clean  # the solver's limit: a first-order step to zero
        step = math.log(sigma / after)
        blend = clean if old is None or old_step == 0 else clean + step / (2 * old_step) * (clean - old)
        x = (after / sigma) * x - math.expm1(-step) * blend
        old, old_step = clean, step
    return x


def guided(conditional: Denoise, unconditional: Denoise, weight: float) -> Denoise:
    """Classifier-free guidance (arXiv 2207.12598, equation 6, with `weight` for its 1 + w).

    The paper extrapolates the noise; the clean estimate is an affine function of it, so this is the same.

    Args:
        conditional: The denoiser that is shown a condition.
        unconditional: The denoiser that is not.
        weight: 0 leaves the condition out, 1 is the conditional denoiser itself, more exaggerates the condition.

    Returns:
        The guided denoiser: two evaluations a call, one where `weight` is 1.
    """
    if weight == 1:
        return conditional

    def denoise(x: Tensor, sigma: float) -> Tensor:
        without = unconditional(x, sigma)
        return without + weight * (conditional(x, sigma) - without)

    return denoise


@dataclass(frozen=True)
class Sampler:
    """One way to sample, with all that anybody needs to know of it.

    Attributes:
        run: The sampler.
        sigmas: Its noise levels for a number of steps.
        steps: How many, unless one is told.
        about: What it is.
    """

    run: Callable[[Denoise, Tensor, Sequence[float], Noise], Tensor]
    sigmas: Callable[[int], list[float]]
    steps: int
    about: str


# steps of ddpm: "Medical Diffusion", supplementary table 1; of the others: the fewest of 4, 8, 10, 16, 32 whose figures are
# within the interval of its 300 (benchmarks/results/sampler_steps.md), and that keep the standard deviation of a Gaussian,
# whose ideal denoiser is known, within 10 % (tests/generator/test_samplers.py)
SAMPLERS = {
    "dpmpp": Sampler(dpm_solver_pp_2m, karras_sigmas, 16, "DPM-Solver++(2M)"),
    "heun": Sampler(heun, karras_sigmas, 16, "Heun's method, two evaluations a step"),
    "ddim": Sampler(ddim, karras_sigmas, 32, "DDIM, deterministic"),
    "ddpm": Sampler(ddpm, cosine_sigmas, 300, "the paper's, ancestral"),
}


def run_sampler(name: str, steps: int | None, denoise: Denoise, start: Tensor, noise: Noise) -> Tensor:
    """Run a sampler on its own noise levels.

    Args:
        name: A key of `SAMPLERS`.
        steps: Number of steps; None for the sampler's own.
        denoise: The denoiser.
        start: Unit noise.
        noise: Gives unit noise of the shape of `start`, which DDPM adds.

    Returns:
        A sample of the shape of `start`.
    """
    sampler = SAMPLERS[name]
    sigmas = sampler.sigmas(steps or sampler.steps)
    return sampler.run(denoise, start * sigmas[0], sigmas, noise)
