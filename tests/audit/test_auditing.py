"""The stage `audit` on tiny data: from nothing to a report, for a task and for two folders."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from test_memorisation import blobs

from blobs import blob, write_image
from diffaug.audit import fit_feature_space
from diffaug.audit.requests import FoldersRequest
from diffaug.files import read_json, write_json
from diffaug.generator.plan import FITS
from diffaug.scans.scan import Geometry, Scan, write_scan
from diffaug.stages.pipeline import audit, audit_folders, fit, sample
from diffaug.stages.requests import FitRequest, SampleRequest
from diffaug.workspace import Workspace

ODD = "a&b"  # an id that HTML would trip over
PICTURES = {"volumes", "nearest_pairs", "similarities", "textures"}


@pytest.fixture(scope="module", autouse=True)
def short_fits():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_feature_space, "FEATURE_STEPS", {"cpu": 6})
        yield


@pytest.fixture(scope="module", params=["whole", "patch"])
def audited(tmp_path_factory, request):
    root = tmp_path_factory.mktemp(request.param)
    raw = root / "raw" / "Dataset900_Blobs"
    for number in range(8):
        voxels = blobs((18, 16, 22), number, 2) * 300 + 400
        write_scan(Scan(voxels, Geometry()), raw / "imagesTr", f"{ODD}{number}")
    write_json(
        raw / "dataset.json",
        {
            "channel_names": {"0": "T1", "1": "T2"},
            "labels": {"background": 0},
            "numTraining": 8,
            "file_ending": ".nii.gz",
        },
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{name}", str(root / name))
        workspace = Workspace("Dataset900_Blobs")
        wanted = FitRequest(budget="cpu-small", field_of_view=request.param, exclude=("none",))
        plan_file = fit(workspace, wanted, device="cpu", plan_only=True)
        plan = json.loads(plan_file.read_text())
        plan["grid"]["shape"] = [16, 16, 16]
        if "autoencoder_crop" in plan:
            plan["autoencoder_crop"] = [16, 16, 16]
        plan["autoencoder"] |= {"channels": [8, 8], "latent_channels": 4, "codes": 32}
        plan["denoiser"] |= {"channels": [8, 16], "latent_channels": 4}
        plan["refiner"] = {"width": 8, "blocks": 1}
        for name in FITS:
            plan[name] |= {"steps": 6, "batch_size": 2}
        write_json(plan_file, plan)
        sample(workspace, SampleRequest(count=4, steps=3), device="cpu")
        yield workspace, audit(workspace, device="cpu")
    torch.set_num_threads(threads)


def test_ids_are_escaped(audited):
    page = audited[1].read_text()
    assert "a&amp;b" in page
    assert ODD not in page


def test_manifest_holds_figures_beside_their_counts(audited):
    workspace, _ = audited
    manifest = read_json(workspace.audit / "manifest.json", "")
    assert manifest["finished"] and {"generator_sha256", "sample_manifest_sha256"} <= set(manifest["inputs"])
    figures = manifest["figures"]
    assert figures["volumes"] == {"synthetic": 4, "training": 7, "unseen": 1}
    assert figures["reconstruction"]["unseen"]["psnr_db"]["n"] == 1
    assert np.isfinite(figures["reconstruction"]["training"]["psnr_db"]["value"])
    assert figures["ms_ssim_synthetic"]["n"] == 6
    assert figures["copies"]["planted_found"]["through the autoencoder"][1] == 7
    assert set(figures["textures"]) == {"intensities", "spectrum", "slices"}
    assert figures["distances"] == {}, "four volumes are too few"
    assert len((workspace.audit / "copies.csv").read_text().splitlines()) == 5


def test_pictures_are_files_too(audited):
    workspace, _ = audited
    assert {file.stem for file in workspace.audit.glob("*.png")} == PICTURES | {"reconstructions"}


def test_finished_audit_is_not_redone_until_its_inputs_change(audited):
    workspace, report = audited
    report.write_text("as it was")
    assert audit(workspace, device="cpu").read_text() == "as it was"
    sample(workspace, SampleRequest(count=5, steps=3), device="cpu")
    assert audit(workspace, device="cpu").read_text() != "as it was"
    assert read_json(workspace.audit / "manifest.json", "")["figures"]["volumes"]["synthetic"] == 5
    report.write_text("as it was")
    assert audit(workspace, device="cpu", fresh=True).read_text() != "as it was"


@pytest.fixture
def folders(tmp_path):
    for seed in range(12):
        write_image(tmp_path / "real" / f"r{seed:02d}.nii.gz", blob(seed, (16, 16, 16)))
    for seed in range(11):
        write_image(tmp_path / "made" / f"m{seed}.nii.gz", blob(50 + seed, (16, 16, 16)))
    return FoldersRequest(tmp_path / "real", tmp_path / "made")


def figures(out):
    return read_json(out / "manifest.json", "")["figures"]


def test_two_folders_give_the_same_report_twice(folders, tmp_path):
    audit_folders(folders, tmp_path / "one", device="cpu")
    audit_folders(folders, tmp_path / "two", device="cpu")
    assert figures(tmp_path / "one") == figures(tmp_path / "two")
    assert figures(tmp_path / "one")["volumes"] == {"synthetic": 11, "training": 12, "unseen": 0}
    distances = figures(tmp_path / "one")["distances"]["self-supervised encoder"]
    assert set(distances) == {"KID", "FID", "density", "coverage"}
    assert {"figure", "floor", "verdict"} <= set(distances["KID"])
    assert {file.stem for file in (tmp_path / "one").glob("*.png")} == PICTURES
    assert (tmp_path / "one" / "copies.csv").read_text() == (tmp_path / "two" / "copies.csv").read_text()


def test_another_set_against_the_same_scans_needs_no_other_encoder_or_copy_test(folders, tmp_path):
    report = audit_folders(folders, tmp_path / "out", device="cpu")
    made = [
        *(tmp_path / "out" / "work").glob("*/copies.json"),
        *(tmp_path / "out" / "work").glob("*/encoder.safetensors"),
    ]
    before = [file.stat().st_mtime_ns for file in made]
    assert len(made) == 2
    report.write_text("as it was")
    assert audit_folders(folders, tmp_path / "out", device="cpu").read_text() == "as it was"
    write_image(tmp_path / "made" / "m11.nii.gz", blob(99, (16, 16, 16)))
    assert audit_folders(folders, tmp_path / "out", device="cpu").read_text() != "as it was"
    assert figures(tmp_path / "out")["volumes"]["synthetic"] == 12
    assert [file.stat().st_mtime_ns for file in made] == before


def test_a_copied_file_is_named_with_its_source_each_scan_setting_the_threshold_too(folders, tmp_path):
    for case in range(12):
        shutil.copy(tmp_path / "real" / f"r{case:02d}.nii.gz", tmp_path / "made" / f"copy{case:02d}.nii.gz")
    audit_folders(folders, tmp_path / "out", device="cpu")
    rows = csv.DictReader((tmp_path / "out" / "copies.csv").open())
    named = {row["synthetic"]: row for row in rows if row["synthetic"].startswith("copy")}
    assert {name: row["nearest_training_scan"] for name, row in named.items()} == {
        f"copy{i:02d}": f"r{i:02d}" for i in range(12)
    }
    assert all(float(row["similarity"]) > 0.5 for row in named.values())


def test_audit_of_folders_is_made_anew_when_told_so_and_when_a_folder_is_left_out(folders, tmp_path, capsys):
    for seed in range(3):
        write_image(tmp_path / "unseen" / f"u{seed}.nii.gz", blob(80 + seed, (16, 16, 16)))
    with_unseen = FoldersRequest(folders.real, folders.synthetic, unseen=tmp_path / "unseen")
    audit_folders(with_unseen, tmp_path / "out", device="cpu", fresh=True)
    assert figures(tmp_path / "out")["volumes"]["unseen"] == 3
    audit_folders(folders, tmp_path / "out", device="cpu")
    assert "unseen changed since the report was made" in capsys.readouterr().out
    report = audit_folders(folders, tmp_path / "out", device="cpu")
    assert figures(tmp_path / "out")["volumes"]["unseen"] == 0
    report.write_text("as it was")
    assert audit_folders(folders, tmp_path / "out", device="cpu", fresh=True).read_text() != "as it was"
