"""Fit and sample on real files: killed anywhere, they end with the very files of an unbroken run; nothing is redone."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file

from blobs import LABELLED, REQUEST, SPACING, UNLABELLED, Task, blob, write_image
from diffaug import stages
from diffaug.cli import main
from diffaug.copies.detector import CopyDetector
from diffaug.errors import DiffaugError
from diffaug.generator import fitting
from diffaug.generator.condition import Condition
from diffaug.generator.model import Generator
from diffaug.generator.plan import FITS, GeneratorPlan
from diffaug.reader_study.requests import MakeRequest
from diffaug.scans.exclusion import excluded_ids
from diffaug.scans.windows import paste_extent, refill
from diffaug.stages import stage
from diffaug.stages.fit import open_cache
from diffaug.stages.pipeline import fit, sample
from diffaug.stages.requests import SampleRequest
from diffaug.stages.sample import name
from diffaug.stages.study import sides_of_task
from diffaug.training.log import read_log

COUNT = 5  # more than one batch of four
SHORT = SampleRequest(count=COUNT, seed=3, steps=4)
STEPS = 30


@pytest.fixture(scope="session")
def fitted(blobs, tmp_path_factory) -> Path:
    """nnU-Net's folders after an unbroken `fit` and `sample`."""
    root = tmp_path_factory.mktemp("fitted")
    shutil.copytree(blobs, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{folder}", str(root / folder))
        torch.set_num_threads(1)
        task = Task(root)
        task.tiny_plan(STEPS)
        fit(task.workspace, device="cpu")
        sample(task.workspace, SHORT, device="cpu")
    return root


@pytest.fixture
def done(fitted, folders) -> Task:
    """A copy of it, to be worked on."""
    shutil.copytree(fitted, folders, dirs_exist_ok=True)
    return Task(folders)


def unbroken(fitted: Path, task: Task) -> Path:
    """Where the unbroken run's folder of the same task lies."""
    return fitted / task.workspace.run.relative_to(task.root)


def volumes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "imagesTr").iterdir())}


def assert_same_generator(one: Path, other: Path) -> None:
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_fit_leaves_a_self_describing_generator_and_no_training_state(done):
    folder = done.workspace.generator
    told = manifest(folder)
    excluded = excluded_ids(done.workspace, ["fold:0"])
    assert told["finished"]
    assert told["excluded"] == sorted(excluded)
    assert set(told["cases"]) == {*LABELLED, *UNLABELLED} - excluded
    assert not list(folder.glob("*.state.pt"))
    assert not list(folder.rglob("*.tmp.*"))
    assert not list(folder.glob("latents_*")), "gigabytes that nobody reads any more"
    generator = Generator.load(folder / "generator.safetensors")
    assert set(generator.provenance["seen"]) == set(told["cases"])
    assert generator.plan == GeneratorPlan.load(folder / "plan.json")
    assert {"autoencoder.png", "refiner.png", "denoiser.png", "autoencoder_curves.png", "refiner_curves.png"} <= {
        p.name for p in folder.iterdir()
    }
    steps = {
        f: max(line["step"] for line in read_log(folder / "log.jsonl") if line["fit"] == f)
        for f in ("autoencoder", "refiner", "denoiser")
    }
    assert steps == {"autoencoder": STEPS, "refiner": STEPS, "denoiser": STEPS}


def test_excluded_scans_are_never_opened(task):
    """They are no images at all, and nobody notices."""
    for case in excluded_ids(task.workspace, ["fold:0"]):
        task.image(case).write_text("not an image")
    task.tiny_plan(1)
    fit(task.workspace, device="cpu")
    with pytest.raises(DiffaugError, match="cannot be read"):
        fit(task.workspace, replace(REQUEST, exclude=("none",)), device="cpu", fresh=True)


