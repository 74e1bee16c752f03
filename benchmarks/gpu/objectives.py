"""What training steps are measured on: the product's objectives over smooth noise: values do not change what a step costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from diffaug.budgets import BUDGETS, Training
from diffaug.copies.detector import CopyDetector
from diffaug.files import write_json
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.condition import Condition
from diffaug.generator.fit_autoencoder import AutoencoderObjective
from diffaug.generator.fit_denoiser import DenoiserObjective
from diffaug.generator.fit_refiner import RefinerObjective
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.planning import make_plan
from diffaug.generator.views import Views
from diffaug.nnunet.budget_configurations import run_planner
from diffaug.nnunet.networks import build_network
from diffaug.nnunet.plans import read_plans
from diffaug.pretraining.fitting import PretextObjective
from diffaug.pretraining.pretexts import PRETEXTS
from diffaug.scans.cache import VolumeCache
from diffaug.scans.readings import Reading
from diffaug.scans.windows import Window
from diffaug.workspace import Workspace

SCANS = 12  # of noise, on disk
TYPICAL = "Dataset990_Typical"  # a dataset of which only nnU-Net's fingerprint is there
Measured = tuple[Any, Training]  # an objective with the method `example`, and its settings


def typical_plan(budget: str, shape: Sequence[int], patch_size: Sequence[int] | None) -> GeneratorPlan:
    """Plan a generator for scans of one size, 1 mm a voxel.

    Args:
        budget: A key of diffaug's budgets.
        shape: Voxels (Z, Y, X) of the scans.
        patch_size: nnU-Net's.

    Returns:
        The plan.
    """
    reading = Reading("", tuple(shape), (1.0, 1.0, 1.0), "LPS", ((0.0, 1000.0),), (300.0,), (200.0,))
    scans = [replace(reading, case=f"scan_{number:02d}") for number in range(SCANS)]
    return make_plan(scans, ["MR"], budget=budget, patch_size=patch_size)


def smooth_noise(folder: Path, cases: Sequence[str], shape: Sequence[int], channels: int = 1) -> VolumeCache:
    """Fill a cache with smooth noise between -1 and 1: something that networks can learn, the same for all cases.

    Args:
        folder: Of the cache.
        cases: Ids.
        shape: Voxels (Z, Y, X).
        channels: C.

    Returns:
        The cache.
    """
    cache = VolumeCache(folder)
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.standard_normal((channels, *shape), dtype=np.float32), (0, 2, 2, 2))
    noise /= np.abs(noise).max()
    cache.fill(cases, lambda _: noise)
    return cache


def autoencoder(plan: GeneratorPlan, extent: Sequence[int], folder: Path) -> Measured:
    """Give the autoencoder's objective.

    Args:
        plan: The plan.
        extent: Voxels (Z, Y, X) of the scans on its grid.
        folder: For its scans.

    Returns:
        Objective and settings.
    """
    cases = [*plan.cases, *plan.held_out]
    cache = smooth_noise(folder / f"scans_{'x'.join(map(str, extent))}", cases, extent)
    torch.manual_seed(0)
    return AutoencoderObjective(plan, cache), plan.autoencoder_training


def refiner(plan: GeneratorPlan, extent: Sequence[int], folder: Path) -> Measured:
    """Give the refiner's objective.

    Args:
        plan: The plan.
        extent: Voxels (Z, Y, X) of the scans on its grid.
        folder: For its scans.

    Returns:
        Objective and settings.
    """
    coder, _ = autoencoder(plan, extent, folder)
    return RefinerObjective(plan, coder.cache, coder.autoencoder), plan.refiner_training


def denoiser(plan: GeneratorPlan, extent: Sequence[int], folder: Path) -> Measured:
    """Give the denoiser's objective.

    Args:
        plan: The plan.
        extent: Voxels (Z, Y, X) of the scans on its grid.
        folder: For its latents.

    Returns:
        Objective and settings; it can be trained and not validated, for there are no scans that it could copy.
    """
    cells, channels = plan.latent_shape, plan.autoencoder["latent_channels"] * plan.views
    place = folder / f"latents_{'x'.join(map(str, (channels, *cells)))}"
    latents = smooth_noise(place, [*plan.cases, *plan.held_out], cells, channels)
    window = Window((0, 0, 0), tuple(extent))
    views, held_out = (Views(latents, c, [window] * len(c) * plan.views) for c in (plan.cases, plan.held_out))
    torch.manual_seed(0)
    known = {case: Condition() for case in (*plan.cases, *plan.held_out)}
    nothing: CopyDetector = None  # type: ignore[assignment]  # looked at in validations alone
    coder = Autoencoder(**plan.autoencoder)
    return DenoiserObjective(plan, coder, views, held_out, known, nothing, None), plan.denoiser_training


def pretext(workspace: Workspace, budget: str, extent: Sequence[int], folder: Path) -> Measured:
    """Give the objective of the default pretext for the network of nnU-Net's plans.

    Args:
        workspace: Whose plans.
        budget: A key of diffaug's budgets.
        extent: Voxels (Z, Y, X) of the scans in the network's space.
        folder: For its scans.

    Returns:
        Objective and settings.
    """
    _, configuration = read_plans(workspace)
    cases = [f"scan_{number:02d}" for number in range(SCANS)]
    cache = smooth_noise(folder / f"scans_{'x'.join(map(str, extent))}", cases, extent)
    chosen = PRETEXTS["denoise"]
    torch.manual_seed(0)
    network = build_network(configuration, 1, chosen.outputs(1))
    volumes = [(cache, case) for case in cases]
    made = PretextObjective(network, chosen, volumes, configuration.patch_size, configuration.spacing, 0)
    return made, BUDGETS[budget].pretraining


def plan_typical(planner: str, shape: Sequence[int], cases: int = 100) -> Workspace:
    """Have nnU-Net plan for scans of one size, 1 mm a voxel, from their fingerprint alone.

    Args:
        planner: A key of diffaug's `PLANNERS`.
        shape: Voxels (Z, Y, X) of the scans.
        cases: How many there are said to be.

    Returns:
        The workspace of `3d_fullres`.
    """
    workspace = Workspace(TYPICAL, planner)
    for folder in ("imagesTr", "labelsTr"):
        (workspace.raw / folder).mkdir(parents=True, exist_ok=True)
    for name in ("imagesTr/scan_0000.nii.gz", "labelsTr/scan.nii.gz"):
        (workspace.raw / name).touch()  # named by the planner, never read
    intensities = {"mean": 300.0, "median": 300.0, "std": 200.0, "min": 0.0, "max": 1000.0}
    intensities |= {"percentile_00_5": 0.0, "percentile_99_5": 1000.0}
    about = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "organ": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    fingerprint = {
        "spacings": [[1.0, 1.0, 1.0]] * cases,
        "shapes_after_crop": [list(shape)] * cases,
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "median_relative_size_after_cropping": 1.0,
    }
    write_json(workspace.raw / "dataset.json", about)
    write_json(workspace.preprocessed / "dataset_fingerprint.json", fingerprint)
    run_planner(TYPICAL, planner, cases)
    return workspace
