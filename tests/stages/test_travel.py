"""A generator goes to another hospital: nothing in it points at a scan, and there it is used as if it were its own."""

import json
import shutil

import numpy as np
import pytest
import torch

from blobs import LABELLED, UNLABELLED, Task, blob, write_image
from diffaug.cli import main
from diffaug.files import file_hash
from diffaug.generator.model import Generator
from diffaug.pretraining.sources import synthetic_source
from diffaug.stages.pipeline import audit, fit, sample
from diffaug.stages.requests import FitRequest, SampleRequest
from diffaug.stages.travel import export_generator, import_generator

SITES = ("St. Mary's", "Elsewhere")
SHORT = SampleRequest(count=3, seed=1, steps=3)
TOLD = {"origin": "eight bodies of blobs", "licence": "CC BY 4.0"}
ELSEWHERE = "Dataset906_Elsewhere"


@pytest.fixture(scope="module")
def sender(blobs, tmp_path_factory):
    """A fitted generator of two sites, with a report that found no copies."""
    root = tmp_path_factory.mktemp("sender")
    shutil.copytree(blobs, root, dirs_exist_ok=True)
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{folder}", str(root / folder))
        task = Task(root)
        rows = [f"{case},{SITES[number % 2]}" for number, case in enumerate((*LABELLED, *UNLABELLED))]
        (task.raw / "sites.csv").write_text("\n".join(["case,site", *rows]))
        request = FitRequest(budget="cpu-small", exclude=("none",))
        task.tiny_plan(2, request)
        fit(task.workspace, request, device="cpu")
        task.audit_manifest()
    return root


@pytest.fixture
def there(sender, folders):
    """The sender's folders, and beside them a hospital that has a dataset.json and no scan."""
    shutil.copytree(sender, folders, dirs_exist_ok=True)
    raw = folders / "raw" / ELSEWHERE
    (raw / "imagesTr").mkdir(parents=True)
    info = {"channel_names": {"0": "mr"}, "labels": {"background": 0, "body": 1}, "numTraining": 0}
    (raw / "dataset.json").write_text(json.dumps({**info, "file_ending": ".nii.gz"}))
    return Task(folders), Task(folders, ELSEWHERE)


def test_nothing_in_the_file_points_at_a_scan_and_it_makes_the_same_volumes(there, tmp_path):
    task, _ = there
    out = export_generator(task.workspace, tmp_path / "g.safetensors", **TOLD)
    content = out.read_bytes().lower()
    for word in (*LABELLED, *UNLABELLED, *SITES, str(task.root), task.dataset, "imagestr", ".nii"):
        assert word.lower().encode() not in content, word
    own = Generator.load(task.workspace.generator / "generator.safetensors")
    theirs = Generator.load(out)
    assert sorted(map(tuple, own.extents)) == sorted(map(tuple, theirs.extents))
    assert theirs.plan.conditions.sites == ("site 1", "site 2")
    assert [c.site for c in theirs.conditions].count("site 1") == 4
    for network in ("autoencoder", "refiner", "denoiser"):
        mine, other = getattr(own, network).state_dict(), getattr(theirs, network).state_dict()
        for key in mine:
            torch.testing.assert_close(mine[key], other[key], atol=1e-3, rtol=1e-3)
    assert out.stat().st_size < 0.75 * (task.workspace.generator / "generator.safetensors").stat().st_size


def test_another_hospital_samples_and_pretrains_on_it_without_a_scan_of_its_own(there, tmp_path, capsys):
    task, other = there
    file = export_generator(task.workspace, tmp_path / "g.safetensors", **TOLD)
    common = ["--task", "906", "--device", "cpu", "--generator", str(file)]
    assert main(["sample", *common, "-n", "3", "--seed", "1", "--steps", "3"]) == 0
    told = capsys.readouterr().out
    assert "eight bodies of blobs (7 scans; licence: CC BY 4.0)" in told
    assert "Copies: no sign of them." in told
    manifest = json.loads((other.workspace.synthetic / "manifest.json").read_text())
    assert (manifest["seen"], manifest["screened"], manifest["origin"]) == ([], False, TOLD["origin"])
    assert len(list((other.workspace.synthetic / "imagesTr").iterdir())) == 3
    study = ["--out", str(tmp_path / "study"), "--real-count", "0", "--synthetic-count", "3"]
    assert main(["reader-study", "make", "--task", "906", *study]) == 0
    assert synthetic_source(other.workspace.synthetic, set()).origin == TOLD["origin"]
    # from now on it is the task's own: nothing is fitted, and more volumes need no option
    sample(other.workspace, SampleRequest(count=4, seed=1, steps=3), device="cpu")
    assert main(["sample", *common, "-n", "4", "--seed", "1", "--steps", "3"]) == 0, "named again it is the same one"