def test_synthetic_volumes_have_the_tasks_geometry_and_units_and_lie_in_nnunets_layout(done):
    folder, plan = done.workspace.synthetic, GeneratorPlan.load(done.workspace.generator / "plan.json")
    assert list(volumes(folder)) == [f"{name(n)}_0000.nii.gz" for n in range(COUNT)]
    low, high = plan.grid.ranges[0]
    for file in (folder / "imagesTr").iterdir():
        image = sitk.ReadImage(str(file))
        np.testing.assert_allclose(image.GetSpacing(), SPACING[::-1], rtol=1e-6)
        np.testing.assert_allclose(image.GetDirection(), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        assert image.GetSize() == (22, 24, 20), "as large as the scans are"
        voxels = sitk.GetArrayFromImage(image)
        assert low - 1e-3 <= voxels.min() < voxels.max() <= high + 1e-3
    info = json.loads((folder / "dataset.json").read_text())
    assert info["numTraining"] == COUNT
    assert info["channel_names"] == {"0": "MR"}
    told = manifest(folder)
    assert told["finished"]
    assert set(told["seen"]) == set(manifest(done.workspace.generator)["cases"])
    assert (folder / "montage.png").is_file()


def test_a_finished_stage_is_not_redone(done):
    before = times(done.workspace.run)
    fit(done.workspace, REQUEST, device="cpu")
    fit(done.workspace, device="cpu")
    sample(done.workspace, SHORT, device="cpu")
    sample(done.workspace, device="cpu")
    assert times(done.workspace.run) == before


def test_same_seed_same_files_and_a_longer_set_starts_with_the_shorter_one(done, fitted):
    expected = volumes(unbroken(fitted, done) / "synthetic")
    folder = sample(done.workspace, SHORT, device="cpu", fresh=True)
    assert volumes(folder) == expected
    shutil.rmtree(folder)
    sample(done.workspace, replace(SHORT, count=2), device="cpu")
    assert volumes(folder) == {k: v for k, v in expected.items() if k < name(2)}
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 2
    sample(done.workspace, SHORT, device="cpu")
    assert volumes(folder) == expected
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == COUNT
    sample(done.workspace, replace(SHORT, count=1), device="cpu")
    assert volumes(folder) == expected, "asking for fewer removes none"


def test_other_numbers_and_seeds_give_other_volumes(done, fitted):
    folder = sample(done.workspace, replace(SHORT, seed=4), device="cpu", fresh=True)
    made = [*volumes(folder).values(), *volumes(unbroken(fitted, done) / "synthetic").values()]
    assert len(set(made)) == 2 * COUNT


def set_threshold(task: Task, share: float) -> float:
    """Let the copy detector take this share of the volumes for copies."""
    file = task.workspace.generator / fitting.COPIES
    plan = GeneratorPlan.load(task.workspace.generator / "plan.json")
    detector = CopyDetector.load(file, open_cache(task.workspace, plan).__getitem__, torch.device("cpu"))
    generator = Generator.load(task.workspace.generator / "generator.safetensors").to(torch.device("cpu"))
    found: list[float] = []
    for first in range(0, 12, 4):
        made, windows, _ = generator.synthesise(SHORT.seed, range(first, first + 4), sampler=SHORT.sampler, steps=4)
        shown = [refill(paste_extent(v, w), w, v.shape[1:]) for v, w in zip(made.numpy(), windows, strict=True)]
        found += [near.similarity for near in detector.judge(torch.from_numpy(np.stack(shown)))]
    threshold = float(np.quantile(found, 1 - share)) if share < 1 else -1.0  # whatever else will be drawn
    detector.calibrate(replace(detector.calibration, threshold=threshold))
    detector.save(file)
    return detector.threshold


def test_copies_are_refused_and_counted_and_the_set_is_filled_up(done):
    set_threshold(done, 0.5)
    folder = sample(done.workspace, SHORT, device="cpu", fresh=True)
    told = manifest(folder)
    assert sorted(told["volumes"]) == [name(n) for n in range(COUNT)]
    assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == [
        f"{name(n)}_0000.nii.gz" for n in range(COUNT)
    ]
    assert not any(entry["copy"] for entry in told["volumes"].values())
    candidates = sorted(entry["candidate"] for entry in told["volumes"].values())
    assert told["refused"], "half of them are"
    assert not set(candidates) & set(told["refused"])
    assert set(candidates) | set(told["refused"]) >= set(range(max(candidates)))
    longer = volumes(sample(done.workspace, replace(SHORT, count=COUNT + 2), device="cpu", fresh=True))
    sample(done.workspace, SHORT, device="cpu", fresh=True)
    assert volumes(sample(done.workspace, replace(SHORT, count=COUNT + 2), device="cpu")) == longer


def test_for_research_copies_are_kept_and_marked(done):
    set_threshold(done, 0.5)
    folder = sample(done.workspace, replace(SHORT, keep_copies=True), device="cpu", fresh=True)
    told = manifest(folder)
    assert told["refused"] == []
    assert [entry["candidate"] for entry in told["volumes"].values()] == list(range(COUNT))
    assert any(entry["copy"] for entry in told["volumes"].values())


def test_a_generator_of_nothing_but_copies_is_refused(done, refusal):
    set_threshold(done, 1.0)
    message = refusal(sample, done.workspace, SHORT, device="cpu", fresh=True)
    assert "knows its scans by heart" in message
    assert "--keep-copies" in message


def test_unrefined_volumes_are_as_smooth_as_the_decoder_makes_them(done):
    def roughness(**changes):
        folder = sample(done.workspace, replace(SHORT, keep_copies=True, **changes), device="cpu", fresh=True)
        images = [sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in sorted((folder / "imagesTr").iterdir())]
        return np.mean([np.abs(np.diff(image, 2, 0)).mean() for image in images])

    assert roughness(refine=False) < 0.9 * roughness()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"sampler": "ddim"},
        {"steps": 5},
        {"guidance": 2.0},
        {"condition": Condition("A")},
        {"refine": False},
        {"keep_copies": True},
    ],
)
def test_other_options_do_not_mix_into_a_set(done, refusal, change):
    before = volumes(done.workspace.synthetic)
    message = refusal(sample, done.workspace, replace(SHORT, **change), device="cpu")
    assert "--fresh" in message
    assert str(done.workspace.synthetic) in message
    assert volumes(done.workspace.synthetic) == before


