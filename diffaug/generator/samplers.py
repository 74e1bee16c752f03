"""Samplers as free functions over `denoise(x, sigma) -> x0`, each readable beside its paper.

All work on x = x0 + sigma * noise (variance exploding), to which every other form is a change of variables, and take
`sigmas` from large to small, the last one zero. `x` comes in as noise of standard deviation `sigmas[0]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from diffaug.generator.diffusion import SIGMA_MAX, SIGMA_MIN

Denoise = Callable[[Tensor, float], Tensor]
Noise = Callable[[], Tensor]


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


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "heun": heun, "dpmpp": dpm_solver_pp_2m}


def sample(name: str, steps: int, denoise: Denoise, start: Tensor, noise: Noise) -> Tensor:
    """Run a sampler on its own noise levels: the cosine schedule for DDPM, Karras's for the others.

    Args:
        name: A key of `SAMPLERS`.
        steps: Number of steps.
        denoise: The denoiser.
        start: Unit noise.
        noise: Gives unit noise of the shape of `start`, which DDPM adds.

    Returns:
        A sample of the shape of `start`.
    """
    sigmas = cosine_sigmas(steps) if name == "ddpm" else karras_sigmas(steps)
    return SAMPLERS[name](denoise, start * sigmas[0], sigmas, noise)