def test_volumes_that_lie_otherwise_than_this_hospitals_scans_are_told(there, tmp_path, capsys):
    task, other = there
    file = export_generator(task.workspace, tmp_path / "g.safetensors", **TOLD)
    import_generator(other.workspace, file)
    assert "WARNING: its volumes are" not in capsys.readouterr().out, "no scan, nothing to compare"
    own = Generator.load(file).plan.grid.orientation
    for axes, orientation in (((1, 1, 1), "LPS"), ((-1, -1, 1), "RAS")):
        write_image(other.raw / "imagesTr" / "a_0000.nii.gz", blob(0), direction=np.diag(axes).ravel().tolist())
        import_generator(other.workspace, file, fresh=True)
        told = f"a scan of this task {orientation}" in capsys.readouterr().out
        assert told == (orientation != own)


def test_an_imported_generator_is_neither_fitted_further_nor_audited_nor_passed_on(there, tmp_path, refusal):
    task, other = there
    import_generator(other.workspace, export_generator(task.workspace, tmp_path / "g.safetensors", **TOLD))
    assert "was imported" in refusal(fit, other.workspace, device="cpu")
    assert "audit --real" in refusal(audit, other.workspace, device="cpu")
    other.audit_manifest()
    assert "came from elsewhere" in refusal(export_generator, other.workspace, tmp_path / "h.safetensors", **TOLD)


def test_no_generator_leaves_without_an_audit_or_with_copies(there, tmp_path, refusal):
    task, _ = there
    out, file = tmp_path / "g.safetensors", task.workspace.audit / "manifest.json"
    good = json.loads(file.read_text())
    for change, found in (
        ({"finished": False}, "no finished audit"),
        ({"inputs": {"generator_sha256": "another"}}, "of another generator"),
        ({"verdicts": {"copies": ["bad", "Copies: 3 of 8."]}}, "Copies: 3 of 8."),
        ({"figures": {}}, "is missing"),
        ({"figures": {**good["figures"], "copies": {**good["figures"]["copies"], "certain": 1}}}, "found copies"),
    ):
        task.audit_manifest(**change)
        assert found in refusal(export_generator, task.workspace, out, **TOLD)
    file.unlink()
    assert "no finished audit" in refusal(export_generator, task.workspace, out, **TOLD)
    task.audit_manifest()
    assert "--licence" in refusal(export_generator, task.workspace, out, origin="ours", licence=" ")
    assert ".safetensors" in refusal(export_generator, task.workspace, tmp_path / "g.pt", **TOLD)
    assert not out.exists()
    export_generator(task.workspace, out, **TOLD)
    assert "is there already" in refusal(export_generator, task.workspace, out, **TOLD)


def test_what_is_no_travelling_generator_or_makes_other_images_is_refused(there, tmp_path, refusal):
    task, other = there
    own = task.workspace.generator / "generator.safetensors"
    assert "does not say where it comes from" in refusal(import_generator, other.workspace, own)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(own.read_bytes()[:5000])
    assert "not a whole generator file" in refusal(import_generator, other.workspace, broken)
    file = export_generator(task.workspace, tmp_path / "g.safetensors", **TOLD)
    info = json.loads((other.raw / "dataset.json").read_text())
    (other.raw / "dataset.json").write_text(json.dumps({**info, "channel_names": {"0": "CT"}}))
    assert "channels MR, expected CT" in refusal(import_generator, other.workspace, file)
    assert "another generator is there" in refusal(import_generator, task.workspace, file)
    assert Generator.load(own).provenance["seen"], "and the one that was there is kept"
    import_generator(task.workspace, file, fresh=True)
    assert file_hash(own) == file_hash(file)


def test_a_licence_may_be_a_file(there, tmp_path):
    task, _ = there
    terms = tmp_path / "LICENCE.txt"
    terms.write_text("For research alone.\nNo warranty.\n")
    out = export_generator(task.workspace, tmp_path / "g.safetensors", origin="ours", licence=str(terms))
    assert Generator.load(out).provenance["origin"]["licence"] == "For research alone.\nNo warranty."