@pytest.mark.parametrize("change", [{"sampler": "magic"}, {"count": 0}, {"steps": -1}, {"guidance": 2.0}])
def test_bad_sampling_options_are_refused_and_leave_nothing(done, refusal, change):
    shutil.rmtree(done.workspace.synthetic)
    refusal(sample, done.workspace, replace(SHORT, **change), device="cpu")
    assert not (done.workspace.synthetic / "manifest.json").exists()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun"])
def test_every_sampler_writes_volumes(done, sampler):
    folder = sample(done.workspace, SampleRequest(1, 0, sampler, 3), device="cpu", fresh=True)
    assert len(volumes(folder)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"budget": "gpu-24g"},
        {"field_of_view": "patch"},
        {"exclude": ("none",)},
        {"seed": 1},
        {"more_images": ("x",)},
        {"sites": "x"},
    ],
)
def test_changed_fit_options_are_refused(done, refusal, change):
    before = times(done.workspace.generator)
    message = refusal(fit, done.workspace, replace(REQUEST, **change), device="cpu")
    assert next(iter(change)) in message
    assert "--fresh" in message
    assert times(done.workspace.generator) == before


def test_volumes_of_another_generator_are_refused(done, refusal):
    task_plan = json.loads((done.workspace.generator / "plan.json").read_text())
    fit(done.workspace, REQUEST, device="cpu", fresh=True, plan_only=True)
    for training in FITS:
        task_plan[training]["steps"] = 1
    (done.workspace.generator / "plan.json").write_text(json.dumps(task_plan))
    message = refusal(sample, done.workspace, SHORT, device="cpu")
    assert "another generator" in message


