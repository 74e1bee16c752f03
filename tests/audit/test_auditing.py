"""The stage `audit` on a tiny dataset: from nothing to a report, once."""

import json
import re

import numpy as np
import pytest
import torch
from test_memorisation import blobs

from diffaug.audit.auditing import audit
from diffaug.generator.fitting import FitRequest, fit
from diffaug.generator.sampling import SampleRequest, sample
from diffaug.volumes.scan import Geometry, Scan, write_scan
from diffaug.workspace import Workspace, read_json, write_json

ODD = "a&b"  # an id that HTML would trip over


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
        for name in ("autoencoder_training", "denoiser_training"):
            plan[name] |= {"steps": 6, "batch_size": 2}
        write_json(plan_file, plan)
        sample(workspace, SampleRequest(count=4, steps=3), device="cpu")
        yield workspace, audit(workspace, device="cpu")
    torch.set_num_threads(threads)


def test_report_needs_nothing_beside_it(audited):
    _, report = audited
    page = report.read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"https?:|<script|<link|url\(|@import", page)
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', page))


def test_ids_are_escaped(audited):
    page = audited[1].read_text()
    assert "a&amp;b" in page
    assert ODD not in page


def test_manifest_holds_figures_beside_their_counts(audited):
    workspace, _ = audited
    manifest = read_json(workspace.audit / "manifest.json", "")
    assert manifest["finished"] and set(manifest["inputs"]) == {"generator_sha256", "sample_manifest_sha256"}
    figures = manifest["figures"]
    assert figures["psnr_db"]["n"] == 1
    assert figures["ms_ssim_synthetic"]["n"] == 6
    assert 0 <= figures["copies"]["flagged_share"] <= 1
    assert figures["copies"]["planted_found"]["exact"] == [7, 7]
    assert len((workspace.audit / "nearest.csv").read_text().splitlines()) == 5
    assert np.isfinite(figures["psnr_db"]["value"])


def test_pictures_are_files_too(audited):
    workspace, _ = audited
    names = {file.stem for file in workspace.audit.glob("*.png")}
    assert names == {"volumes", "reconstructions", "nearest_pairs", "similarities"}


def test_finished_audit_is_not_redone_until_its_inputs_change(audited):
    workspace, report = audited
    report.write_text("as it was")
    assert audit(workspace, device="cpu").read_text() == "as it was"
    sample(workspace, SampleRequest(count=5, steps=3), device="cpu")
    assert audit(workspace, device="cpu").read_text() != "as it was"
    assert read_json(workspace.audit / "manifest.json", "")["figures"]["copies"]["synthetic"] == 5
    report.write_text("as it was")
    assert audit(workspace, device="cpu", fresh=True).read_text() != "as it was"
