"""A generator that travels: what of it leaves the house, and what stays behind."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from diffaug.generator.condition import Condition
from diffaug.generator.conditions import ConditionPlan
from diffaug.generator.model import Generator

ORIGIN = "origin"  # the key of the provenance under which a travelling generator tells about itself
SPACING_DIGITS = 2  # digits that a scan's spacing keeps, in mm


def travelling(generator: Generator, origin: Mapping[str, Any]) -> Generator:
    """Take from a generator whatever points at a scan.

    No ids remain, and of what is known of each scan, its size and spacing, only how often which occurs: rounded, and
    sorted, so that nothing tells the order of patients. Sites lose their names. Weights are in half precision, for a
    file half as large.

    Args:
        generator: The generator.
        origin: What its sender says of it; plain values only.

    Returns:
        What may be saved and given away.
    """
    plan, sites = generator.plan, generator.plan.conditions.sites
    named = {site: f"site {number}" for number, site in enumerate(sites, start=1)}
    known = [_nameless(condition, named) for condition in generator.conditions]
    alike = sorted(zip(generator.extents, known, strict=True), key=lambda pair: repr((pair[0], pair[1].known())))
    return Generator(
        plan=replace(
            plan, cases=(), held_out=(), conditions=ConditionPlan(tuple(named.values()), {}, plan.conditions.spacing)
        ),
        autoencoder=_halved(generator.autoencoder),
        denoiser=_halved(generator.denoiser),
        mean=generator.mean,
        std=generator.std,
        extents=[extent for extent, _ in alike],
        conditions=[condition for _, condition in alike],
        refiner=generator.refiner and _halved(generator.refiner),
        provenance={"seen": [], "excluded": [], ORIGIN: dict(origin)},
    )


def _nameless(condition: Condition, named: Mapping[str, str]) -> Condition:
    spacing = condition.spacing and tuple(round(length, SPACING_DIGITS) for length in condition.spacing)
    return Condition(named[condition.site] if condition.site is not None else None, spacing)


def _halved(network: Any) -> Any:
    """Copy a network, its weights in half precision; what it has measured stays as it is."""
    made: nn.Module = copy.deepcopy(network).cpu()
    for parameter in made.parameters():
        parameter.data = parameter.data.half()
    return made
