"""Planning a generator: everything is decided from the scans and the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from diffaug.budgets import BUDGETS, PAPER, PAPERS_LATENT, PAPERS_RATE, Budget, Training
from diffaug.errors import DiffaugError
from diffaug.generator.conditions import plan_conditions
from diffaug.generator.plan import DISCRIMINATOR_NEEDS, GeneratorPlan
from diffaug.patients import by_patient, patient_of
from diffaug.scans.grid import median_spacing, plan_grid
from diffaug.scans.readings import Reading

FEWEST_TO_FIT = 3  # one to measure with, and two to train on: copies are told from what else is alike
PATIENTS_TO_FIT = 2  # at least: a copy is nearer to its patient than to another
HELD_OUT_SCANS = 0.1  # share of the scans that the generator never trains on


def plan_strides(spacing: Sequence[float], factor: int) -> list[list[int]]:
    """Compress each axis by `factor`, but long voxels less, so that a latent cell is as cubic as can be.

    Args:
        spacing: In mm, (Z, Y, X).
        factor: A power of two.

    Returns:
        Strides (Z, Y, X) per level.
    """
    levels = int(np.log2(factor))
    ratio = np.array(spacing) / min(spacing)
    halvings = np.clip(levels - np.round(np.log2(ratio)), 0, levels).astype(int)
    # an axis that halves less often does so in the last levels
    return [[2 if level >= levels - h else 1 for h in halvings] for level in range(levels)]


def hold_out(ids: Sequence[str], seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keep some scans for measuring.

    Args:
        ids: Of all scans.
        seed: Picks the scans.

    Returns:
        Ids to train on and ids to measure with, sorted: one run of neighbours, for scans of one patient mostly follow each
        other, and must not straddle the lists. Where names tell whose scans are, it is of whole patients, if there are any
        whom less than a fifth of the scans are of.
    """
    ordered = sorted(ids)
    start = int(np.random.default_rng(seed).integers(len(ordered)))
    count = max(1, round(HELD_OUT_SCANS * len(ordered)))
    patients = list(by_patient(ordered, patient_of).values())
    first = next(number for number, scans in enumerate(patients) if ordered[start] in scans)
    held_out: set[str] = set()
    left = len(patients)
    for scans in patients[first:] + patients[:first]:
        lacking = count - len(held_out)
        if left > PATIENTS_TO_FIT and abs(len(scans) - lacking) < lacking:  # nearer to a tenth with them than without
            held_out.update(scans)
            left -= 1
    if not held_out:  # one or two patients, or none of few enough scans: parted, for something must be measured with
        held_out = {ordered[(start + i) % len(ordered)] for i in range(count)}
    return tuple(case for case in ordered if case not in held_out), tuple(sorted(held_out))


def make_plan(
    readings: Sequence[Reading],
    channels: Sequence[str],
    *,
    budget: str,
    field_of_view: str = "auto",
    spacing: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
    site_of: Mapping[str, str] | None = None,
    like: str | None = None,
    seed: int = 0,
) -> GeneratorPlan:
    """Decide everything from the scans and the budget.

    Args:
        readings: The scans, as measured.
        channels: nnU-Net's channel names.
        budget: A key of `BUDGETS`.
        field_of_view: `auto`, `whole` or `patch`.
        spacing: In mm (Z, Y, X), from the nnU-Net plan if there is one.
        patch_size: In voxels (Z, Y, X), from the nnU-Net plan if there is one.
        site_of: Site of each case, as far as it is known.
        like: `PAPER` for the paper's pair of networks; None for this project's own.
        seed: Picks the held-out scans and seeds the fits.

    Returns:
        The plan.

    Raises:
        DiffaugError: If there is no such budget or there are fewer than two scans.
    """
    _require_possible(budget, readings)
    size = BUDGETS[budget]
    spacing = spacing or median_spacing(readings)
    strides = plan_strides(spacing, size.factor)
    factors = [int(factor) for factor in np.prod(strides, axis=0)]
    view = partial(plan_grid, field_of_view=field_of_view, spacing=spacing, patch_size=patch_size)
    grid = view(readings, voxels=size.voxels, multiple=factors)
    cases, held_out = hold_out([reading.case for reading in readings], seed)
    latent, most = (PAPERS_LATENT, PAPERS_RATE) if like == PAPER else ({}, math.inf)
    autoencoder = {"image_channels": len(channels), "strides": strides, **size.autoencoder, **latent}
    crop, layers = _crop(size.crop, grid.shape, factors)
    rate, cells = min(most, size.autoencoder_training.learning_rate), math.prod(grid.shape) // math.prod(factors)
    return GeneratorPlan(
        budget=budget,
        channels=tuple(channels),
        grid=grid,
        cases=cases,
        held_out=held_out,
        autoencoder=autoencoder,
        autoencoder_crop=crop,
        denoiser={"latent_channels": autoencoder["latent_channels"], **size.denoiser},
        refiner=None if like == PAPER else size.refiner,
        views=size.views,
        autoencoder_training=replace(size.autoencoder_training, seed=seed, learning_rate=rate),
        refiner_training=_bounded(size.refiner_training, seed, _pieces(size, crop)),
        denoiser_training=_bounded(size.denoiser_training, seed, size.cells // cells),
        conditions=plan_conditions(readings, grid, cases, site_of or {}),
        discriminator_layers=layers if like == PAPER else None,
    )


def _pieces(size: Budget, crop: Sequence[int]) -> int:
    """Tell how many pieces of that size have as many voxels as the autoencoder's largest batch."""
    return size.autoencoder_training.batch_size * size.crop**3 // math.prod(crop)


def _bounded(training: Training, seed: int, most: int) -> Training:
    """Seed a training, and let its batch be no larger than memory and time bear."""
    return replace(training, seed=seed, batch_size=max(1, min(training.batch_size, most)))


def _require_possible(budget: str, readings: Sequence[Reading]) -> None:
    if budget not in BUDGETS:
        raise DiffaugError(f"--budget: found '{budget}', expected one of {', '.join(BUDGETS)}; fix the option")
    if len(readings) < FEWEST_TO_FIT:
        found = f"{len(readings)} scan{'s' if len(readings) > 1 else ''}"
        raise DiffaugError(f"fit: found {found}, expected at least {FEWEST_TO_FIT} (tens are useful); add scans")


def _crop(edge: int, shape: Sequence[int], factors: Sequence[int]) -> tuple[tuple[int, ...], int | None]:
    """Choose what the autoencoder trains on, and as deep a critic as such pieces allow."""
    crop = tuple(max(2 * f, min(edge, n) // (2 * f) * 2 * f) for n, f in zip(shape, factors, strict=True))
    return crop, max((n for n, needed in DISCRIMINATOR_NEEDS.items() if min(crop) >= needed), default=None)
