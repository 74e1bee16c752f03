"""Part 2: seconds and memory of sampled volumes, with untrained networks, for weights do not change what they cost."""

from __future__ import annotations

from contextlib import ExitStack
from unittest import mock

import torch
from lightning_fabric import Fabric

from benchmarks.gpu.context import Context, finish, forget_peak, peak
from benchmarks.gpu.sizes import Shape
from benchmarks.large_volume import untrained
from diffaug.generator import model
from diffaug.generator.model import Generator

HALF, SINGLE = "bf16-mixed", "32-true"


def run(context: Context) -> None:
    """Measure as many cases as time allows, what most people would ask for first.

    Args:
        context: The part's surroundings.
    """
    sizes, gpu = context.sizes, context.device.type == "cuda"
    (default, ddpm), (half, single) = sizes.samplers, (HALF if gpu else SINGLE, SINGLE)
    plain = [(budget, shape, 1, default, half) for budget in sizes.budgets for shape in sizes.volumes]
    first = sizes.budgets[0]
    rest = [(first, shape, sizes.batch, default, half) for shape in sizes.volumes]
    rest += [(first, shape, 1, default, single) for shape in sizes.volumes]
    rest += [(first, shape, 1, ddpm, half) for shape in sizes.volumes[::-1]]
    rest += [(budget, shape, sizes.batch, default, half) for budget in sizes.budgets[1:] for shape in sizes.volumes]
    for budget, shape, batch, (sampler, steps), precision in dict.fromkeys(plain + rest):
        if context.left < 0:
            break
        case = {
            "budget": budget,
            "shape": shape,
            "batch": batch,
            "sampler": sampler,
            "steps": steps,
            "precision": precision,
        }
        try:
            context.record(**case, **_measure(context, budget, shape, batch, sampler, steps, precision))
        except torch.OutOfMemoryError:
            context.record(**case, failed="out of memory")


def _measure(
    context: Context, budget: str, shape: Shape, batch: int, sampler: str, steps: int, precision: str
) -> dict[str, float]:
    device = context.device
    forget_peak(device)
    generator = untrained(budget, shape).to(device)
    fabric = Fabric(accelerator=device.type, devices=1, precision=precision)  # type: ignore[arg-type]
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(model, "start_fabric", lambda _: fabric))
        _sample(generator, batch, sampler, 2)  # kernels are chosen at the first call
        started = finish(device)
        _sample(generator, batch, sampler, steps)
        whole = finish(device) - started
    latent = torch.zeros(batch, generator.plan.autoencoder["latent_channels"], *generator.plan.latent_shape)
    with torch.no_grad():
        started = finish(device)
        generator.autoencoder.decode(latent.to(device))
        decoding = finish(device) - started
    return {"seconds": round(whole, 4), "decoding_seconds": round(decoding, 4), **peak(device)}


def _sample(generator: Generator, batch: int, sampler: str, steps: int) -> None:
    generator.synthesise(0, range(batch), sampler=sampler, steps=steps)