def test_an_edited_plan_is_neither_ignored_nor_lost(done, refusal):
    file = done.workspace.generator / "plan.json"
    plan = json.loads(file.read_text())
    fit(done.workspace, REQUEST, device="cpu")
    plan["denoiser_training"]["batch_size"] += 1
    file.write_text(json.dumps(plan))
    told = refusal(fit, done.workspace, REQUEST, device="cpu")
    assert "plan.json: denoiser_training.batch_size was" in told and "--fresh" in told
    assert (done.workspace.generator / "generator.safetensors").is_file()
    fit(done.workspace, REQUEST, device="cpu", fresh=True, plan_only=True)
    kept = done.workspace.generator / "plan.before.json"
    assert json.loads(kept.read_text()) == plan
    assert json.loads(file.read_text()) != plan
    fit(done.workspace, REQUEST, device="cpu", fresh=True, plan_only=True)
    assert json.loads(kept.read_text()) == plan, "nobody has edited the plan since"
    file.write_text("{")
    fit(done.workspace, REQUEST, device="cpu", fresh=True, plan_only=True)
    assert (kept.with_name("plan.before.2.json").read_text(), json.loads(kept.read_text())) == ("{", plan)


def test_changed_scans_are_refused(done, refusal):
    write_image(done.raw / "imagesUn" / "new_0000.nii.gz", blob(30))
    assert "--fresh" in refusal(fit, done.workspace, device="cpu")


def test_a_bad_scan_leaves_nothing_behind_once_it_is_removed(task, refusal):
    bad = write_image(task.raw / "imagesUn" / "bad_0000.nii.gz", np.ones((8, 8, 8), np.float32))
    assert str(bad) in refusal(fit, task.workspace, REQUEST, device="cpu", plan_only=True)
    bad.unlink()
    assert fit(task.workspace, REQUEST, device="cpu", plan_only=True).is_file()


def test_plan_only_stops_before_anything_long_and_says_where_the_plan_is(task):
    file = fit(task.workspace, REQUEST, device="cpu", plan_only=True)
    assert file == task.workspace.generator / "plan.json"
    assert not (task.workspace.generator / "cache").exists()


def test_edited_views_take_effect_after_the_autoencoder(task, monkeypatch):
    """Latents encoded for the old plan are not used for the new one."""
    task.tiny_plan(2)

    def stop(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "DenoiserObjective", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(task.workspace, device="cpu")
    file = task.workspace.generator / "plan.json"
    plan = json.loads(file.read_text())
    plan["views"] = 3
    file.write_text(json.dumps(plan))
    counted = []
    objective = fitting.DenoiserObjective

    def count(plan, autoencoder, views, held_out, *others):
        counted.append((len(views), len(held_out)))
        return objective(plan, autoencoder, views, held_out, *others)

    monkeypatch.setattr(fitting, "DenoiserObjective", count)
    fit(task.workspace, device="cpu")
    assert counted == [(3 * len(plan["cases"]), 3 * len(plan["held_out"]))]


@pytest.mark.parametrize(("module", "call"), [(fitting, "curves"), (stages.fit, "file_hash"), (stage, "write_json")])
def test_stopped_while_finishing_it_finishes_without_fitting_again(task, fitted, monkeypatch, module, call):
    task.tiny_plan(STEPS)
    real, armed = getattr(module, call), []
    finish = fitting._finish

    def stop(*arguments, **keywords):
        if armed:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    def arm(*arguments):
        armed.append(True)
        return finish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, call, stop)
        patch.setattr(fitting, "_finish", arm)
        with pytest.raises(KeyboardInterrupt):
            fit(task.workspace, device="cpu")
    logged = (task.workspace.generator / "log.jsonl").read_text()
    target = fit(task.workspace, device="cpu")
    assert (task.workspace.generator / "log.jsonl").read_text() == logged, "not a step was repeated"
    assert manifest(task.workspace.generator)["finished"]
    assert not list(task.workspace.generator.glob("*.state.pt"))
    assert_same_generator(target, unbroken(fitted, task) / "generator" / "generator.safetensors")


