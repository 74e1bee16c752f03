"""What people stumble over: a slip beside --fresh, a new scan, another scan under an old name, a laptop without a GPU."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from blobs import REQUEST, Task, blob, write_image
from diffaug.audit import fit_feature_space
from diffaug.audit.requests import Extras
from diffaug.budgets import BUDGETS
from diffaug.cli import main
from diffaug.stages import audit as auditing
from diffaug.stages.pipeline import audit, fit, pretrain, sample
from diffaug.stages.requests import FitRequest, PretrainRequest, SampleRequest

SHORT = SampleRequest(count=4, steps=2, keep_copies=True)
SYNTHETIC = PretrainRequest(budget="cpu-small", pretext_steps=2)


@pytest.fixture(scope="module")
def made(blobs, tmp_path_factory) -> Path:
    """nnU-Net's folders after `fit`, `sample`, `audit` and `pretrain`, as a user has them on the day after."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(blobs, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{folder}", str(root / folder))
        patch.setenv("nnUNet_n_proc_DA", "0")
        patch.setattr(fit_feature_space, "FEATURE_STEPS", {"cpu": 4})
        torch.set_num_threads(1)
        task = Task(root)
        assert main(["plan", "--task", "905", "--budget", "cpu-small"]) == 0
        plans = json.loads((task.preprocessed / "nnUNetPlans.json").read_text())
        small = plans["configurations"].pop("3d_cpu_small")
        plans["configurations"]["3d_fullres"] |= {key: small[key] for key in small if key != "inherits_from"}
        (task.preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
        task.tiny_plan(2)
        fit(task.workspace, device="cpu")
        sample(task.workspace, SHORT, device="cpu")
        audit(task.workspace, device="cpu")
        pretrain(task.workspace, SYNTHETIC, device="cpu")
    return root


@pytest.fixture
def done(made, folders, monkeypatch) -> Task:
    """A copy of it, to be worked on."""
    monkeypatch.setattr(fit_feature_space, "FEATURE_STEPS", {"cpu": 4})
    shutil.copytree(made, folders, dirs_exist_ok=True)
    return Task(folders)


def state(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}


SLIPS = {
    "fit, a list that is not there": ["fit", "--budget", "cpu-small", "--exclude", "nosuch.txt"],
    "fit, a fold that is not there": ["fit", "--budget", "cpu-small", "--exclude", "fold:9"],
    "fit, a folder that is not there": ["fit", "--budget", "cpu-small", "--more-images", "nowhere"],
    "fit, sites that are not there": ["fit", "--budget", "cpu-small", "--sites", "nowhere.csv"],
    "sample, no such sampler": ["sample", "--sampler", "magic"],
    "sample, no such site": ["sample", "--condition", "site=C"],
    "sample, no volume": ["sample", "-n", "0"],
    "audit, weights that are not there": ["audit", "--weights", "nowhere.pth"],
    "audit, a model that is not there": ["audit", "--nnunet-model", "nowhere"],
    "pretrain, no such pretext": ["pretrain", "--budget", "cpu-small", "--pretext", "jigsaw"],
    "pretrain, no step": ["pretrain", "--budget", "cpu-small", "--pretext-steps", "0"],
    "pretrain, a list that is not there": ["pretrain", "--budget", "cpu-small", "--exclude", "nosuch.txt"],
    "pretrain, a teacher for scans": ["pretrain", "--budget", "cpu-small", "--images", "real", "--pretext", "clusters"],
    "pretrain, a folder that is not there": ["pretrain", "--budget", "cpu-small", "--images", "nowhere"],
}


@pytest.mark.parametrize("words", SLIPS.values(), ids=SLIPS)
def test_fresh_beside_a_slip_discards_nothing(done, capsys, words):
    before = state(done.workspace.run)
    assert main([*words, "--task", "905", "--device", "cpu", "--fresh"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()[-1]) > 20
    assert state(done.workspace.run) == before


def test_fresh_beside_a_broken_scan_keeps_the_finished_generator(done, refusal):
    bad = write_image(done.raw / "imagesUn" / "bad_0000.nii.gz", np.ones((8, 8, 8), np.float32))
    before = state(done.workspace.run)
    assert str(bad) in refusal(fit, done.workspace, REQUEST, device="cpu", fresh=True)
    assert state(done.workspace.run) == before


def test_a_new_scan_is_told_and_blocks_nothing_that_comes_after_the_generator(done, capsys, refusal):
    write_image(done.raw / "imagesUn" / "new_0000.nii.gz", blob(30))
    model = (done.workspace.generator / "generator.safetensors").stat().st_mtime_ns
    sample(done.workspace, replace(SHORT, count=5), device="cpu")
    assert "1 new (new)" in capsys.readouterr().out
    audit(done.workspace, device="cpu")
    pretrain(done.workspace, replace(SYNTHETIC, pretext_steps=3), device="cpu", fresh=True)
    told = capsys.readouterr().out
    assert "fit --fresh begins anew" in told
    assert (done.workspace.generator / "generator.safetensors").stat().st_mtime_ns == model
    message = refusal(fit, done.workspace, device="cpu")
    assert "1 new (new)" in message
    assert "fit --fresh" in message
    assert (done.workspace.generator / "generator.safetensors").stat().st_mtime_ns == model


def test_a_scan_that_is_gone_is_told_and_blocks_nothing_either(done, capsys):
    done.image("free_1").unlink()
    sample(done.workspace, replace(SHORT, count=5), device="cpu")
    assert "1 gone (free_1)" in capsys.readouterr().out
    audit(done.workspace, device="cpu")


def test_a_scan_replaced_under_its_old_name_is_noticed(done, capsys, refusal):
    write_image(done.image("free_0"), blob(77))
    assert "1 replaced under the old name (free_0)" in refusal(fit, done.workspace, device="cpu")
    sample(done.workspace, replace(SHORT, count=5), device="cpu")
    assert "1 replaced under the old name (free_0)" in capsys.readouterr().out


def test_a_scan_that_was_only_copied_anew_is_the_same(done, capsys):
    file = done.image("free_0")
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    fit(done.workspace, device="cpu")
    assert "is there already" in capsys.readouterr().out


def test_an_unfinished_fit_does_not_go_on_with_other_scans(task, refusal):
    task.tiny_plan(2)
    write_image(task.image("free_0"), blob(77))
    assert "free_0" in refusal(fit, task.workspace, device="cpu")
    assert fit(task.workspace, REQUEST, device="cpu", fresh=True, plan_only=True).is_file()


@pytest.mark.parametrize("verb", [sample, audit, pretrain])
def test_without_a_gpu_no_verb_begins_a_fit_that_is_meant_for_one(task, made, refusal, verb):
    shutil.copytree(made / "preprocessed", task.root / "preprocessed", dirs_exist_ok=True)
    message = refusal(verb, task.workspace, device="cpu")
    steps = BUDGETS["gpu-24g"]
    fits = (steps.autoencoder_training, steps.refiner_training, steps.denoiser_training)
    assert "{:,}, {:,} and {:,} steps".format(*(training.steps for training in fits)) in message
    assert "days here" in message
    assert "diffaug fit --task Dataset905_Blobs --budget cpu-small" in message
    assert not (task.workspace.generator / "manifest.json").exists()


def test_what_is_missing_is_said_before_it_is_made(done, capsys):
    shutil.rmtree(done.workspace.generator)
    shutil.rmtree(done.workspace.synthetic)
    done.tiny_plan(2)
    capsys.readouterr()
    pretrain(done.workspace, replace(SYNTHETIC, pretext_steps=3), upstream=(REQUEST, SHORT), device="cpu", fresh=True)
    lines = capsys.readouterr().out.splitlines()
    (generator,) = [line for line in lines if line.startswith("pretrain: the generator is unfinished")]
    assert "cpu-small, 2, 2 and 2 steps, likely two minutes or less here" in generator
    assert "pretrain: first sample, 4 volumes" in lines
    assert lines.index(generator) < lines.index("pretrain: first sample, 4 volumes")


def test_audit_of_other_volumes_says_what_has_changed(done, capsys):
    sample(done.workspace, replace(SHORT, count=5), device="cpu")
    capsys.readouterr()
    audit(done.workspace, device="cpu")
    assert "sample_manifest_sha256, sampling changed since the report was made" in capsys.readouterr().out


def test_a_report_of_an_older_version_is_made_anew(done, capsys, monkeypatch):
    monkeypatch.setattr(auditing, "__version__", "99")
    audit(done.workspace, Extras(), device="cpu")
    assert "diffaug's version changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "asked", "differs"),
    [
        (fit, replace(REQUEST, seed=3), "seed was 0 and is 3"),
        (fit, FitRequest(budget="cpu-small", exclude=("none",)), "exclude was fold:0 and is none"),
        (sample, replace(SHORT, sampler="ddim"), "sampler was dpmpp and is ddim"),
        (sample, replace(SHORT, steps=3), "steps was 2 and is 3"),
        (pretrain, replace(SYNTHETIC, pretext="mae"), "pretext was denoise and is mae"),
        (pretrain, replace(SYNTHETIC, pretext_steps=None), "pretext_steps was 2 and is none"),
    ],
)
def test_options_that_differ_are_named_with_what_they_were(done, refusal, verb, asked, differs):
    before = state(done.workspace.run)
    message = refusal(verb, done.workspace, asked, device="cpu")
    assert differs in message
    assert "--fresh" in message
    assert state(done.workspace.run) == before


def test_other_images_under_an_unfinished_pretraining_are_named(done, refusal, monkeypatch):
    from diffaug.pretraining.fitting import PretextObjective

    def stops(self, batch, progress):
        raise KeyboardInterrupt

    real = replace(SYNTHETIC, images=("real",))
    with monkeypatch.context() as patch:
        patch.setattr(PretextObjective, "losses", stops)
        with pytest.raises(KeyboardInterrupt):
            pretrain(done.workspace, real, device="cpu", fresh=True)
    write_image(done.image("free_0"), blob(77))
    message = refusal(pretrain, done.workspace, real, device="cpu")
    assert "1 images of real (free_0)" in message
    assert "pretrain --fresh" in message


def test_nothing_that_is_exported_tells_a_folder_or_a_case(done, tmp_path):
    folder = tmp_path / "secret_ward"
    shutil.copytree(done.raw / "imagesUn", folder)
    request = replace(SYNTHETIC, images=("synthetic", str(folder)))
    pretrain(done.workspace, request, device="cpu", fresh=True)
    out = tmp_path / "encoder.pt"
    assert main(["export", "--task", "905", "--out", str(out)]) == 0
    told = torch.load(out, weights_only=True)["diffaug"]
    assert told["images"] == ["synthetic", "folder"]
    assert told["case_ids"] == 6, "how many were seen is told: all but fold 0's"
    content = out.read_bytes()
    for secret in (b"secret_ward", str(tmp_path).encode(), b"blob_", b"free_"):
        assert secret not in content


def test_a_case_that_was_left_out_and_is_gone_blocks_nothing(done):
    """The default rule fold:0 names it still, in splits_final.json."""
    (left_out, *_) = json.loads((done.workspace.generator / "manifest.json").read_text())["excluded"]
    splits = [{"train": [], "val": [left_out]}]
    (done.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    done.image(left_out).unlink()
    fit(done.workspace, REQUEST, device="cpu")
    sample(done.workspace, replace(SHORT, count=5), device="cpu")
    audit(done.workspace, device="cpu")


def test_a_file_that_dataset_json_names_and_that_is_gone_counts_as_gone(done, capsys):
    info = json.loads((done.raw / "dataset.json").read_text())
    files = [done.image(case) for case in ("free_0", "free_1")]
    info["dataset"] = {
        f.name[:-12]: {"images": [str(f.relative_to(done.raw))]} for f in (done.raw / "imagesTr").iterdir()
    }
    (done.raw / "dataset.json").write_text(json.dumps(info))
    done.image("blob_1").unlink()
    assert all(file.is_file() for file in files)
    sample(done.workspace, replace(SHORT, count=5), device="cpu")
    assert "1 gone (blob_1)" in capsys.readouterr().out


def test_a_generator_can_be_fitted_first_where_a_list_names_cases_of_another_folder(task, made, tmp_path):
    shutil.copytree(made / "preprocessed", task.root / "preprocessed", dirs_exist_ok=True)
    task.tiny_plan(2, replace(REQUEST, exclude=("none",)))
    plan = (task.workspace.generator / "plan.json").read_text()
    shutil.rmtree(task.workspace.generator)
    write_image(tmp_path / "ward" / "ward_1_0000.nii.gz", blob(50))
    write_image(tmp_path / "ward" / "ward_2_0000.nii.gz", blob(51))
    names = tmp_path / "leave_out.txt"
    names.write_text("ward_1\n")
    rules = (str(names),)
    from diffaug.stages import fit as stage

    stage.fit(
        task.workspace,
        replace(REQUEST, exclude=rules),
        device="cpu",
        fresh=False,
        plan_only=True,
        others=[tmp_path / "ward"],
    )
    (task.workspace.generator / "plan.json").write_text(plan)
    request = replace(SYNTHETIC, images=("synthetic", str(tmp_path / "ward")), exclude=rules)
    pretrain(task.workspace, request, upstream=(replace(REQUEST, exclude=rules), SHORT), device="cpu")
    told = json.loads((task.workspace.encoder / "manifest.json").read_text())
    assert "ward_2" in told["case_ids"]
    assert "ward_1" not in told["case_ids"]


def test_killed_before_its_plan_was_written_a_fit_still_knows_what_was_asked(task, refusal, monkeypatch):
    from diffaug.generator.plan import GeneratorPlan

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GeneratorPlan, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(task.workspace, REQUEST, device="cpu", plan_only=True)
    assert "seed" in refusal(fit, task.workspace, replace(REQUEST, seed=1), device="cpu", plan_only=True)
    assert fit(task.workspace, REQUEST, device="cpu", plan_only=True).is_file()


def test_import_discards_no_pretraining_that_is_under_way(done, tmp_path, capsys):
    encoder = done.workspace.encoder
    file = shutil.copy(encoder / "encoder.pt", tmp_path / "mine.pt")
    (encoder / "encoder.pt").unlink()  # as before it has finished
    assert main(["import", "--task", "905", "--file", str(file)]) == 2
    assert "--fresh" in capsys.readouterr().err
    assert (encoder / "manifest.json").is_file()
    shutil.copy(file, encoder / "encoder.pt")
    content = (encoder / "encoder.pt").read_bytes()
    assert main(["import", "--task", "905", "--file", str(encoder / "encoder.pt"), "--fresh"]) == 0, "of itself"
    assert (encoder / "encoder.pt").read_bytes() == content
