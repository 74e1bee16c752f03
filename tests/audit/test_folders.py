"""Folders of volumes from any generator: how they are listed, what is refused, and how they come onto one grid."""

import json

import numpy as np
import pytest

from blobs import blob, write_image
from diffaug.audit.folders import FoldersRequest, from_folders, open_folders
from diffaug.scans.folders import open_images
from diffaug.stages.pipeline import audit_folders

SIZE = (12, 16, 14)


def fill(folder, names, *, start=0, size=SIZE, **geometry):
    for seed, name in enumerate(names, start=start):
        write_image(folder / name, blob(seed, size), **geometry)
    return folder


def plain(count, prefix="scan"):
    return [f"{prefix}{i:02d}.nii.gz" for i in range(count)]


def ids(dataset):
    return [case.id for case in dataset.cases]


def test_plain_files_are_cases_of_one_channel(tmp_path):
    dataset = open_images(fill(tmp_path, plain(3)), "--real")
    assert ids(dataset) == ["scan00", "scan01", "scan02"]
    assert len(dataset.channels) == 1
    assert dataset.read(dataset.cases[0]).size == SIZE


def test_suffixes_count_channels(tmp_path):
    dataset = open_images(fill(tmp_path, [f"{c}_{i:04d}.nii.gz" for c in "ab" for i in (0, 1)]), "--real")
    assert [len(case.files) for case in dataset.cases] == [2, 2]
    assert dataset.read(dataset.cases[1]).voxels.shape == (2, *SIZE)


def test_numbers_that_count_the_scans_are_not_taken_for_channels(tmp_path):
    assert ids(open_images(fill(tmp_path, [f"scan_{i:04d}.nii.gz" for i in range(3)]), "--real")) == [
        f"scan_{i:04d}" for i in range(3)
    ]


def test_a_raw_dataset_needs_no_dataset_json_but_is_heeded_where_it_has_one(tmp_path):
    fill(tmp_path / "imagesTr", ["a_0000.nii.gz", "b_0000.nii.gz"])
    assert open_images(tmp_path, "--real").channels == ("channel 0",)
    info = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "numTraining": 2, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    assert open_images(tmp_path, "--real").channels == ("CT",)


def test_other_files_are_passed_over(tmp_path):
    fill(tmp_path, plain(2))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.nii.gz").write_text("x")
    assert ids(open_images(tmp_path, "--real")) == ["scan00", "scan01"]


def _missing(root):
    return root / "nothing"


def _empty(root):
    (root / "empty").mkdir()
    return root / "empty"


def _one_case(root):
    return fill(root / "one", ["a.nii.gz"])


def _gap(root):
    return fill(root / "gap", ["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "c_0000.nii.gz"])


def _two_channels(root):
    return fill(root / "two", [f"{c}_{i:04d}.nii.gz" for c in "ab" for i in (0, 1)])


@pytest.mark.parametrize("spoil", [_missing, _empty, _one_case, _gap, _two_channels])
@pytest.mark.parametrize("option", ["synthetic", "unseen"])
def test_what_cannot_be_compared_is_told_in_one_line(tmp_path, refusal, spoil, option):
    good = fill(tmp_path / "good", plain(10))
    folders = {"real": good, "synthetic": fill(tmp_path / "made", plain(2, "made")), option: spoil(tmp_path)}
    assert str(folders[option]) in refusal(open_folders, FoldersRequest(**folders))


def test_a_scan_that_the_generator_saw_is_not_unseen(tmp_path, refusal):
    real, unseen = fill(tmp_path / "real", plain(10)), fill(tmp_path / "unseen", plain(2))
    assert "scan00" in refusal(open_folders, FoldersRequest(real, real, unseen))


def test_too_few_scans_are_told_with_the_number_that_is_needed(tmp_path, refusal):
    real = fill(tmp_path / "real", plain(9))
    assert "at least 10" in refusal(open_folders, FoldersRequest(real, real))


@pytest.fixture
def inputs(tmp_path):
    real = fill(tmp_path / "real", plain(10))
    made = tmp_path / "made"
    for seed in range(3):  # other voxels and units, and turned: the same bodies
        write_image(
            made / f"m{seed}.nii.gz", 3 * blob(seed)[::-1, ::-1].copy() + 7, direction=(1, 0, 0, 0, -1, 0, 0, 0, -1)
        )
    for seed in range(10):
        write_image(real / f"scan{seed:02d}.nii.gz", blob(seed))
    request = FoldersRequest(real, made)

    def make():
        return from_folders(request, open_folders(request), tmp_path / "work", "cpu")

    return make


def test_volumes_of_both_folders_come_onto_one_grid(inputs):
    made = inputs()
    assert made.grid.field_of_view == "whole"
    assert np.prod(made.grid.shape) <= 2**17
    assert not any(n % 4 for n in made.grid.shape)
    for case, name in zip(made.training, made.names, strict=False):
        real, synthetic = made.real(case), made.synthetic(name)
        assert real.shape == synthetic.shape == (1, *made.grid.shape)
        assert np.abs(real).max() <= 1
        assert np.abs(real - synthetic).max() < 0.01  # orientation and units do not matter
    assert made.names == ("m0", "m1", "m2")
    assert made.unseen == ()


def test_what_is_resampled_is_not_resampled_again(inputs, tmp_path):
    inputs()
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*") if file.is_file()}
    next(file for file in made if file.name == "scan03.npy").unlink()
    inputs()
    changed = [file.name for file in made if file.stat().st_mtime_ns != made[file]]
    assert changed == ["scan03.npy"]


def test_unseen_scans_come_onto_the_same_grid(tmp_path):
    folders = {"real": 7, "synthetic": 2, "unseen": 3}
    request = FoldersRequest(**{name: fill(tmp_path / name, plain(n, name)) for name, n in folders.items()})
    made = from_folders(request, open_folders(request), tmp_path / "work", "cpu")
    assert made.unseen == ("unseen00", "unseen01", "unseen02")
    assert made.training == tuple(f"real{n:02d}" for n in range(7))
    assert made.real("unseen02").shape[1:] == made.grid.shape


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_no_audit_is_left_alone(tmp_path, refusal, fresh):
    """`--fresh` discards all that lies in it."""
    request = FoldersRequest(fill(tmp_path / "p" / "scans", plain(3)), fill(tmp_path / "p" / "made", plain(3), start=5))
    (tmp_path / "thesis" / "work").mkdir(parents=True)
    (tmp_path / "thesis" / "chapter.txt").write_text("1")
    (tmp_path / "mine" / "work" / "thesis").mkdir(parents=True)
    (tmp_path / "sampled").mkdir()
    (tmp_path / "sampled" / "manifest.json").write_text('{"stage": "sample"}')
    before = sorted(tmp_path.rglob("*"))
    for out, said in (
        (tmp_path / "p", "lie in one another"),
        (tmp_path / "p" / "scans", "lie in one another"),
        (tmp_path / "thesis", "holds other files"),
        (tmp_path / "sampled", "holds other files"),
        (tmp_path / "mine", "holds other files"),
    ):
        assert said in refusal(audit_folders, request, out, device="cpu", fresh=fresh)
    assert sorted(tmp_path.rglob("*")) == before