def test_set_that_grows_is_not_finished_until_it_has_grown(done, monkeypatch):
    write = stages.sample.write_scan

    def stops_at_nine(scan, folder, case):
        if case == name(8):
            raise KeyboardInterrupt
        return write(scan, folder, case)

    with monkeypatch.context() as patch:
        patch.setattr(stages.sample, "write_scan", stops_at_nine)
        with pytest.raises(KeyboardInterrupt):
            sample(done.workspace, replace(SHORT, count=10), device="cpu")
    told = manifest(done.workspace.synthetic)
    assert told["request"]["count"] == 10
    assert not told["finished"]
    sample(done.workspace, device="cpu")
    assert manifest(done.workspace.synthetic)["finished"]
    assert len(volumes(done.workspace.synthetic)) == 10


@pytest.mark.parametrize("keep", [0, 7, 500, 0.9])
def test_truncated_generator_is_refused(done, refusal, keep):
    file = done.workspace.generator / "generator.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: keep if keep >= 1 or keep == 0 else int(keep * len(whole))])
    assert str(file) in refusal(Generator.load, file)


def test_foreign_generator_is_refused(done, refusal):
    from safetensors.torch import save_file

    file = done.workspace.generator / "generator.safetensors"
    save_file({"weights": torch.zeros(3)}, file)
    assert str(file) in refusal(Generator.load, file)
    for about in ("[]", "{", '{"plan": []}', '{"plan": {}}'):
        save_file({"weights": torch.zeros(3)}, file, {"diffaug": about})
        assert str(file) in refusal(Generator.load, file)
    file.unlink()
    assert str(file) in refusal(Generator.load, file)


def test_a_fit_measures_how_unlike_in_noise_its_scans_are(done):
    refiner = Generator.load(done.workspace.generator / "generator.safetensors").refiner
    assert (refiner.gains.diff(dim=0) >= 0).all()
    assert refiner.gains[-1] > 1.02 * refiner.gains[0]


def test_generator_survives_the_disk(done, tmp_path):
    generator = Generator.load(done.workspace.generator / "generator.safetensors")
    generator.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        done.workspace.generator / "generator.safetensors"
    ).read_bytes()


def test_several_channels_and_ct_are_fitted_and_sampled(task):
    info = json.loads((task.raw / "dataset.json").read_text())
    (task.raw / "dataset.json").write_text(json.dumps(info | {"channel_names": {"0": "MR", "1": "CT"}}))
    for seed, case in enumerate((*LABELLED, *UNLABELLED)):
        write_image(task.image(case).with_name(f"{case}_0001.nii.gz"), 1.5 * blob(seed) - 1000)
    task.tiny_plan(2)
    fit(task.workspace, device="cpu")
    folder = sample(task.workspace, SampleRequest(1, steps=2), device="cpu")
    assert list(volumes(folder)) == [f"{name(0)}_0000.nii.gz", f"{name(0)}_0001.nii.gz"]
    plan = GeneratorPlan.load(task.workspace.generator / "plan.json")
    assert plan.grid.ranges[1] == (-1000, 1000)


def test_patches_keep_their_place_and_size(task):
    task.tiny_plan(2, replace(REQUEST, field_of_view="patch"))
    plan = json.loads((task.workspace.generator / "plan.json").read_text())
    plan["grid"]["shape"] = plan["autoencoder_crop"] = [16, 16, 16]
    (task.workspace.generator / "plan.json").write_text(json.dumps(plan))
    fit(task.workspace, device="cpu")
    # this detector has learned nothing in its four steps
    folder = sample(task.workspace, SampleRequest(6, steps=2, keep_copies=True), device="cpu")
    for file in (folder / "imagesTr").iterdir():
        assert sitk.ReadImage(str(file)).GetSize() == (16, 16, 16)
    placed = manifest(folder)["volumes"].values()
    assert len({tuple(v["offset"]) for v in placed}) > 1
    assert all(0 <= o <= e - 16 for v in placed for o, e in zip(v["offset"], v["extent"], strict=True))


SITES = {case: "AB"[i % 2] for i, case in enumerate((*LABELLED, "free_1"))}  # nobody knows where free_0 comes from


