"""The generator's plan: saved and loaded without loss, and nonsense that a patient may type is told in one line."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from planned import blob_plans
from torch._subclasses import FakeTensorMode

from diffaug.budgets import BUDGETS, PAPER
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.conditions import ConditionPlan
from diffaug.generator.fit_autoencoder import AutoencoderObjective, make_discriminator
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.planning import make_plan
from diffaug.scans.cache import VolumeCache
from diffaug.scans.readings import Reading
from diffaug.stages.pipeline import fit


def readings(count=10, spacing=(2.0, 1.5, 1.5), channels=1) -> list[Reading]:
    ranges, ones = ((0.0, 900.0),) * channels, (1.0,) * channels
    return [Reading(f"c{i:02d}", (20, 24, 22), spacing, "LPS", ranges, ones, ones) for i in range(count)]


@pytest.fixture
def file(tmp_path):
    plan = make_plan(readings(), ["MR"], budget="cpu-small", like=PAPER)
    plan.save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.8, 0.8)])
def test_saved_plan_is_loaded_as_it_was(tmp_path, budget, spacing):
    plan = make_plan(readings(channels=2, spacing=spacing), ["T1", "CT"], budget=budget, seed=3)
    plan.save(tmp_path / "plan.json")
    assert GeneratorPlan.load(tmp_path / "plan.json") == plan
    factors = np.prod(plan.autoencoder["strides"], axis=0)
    assert plan.latent_shape == tuple(np.array(plan.grid.shape) // factors)
    assert plan.autoencoder_training.seed == plan.denoiser_training.seed == 3


def test_the_papers_pair_is_a_plan_of_its_own():
    """A VQ-GAN with a critic; ours has neither codes nor a critic, but a refiner."""
    own, theirs = (make_plan(readings(), ["MR"], budget="cpu-small", like=like) for like in (None, PAPER))
    assert own.make_refiner() is not None
    assert theirs.make_refiner() is None
    assert list(own.trainings) == ["autoencoder", "refiner", "denoiser"]
    assert list(theirs.trainings) == ["autoencoder", "denoiser"]
    assert "codes" not in own.autoencoder
    assert own.discriminator_layers is None
    assert theirs.autoencoder["codes"] == 16384
    assert theirs.discriminator_layers == 2
    assert theirs.autoencoder["latent_channels"] == theirs.denoiser["latent_channels"] == 8
    assert theirs.autoencoder_training.learning_rate < own.autoencoder_training.learning_rate
    assert (own.grid, own.cases) == (theirs.grid, theirs.cases)


def test_a_batch_of_the_refiner_holds_no_more_voxels_than_one_of_the_autoencoder():
    def batch(size):
        scans = [replace(reading, size=size) for reading in readings()]
        return make_plan(scans, ["MR"], budget="cpu-small").refiner_training.batch_size

    assert batch((16, 24, 32)) == BUDGETS["cpu-small"].refiner_training.batch_size
    assert batch((48, 48, 48)) == BUDGETS["cpu-small"].autoencoder_training.batch_size


def saved_by_a_step(plan: GeneratorPlan, network: str) -> float:
    """Count the GB that the way back needs of the way there, in single precision: as much as half precision, or more."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    batch = getattr(plan, f"{network}_training").batch_size
    with FakeTensorMode(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if network == "refiner":
            volume = torch.ones(batch, len(plan.channels), *plan.autoencoder_crop)
            plan.make_refiner()(volume, torch.ones(batch), volume, volume)
        elif network == "denoiser":
            channels = plan.autoencoder["latent_channels"]
            latent, places = (torch.zeros(batch, count, *plan.latent_shape) for count in (channels, 3))
            plan.make_denoiser()(latent, torch.ones(batch), places)
        else:
            autoencoder = Autoencoder(**plan.autoencoder)
            autoencoder.codebook.eval()  # its codes move by what the values are, and here there are none
            volume = torch.zeros(batch, len(plan.channels), *plan.autoencoder_crop)
            made = autoencoder(volume)[0]
            if critic := make_discriminator(plan):
                critic(made)
                critic(volume)
    return sum(storage.nbytes() for storage in kept.values()) / 2**30


SCANS = {
    "isotropic": ((256, 256, 256), (1.0, 1.0, 1.0)),
    "thick slices": ((40, 512, 512), (5.0, 0.7, 0.7)),
    "half as long": ((120, 320, 320), (2.0, 1.0, 1.0)),
}


@pytest.mark.parametrize(("budget", "most"), [("gpu-24g", 10), ("gpu-80g", 60)])
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("like", [None, PAPER])
def test_a_step_fits_the_gpu_whatever_the_scans(scan, budget, most, like):
    """Weights, optimiser and averages take another 2 to 5 GB; a GPU of the smaller budget has 16 at least."""
    size, spacing = SCANS[scan]
    plan = make_plan([replace(r, size=size) for r in readings(10, spacing)], ["MR"], budget=budget, like=like)
    needed = {
        network: saved_by_a_step(plan, network)
        for network in ("autoencoder", "refiner", "denoiser")
        if network != "refiner" or plan.refiner
    }
    assert min(needed.values()) > 0.5, "something was counted"
    assert max(needed.values()) < most
    assert plan.denoiser_training.batch_size > 1


@pytest.mark.parametrize(
    ("slices", "layers"), [(13, 2), (12, 2), (11, 1), (10, 1), (6, 1), (5, 0), (4, 0), (3, None), (2, None)]
)
def test_thin_scans_get_a_discriminator_that_fits_them_or_none(tmp_path, slices, layers):
    """Hearts have 6 to 12 slices; the discriminator begins half-way, far too late to find that out."""
    size = (slices, 24, 22)
    scans = [replace(reading, size=size) for reading in readings(spacing=(10.0, 1.5, 1.5))]
    plan = make_plan(scans, ["MR"], budget="cpu-small", like=PAPER)
    assert plan.discriminator_layers == layers
    cache = VolumeCache(tmp_path / "cache")
    rng = np.random.default_rng(0)
    cache.fill([scan.case for scan in scans], lambda _: rng.uniform(-1, 1, (1, *size)))
    torch.manual_seed(0)
    objective = AutoencoderObjective(plan, cache)
    batch = torch.stack([objective.example(rng) for _ in range(2)])
    losses = {}
    for name, loss, _ in objective.losses(batch, progress=0.9):
        loss.backward()
        losses[name] = float(loss.detach())
    expected = {"autoencoder"} if layers is None else {"autoencoder", "discriminator"}
    assert losses.keys() == objective.networks.keys() == expected
    assert np.isfinite(list(losses.values())).all()


def test_conditions_are_planned_and_saved(tmp_path):
    site_of = {f"c{i:02d}": "AB"[i % 2] for i in range(8)}  # of two scans it is unknown
    scans = [*readings(9), replace(readings(10)[-1], spacing=(3.0, 1.5, 1.5))]
    plan = make_plan(scans, ["MR"], budget="cpu-small", site_of=site_of)
    assert plan.conditions == ConditionPlan(("A", "B"), site_of, spacing=True)
    assert plan.make_denoiser().condition_channels == 2 + 4
    plan.save(tmp_path / "plan.json")
    assert GeneratorPlan.load(tmp_path / "plan.json") == plan


def test_conditions_can_be_edited_away(tmp_path):
    plan = make_plan(readings(), ["MR"], budget="cpu-small", site_of={"c00": "A", "c05": "B", "c09": "B"})
    plan.save(tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    for edited in ({}, {"spacing": False}, None):
        content["conditions"] = edited
        if edited is None:
            del content["conditions"]
        (tmp_path / "plan.json").write_text(json.dumps(content))
        assert GeneratorPlan.load(tmp_path / "plan.json") == replace(plan, conditions=ConditionPlan())


def test_cases_are_split_once_and_for_all():
    plan, again = (make_plan(readings(30), ["MR"], budget="cpu-small", seed=4) for _ in range(2))
    assert plan == again
    assert len(plan.held_out) == 3
    assert sorted((*plan.cases, *plan.held_out)) == [f"c{i:02d}" for i in range(30)]
    assert make_plan(readings(30)[::-1], ["MR"], budget="cpu-small", seed=4) == plan, (
        "the order of reading is no matter"
    )
    assert make_plan(readings(30), ["MR"], budget="cpu-small", seed=5).held_out != plan.held_out


def test_unknown_budget_is_refused_with_the_known_ones(refusal):
    message = refusal(make_plan, readings(), ["MR"], budget="tpu")
    assert all(budget in message for budget in BUDGETS)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_scans_are_refused(refusal, count):
    assert f"{count} scan" in refusal(make_plan, readings(count), ["MR"], budget="cpu-small")


def put(path: str, value):
    def change(plan):
        *parents, last = path.split(".")
        for parent in parents:
            plan = plan[parent]
        if value is None:
            del plan[last]
        else:
            plan[last] = value

    return change


NONSENSE = {
    "missing part": put("grid", None),
    "missing number": put("autoencoder_training.steps", None),
    "missing strides": put("autoencoder.strides", None),
    "missing channels": put("denoiser.channels", None),
    "unknown part": put("dinoiser", {}),
    "unknown setting": put("denoiser_training.epochs", 3),
    "unknown network setting": put("autoencoder.chanels", [8, 8]),
    "unknown grid setting": put("grid.size", [1]),
    "part of another kind": put("grid", "whole"),
    "no list of cases": put("cases", 7),
    "no case": put("cases", []),
    "nothing held out": put("held_out", []),
    "case in both lists": put("held_out", ["c00", "c01", "c02", "c03", "c04", "c05", "c06", "c07", "c08", "c09"]),
    "shape that does not divide": put("grid.shape", [24, 24, 23]),
    "shape of two numbers": put("grid.shape", [24, 24]),
    "shape of zero": put("grid.shape", [0, 24, 24]),
    "shape of text": put("grid.shape", ["24", "24", "24"]),
    "spacing of zero": put("grid.spacing", [0.0, 1.0, 1.0]),
    "spacing of two numbers": put("grid.spacing", [1.0, 1.0]),
    "unknown field of view": put("grid.field_of_view", "half"),
    "unknown orientation": put("grid.orientation", "XYZ"),
    "text for a number": put("autoencoder_training.steps", "many"),
    "no steps": put("denoiser_training.steps", 0),
    "negative batch": put("denoiser_training.batch_size", -2),
    "negative rate": put("denoiser_training.learning_rate", -1e-3),
    "no views": put("views", 0),
    "channels that do not group": put("denoiser.channels", [12, 20]),
    "latents that differ": put("denoiser.latent_channels", 5),
    "conditions of another kind": put("conditions", "site"),
    "unknown condition": put("conditions.scanner", {}),
    "condition that is no answer": put("conditions.spacing", "yes"),
    "site without a case": put("conditions.sites", ["A"]),
    "site that is not listed": put("conditions.site_of", {"c00": "A", "c01": "A", "c02": "A"}),
    "sites of another kind": put("conditions.site_of", ["A"]),
    "discriminator of no depth that is known": put("discriminator_layers", 5),
    "discriminator deeper than its pieces": put("autoencoder_crop", [8, 16, 16]),
    "no average": put("denoiser_training.ema_decay", "none"),
}


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE)
def test_edited_nonsense_is_refused_with_the_file(file, refusal, change):
    plan = json.loads(file.read_text())
    change(plan)
    file.write_text(json.dumps(plan))
    assert str(file) in refusal(GeneratorPlan.load, file)


@pytest.mark.parametrize("text", ["{", "[]", "3", "null", '"plan"'])
def test_plan_that_is_something_else_is_refused(file, refusal, text):
    file.write_text(text)
    assert str(file) in refusal(GeneratorPlan.load, file)


def test_edited_case_that_does_not_exist_is_refused_before_anything_long(task, refusal):
    plan = task.tiny_plan()
    task.tiny_plan(cases=[*plan["cases"], "blob_77"])
    message = refusal(fit, task.workspace, device="cpu")
    assert "plan.json" in message
    assert "blob_77" in message


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
@pytest.mark.parametrize("configuration", ["3d_none", "2d"])
def test_configuration_that_does_not_serve_is_refused(task, refusal, configuration):
    from diffaug.workspace import Workspace

    task.preprocessed.mkdir()
    plans = blob_plans()
    flat = {"spacing": [1.5, 1.5], "patch_size": [24, 24]}
    plans["configurations"] = {"2d": plans["configurations"]["3d_fullres"] | flat}
    (task.preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    message = refusal(fit, Workspace(task.dataset, "nnUNetPlans", configuration), device="cpu", plan_only=True)
    assert "nnUNetPlans.json" in message
    assert configuration in message


def test_broken_nnunet_plans_are_refused(task, refusal):
    task.preprocessed.mkdir()
    (task.preprocessed / "nnUNetPlans.json").write_text("{")
    assert "nnUNetPlans.json" in refusal(fit, task.workspace, device="cpu", plan_only=True)