@pytest.fixture(scope="session")
def fitted_with_sites(blobs, tmp_path_factory) -> Path:
    """nnU-Net's folders after an unbroken `fit` of scans from two sites, one of them of other spacing."""
    root = tmp_path_factory.mktemp("sites")
    shutil.copytree(blobs, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{folder}", str(root / folder))
        torch.set_num_threads(1)
        task = Task(root)
        write_image(task.image("free_0"), blob(6), (2.5, 1.5, 1.5))
        (task.raw / "sites.csv").write_text("".join(f"{c},{s}\n" for c, s in {"case": "site", **SITES}.items()))
        task.tiny_plan(8)
        fit(task.workspace, device="cpu")
    return root


@pytest.fixture
def with_sites(fitted_with_sites, folders) -> Task:
    """A copy of it, to be worked on."""
    shutil.copytree(fitted_with_sites, folders, dirs_exist_ok=True)
    return Task(folders)


def conditions(folder: Path) -> list[dict]:
    return [entry["condition"] for entry in manifest(folder)["volumes"].values()]


def test_sites_beside_the_dataset_and_varying_spacing_are_learned(with_sites):
    plan = GeneratorPlan.load(with_sites.workspace.generator / "plan.json")
    here = {*plan.cases, *plan.held_out}
    assert plan.conditions.sites == ("A", "B")
    assert plan.conditions.site_of == {case: site for case, site in SITES.items() if case in here}
    assert plan.conditions.spacing
    generator = Generator.load(with_sites.workspace.generator / "generator.safetensors")
    told = dict(zip(plan.cases, generator.conditions, strict=True))
    assert told["free_0"] == Condition(None, (2.5, 1.5, 1.5))
    assert all(told[case].site == SITES[case] for case in plan.cases if case != "free_0")


def test_generator_with_conditions_survives_the_disk(with_sites, tmp_path):
    file = with_sites.workspace.generator / "generator.safetensors"
    Generator.load(file).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_stopped_fit_with_conditions_equals_an_unbroken_one(with_sites, monkeypatch):
    generator = with_sites.workspace.generator
    unbroken = shutil.copy(generator / "generator.safetensors", with_sites.root / "unbroken.safetensors")
    plan = (generator / "plan.json").read_text()
    fit(with_sites.workspace, REQUEST, device="cpu", fresh=True, plan_only=True)
    (generator / "plan.json").write_text(plan)
    losses, steps = fitting.DenoiserObjective.losses, []

    def stops(objective, batch, progress):
        steps.append(progress)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return losses(objective, batch, progress)

    with monkeypatch.context() as patch:
        patch.setattr(fitting.DenoiserObjective, "losses", stops)
        with pytest.raises(KeyboardInterrupt):
            fit(with_sites.workspace, device="cpu")
    target = fit(with_sites.workspace, device="cpu")
    assert_same_generator(target, unbroken)


def test_sampled_conditions_mirror_the_training_scans_and_are_told(with_sites):
    folder = sample(with_sites.workspace, SampleRequest(12, steps=1), device="cpu")
    generator = Generator.load(with_sites.workspace.generator / "generator.safetensors")
    scans = [(list(extent), c.known()) for extent, c in zip(generator.extents, generator.conditions, strict=True)]
    for entry in manifest(folder)["volumes"].values():
        known = {k: tuple(v) if k == "spacing" else v for k, v in entry["condition"].items()}
        assert (entry["extent"], known) in scans
    assert {c.get("site") for c in conditions(folder)} == {"A", "B", None}


def test_asked_conditions_are_what_all_volumes_have(with_sites):
    wanted = replace(SHORT, steps=2, condition=Condition("B", (2.2, 1.5, 1.5)), guidance=2.0)
    folder = sample(with_sites.workspace, wanted, device="cpu")
    assert conditions(folder) == [{"site": "B", "spacing": [2.2, 1.5, 1.5]}] * COUNT
    expected = volumes(folder)
    shutil.rmtree(folder)
    sample(with_sites.workspace, replace(wanted, count=2), device="cpu")
    assert volumes(folder) == {k: v for k, v in expected.items() if k < name(2)}
    sample(with_sites.workspace, wanted, device="cpu")
    assert volumes(folder) == expected, "a longer set begins with the shorter one"
    sample(with_sites.workspace, replace(wanted, guidance=1.0), device="cpu", fresh=True)
    assert not set(volumes(folder).values()) & set(expected.values()), "guidance makes other volumes"


def test_unknown_site_is_refused_and_leaves_nothing(with_sites, capsys):
    command = ["sample", "--task", "905", "-n", "1", "--device", "cpu", "--condition", "site=C"]
    assert main(command) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "site=C" in line
    assert "site=A, site=B, spacing=" in line
    assert not (with_sites.workspace.synthetic / "manifest.json").exists()
    assert main([*command[:-1], "site=B", "--steps", "1"]) == 0
    assert conditions(with_sites.workspace.synthetic)[0]["site"] == "B"


def test_sites_file_is_an_option_of_fit(task, capsys):
    file = task.root / "where.json"
    file.write_text(json.dumps({"free_0": "north", **dict.fromkeys(LABELLED, "south")}))
    command = ["fit", "--task", "905", "--budget", "cpu-small", "--device", "cpu", "--plan-only", "--sites"]
    assert main([*command, str(task.root / "nowhere.csv")]) == 2
    assert "nowhere.csv" in capsys.readouterr().err
    assert not (task.workspace.generator / "readings.json").exists(), "told before the scans are read"
    assert main([*command, str(file)]) == 0
    assert GeneratorPlan.load(task.workspace.generator / "plan.json").conditions.sites == ("north", "south")


def test_site_of_a_case_that_does_not_exist_is_refused(task, refusal):
    plan = task.tiny_plan()
    site_of = {plan["cases"][0]: "A", plan["cases"][1]: "B", "blob_77": "B"}
    task.tiny_plan(conditions={"sites": ["A", "B"], "site_of": site_of})
    assert "blob_77" in refusal(fit, task.workspace, device="cpu")


@pytest.mark.slow
def test_killed_fit_and_sample_equal_unbroken_ones(task, fitted, kill_when):
    """kill -9 of the real command in each of its four long parts."""
    task.tiny_plan(STEPS)
    generator, synthetic = task.workspace.generator, task.workspace.synthetic
    fit_again = [sys.executable, "-m", "diffaug", "fit", "--task", "905", "--budget", "cpu-small", "--device", "cpu"]
    log = generator / "log.jsonl"

    def logged(fit: str, step: int) -> bool:
        return log.exists() and any(line["fit"] == fit and line["step"] >= step for line in read_log(log))

    kill_when(fit_again, lambda: logged("autoencoder", 5))
    assert not logged("refiner", 1)
    kill_when(fit_again, lambda: logged("refiner", 5))
    assert not logged("denoiser", 1)
    kill_when(fit_again, lambda: logged("denoiser", 5))
    assert not (generator / "generator.safetensors").exists()
    target = fit(task.workspace, REQUEST, device="cpu")
    assert_same_generator(target, unbroken(fitted, task) / "generator" / target.name)
    assert target.read_bytes() == (unbroken(fitted, task) / "generator" / target.name).read_bytes()

    sample_again = [
        sys.executable,
        "-m",
        "diffaug",
        "sample",
        "--task",
        "905",
        "-n",
        str(COUNT),
        "--seed",
        "3",
        "--steps",
        "4",
        "--device",
        "cpu",
    ]
    kill_when(sample_again, lambda: len(list((synthetic / "imagesTr").glob("s*.nii.gz"))) >= 2)
    assert not manifest(synthetic)["finished"]
    sample(task.workspace, SHORT, device="cpu")
    assert volumes(synthetic) == volumes(unbroken(fitted, task) / "synthetic"), "same files, and no others"


def test_a_reader_study_shows_the_scans_that_were_fitted_and_no_others(done, tmp_path):
    write_image(done.raw / "imagesUn" / "newcomer_0000.nii.gz", blob(50))
    request = MakeRequest(tmp_path / "study", tmp_path / "key.json", real_count=2, synthetic_count=2)
    real, synthetic = sides_of_task(done.workspace, request)
    assert {case.id for case in real.dataset.cases} == set(manifest(done.workspace.generator)["cases"])
    assert len(synthetic.dataset.cases) == COUNT
