"""Inputs that people really have: kinds from public bug reports, at least two members of each (docs/odd-inputs.md)."""

import gzip
import json
import shutil
import struct
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from blobs import LABELLED, UNLABELLED, blob, write_image
from diffaug.audit.folders import open_folders
from diffaug.audit.requests import FoldersRequest
from diffaug.doctor import examine
from diffaug.errors import DiffaugError, Notice
from diffaug.generator.preparing import UNUSABLE, measure_scans
from diffaug.nnunet.dataset_json import read_dataset_json
from diffaug.scans.cache import VolumeCache
from diffaug.scans.canonical import to_canonical
from diffaug.scans.dataset import open_dataset
from diffaug.scans.exclusion import excluded_ids
from diffaug.scans.folders import open_images
from diffaug.scans.grid import median_spacing, plan_grid
from diffaug.scans.headers import look_at_headers
from diffaug.scans.hounsfield import windows_of
from diffaug.scans.reading import read_scan
from diffaug.scans.readings import read_off
from diffaug.scans.scan import Geometry, Scan
from diffaug.stages.pipeline import fit
from diffaug.stages.requests import FitRequest

AFFINE = np.array([[-1.5, 0, 0, 12.5], [0, -1.5, 0, -30], [0, 0, 2, -7.25], [0, 0, 0, 1]])


def nifti(file: Path, voxels: np.ndarray | None = None, affine: np.ndarray = AFFINE, kind=nibabel.Nifti1Image) -> Path:
    """Write (X, Y, Z) voxels with nibabel, which writes whatever it is told."""
    image = kind(blob(0).T if voxels is None else voxels, affine)
    image.set_sform(affine, 1)
    image.header["qform_code"] = 0
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, file)
    return file


def patch(file: Path, offset: int, pattern: str, *values: float) -> None:
    """Write into an uncompressed file's header."""
    content = bytearray(file.read_bytes())
    struct.pack_into(pattern, content, offset, *values)
    file.write_bytes(content)


def edited(task, **changes):
    file = task.raw / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return task


# 3: other file types, folders, folders that give nothing


def test_what_a_folder_does_not_give_is_said(task, capsys):
    folder = task.raw / "imagesUn"
    (folder / "more").mkdir()
    shutil.copy(task.image(UNLABELLED[0]), folder / "other.nii")
    (folder / "notes.txt").write_text("")
    measure_scans(open_dataset(task.raw), task.workspace)
    told = capsys.readouterr().out
    assert f"{folder}: 2 files taken, passed over: 1 files ending in .nii, 1 files ending in .txt, 1 folders" in told


@pytest.mark.parametrize("name", ["scan.nii", "scan_0000.nrrd", "patient_1/scan_0000.nii.gz"])
def test_a_named_folder_that_gives_nothing_is_refused(task, tmp_path, refusal, name):
    (tmp_path / "more" / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(task.image(UNLABELLED[0]), tmp_path / "more" / name)
    told = refusal(open_dataset, task.raw, extra=[tmp_path / "more"])
    assert "0 files taken, passed over: 1" in told
    assert "expected images ending in .nii.gz" in told


def test_an_audited_folder_of_mixed_types_is_read_whole(tmp_path):
    for number, ending in enumerate((".nii.gz", ".nii", ".NII.GZ", ".nrrd", ".mha")):
        write_image(tmp_path / "mixed" / f"a{number}{ending.lower()}", blob(number))
        (tmp_path / "mixed" / f"a{number}{ending.lower()}").rename(tmp_path / "mixed" / f"a{number}{ending}")
    dataset = open_images(tmp_path / "mixed", "--real")
    assert [case.id for case in dataset.cases] == ["a0", "a1", "a2", "a3", "a4"]
    for number, case in enumerate(dataset.cases):
        np.testing.assert_allclose(dataset.read(case).voxels[0], blob(number), rtol=1e-5)


def test_an_audited_folder_of_folders_is_refused_and_one_volume_twice_too(tmp_path, refusal):
    write_image(tmp_path / "nested" / "patient" / "a.nii.gz", blob(0))
    assert "passed over: 1 folders" in refusal(open_images, tmp_path / "nested", "--real")
    for ending in (".nii", ".nii.gz"):
        write_image(tmp_path / "twice" / f"a{ending}", blob(0))
    assert "a.nii is there too" in refusal(open_images, tmp_path / "twice", "--real")


# 4: CT that is not in HU

HU = np.interp(blob(3), [0, 400, 600, 1000], [-1000, -60, 60, 300])
UNITS = {
    "stored values": lambda hu: hu + 1024,
    "0 to 1": lambda hu: (hu + 1000) / 2000,
    "all negative": lambda hu: hu - 1000,
    "cone beam": lambda hu: (hu + 1000) * 2.5,
}


@pytest.mark.parametrize("change", UNITS.values(), ids=UNITS)
def test_ct_in_other_units_gets_its_own_window_and_is_told(change):
    voxels = change(np.clip(HU + 500 * (HU > 0), -1000, 1000)).astype(np.float32)[None]
    readings = [read_off("a", Scan(voxels, Geometry()), ["CT"])] * 3
    windows, told = windows_of(readings, ["CT"])
    low, high = windows[0]
    assert (voxels < low).mean() < 0.01
    assert (voxels > high).mean() < 0.01
    assert "channel CT is not in HU" in told[0]
    fingerprint = {
        "foreground_intensity_properties_per_channel": {"0": {"percentile_00_5": -3.0, "percentile_99_5": 4.0}}
    }
    assert windows_of(readings, ["CT"], fingerprint)[0] == {0: (-3.0, 4.0)}


@pytest.mark.parametrize("change", [lambda hu: hu, lambda hu: hu.clip(-150, 250), lambda hu: hu - 1500 * (hu < -999)])
def test_ct_in_hounsfield_units_keeps_their_window(change):
    readings = [read_off("a", Scan(change(HU).astype(np.float32)[None], Geometry()), ["ct"])]
    assert windows_of(readings, ["ct"]) == ({}, [])


def test_fit_and_audit_keep_the_contrast_of_ct_in_stored_values(task, tmp_path, capsys):
    edited(task, channel_names={"0": "CT"})
    for file in task.raw.glob("images*/*.nii.gz"):
        write_image(file, (HU + 500 * (HU > 0) + 1024).astype(np.float32))
    entries = measure_scans(open_dataset(task.raw), task.workspace)
    (low, high) = entries[LABELLED[0]]["ranges"][0]
    assert low < 100 < 1500 < high
    assert "% of the voxels lie above 1000" in capsys.readouterr().out


# 5: values that half precision cannot hold


def test_a_cache_never_holds_infinity(tmp_path):
    cache = VolumeCache(tmp_path)
    cache.fill(["a"], lambda case: np.array([[[[1e9, -1e9, 1.0]]]], np.float32))
    np.testing.assert_array_equal(cache["a"].ravel(), np.float16([65504, -65504, 1]))


# 6 and 16: what ITK refuses and nibabel reads, headers that say nothing


def sheared() -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 2] = 0.7
    return affine


def turned() -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 1] = 5e-3
    return affine


ONLY_NIBABEL = {
    "sheared": lambda file: nifti(file, affine=sheared()),
    "directions a little off": lambda file: nifti(file, affine=turned()),
}


@pytest.mark.parametrize("write", ONLY_NIBABEL.values(), ids=ONLY_NIBABEL)
def test_a_dataset_that_only_nibabel_reads_is_read_by_it_as_nnunet_does(task, write):
    for file in task.raw.glob("images*/*.nii.gz"):
        write(file)
    dataset = open_dataset(task.raw)
    assert dataset.reader is NibabelIO
    np.testing.assert_allclose(dataset.read(dataset.cases[0]).voxels[0], blob(0))
    assert look_at_headers(dataset) == ({}, {})


@pytest.mark.parametrize("write", ONLY_NIBABEL.values(), ids=ONLY_NIBABEL)
def test_one_such_scan_among_others_is_named_with_the_reader_that_can(task, refusal, write):
    write(task.image(UNLABELLED[0]))
    dataset = open_dataset(task.raw)
    told = refusal(dataset.read, next(case for case in dataset.cases if case.id == UNLABELLED[0]))
    assert str(task.image(UNLABELLED[0])) in told
    assert '"overwrite_image_reader_writer": "NibabelIO"' in told
    assert UNLABELLED[0] in look_at_headers(dataset)[0]


def test_nifti_2_is_read(task):
    for file in task.raw.glob("images*/*.nii.gz"):
        nifti(file, kind=nibabel.Nifti2Image)
    dataset = open_dataset(task.raw)
    np.testing.assert_allclose(dataset.read(dataset.cases[0]).voxels[0], blob(0))
    assert look_at_headers(dataset) == ({}, {})


def test_the_reader_that_the_plans_name_is_taken(task, tmp_path):
    plans = tmp_path / "nnUNetPlans.json"
    plans.write_text('{"image_reader_writer": "NibabelIOWithReorient"}')
    assert open_dataset(task.raw, plans=plans).reader is NibabelIOWithReorient


@pytest.mark.parametrize("qform", [True, False])
def test_an_sform_of_zeros_mirrors_nothing(tmp_path, qform):
    good, zero = nifti(tmp_path / "good.nii"), nifti(tmp_path / "zero.nii")
    image = nibabel.Nifti1Image.from_bytes(zero.read_bytes())  # not mapped: it is written over
    image.set_qform(AFFINE, int(qform))
    nibabel.save(image, zero)
    patch(zero, 280, "<12f", *[0.0] * 12)
    patch(zero, 254, "<h", 1)
    scan = read_scan([zero], NibabelIO)
    np.testing.assert_array_equal(scan.voxels, read_scan([good], NibabelIO).voxels)
    assert scan.geometry.orientation == ("LPS" if qform else "RAS")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_voxels_of_no_size_are_refused_by_name(tmp_path, refusal, value):
    file = nifti(tmp_path / "a.nii")
    patch(file, 80, "<f", value)
    assert str(file) in refusal(read_scan, [file], NibabelIO)


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_values_beyond_32_bits_are_refused_by_name(tmp_path, refusal, value):
    voxels = blob(0).T.astype(np.float64)
    voxels[2, 3, 4] = value
    assert "too large for 32 bits" in refusal(read_scan, [nifti(tmp_path / "a.nii", voxels)], NibabelIO)


# 7: files that are not what their ending says, odd slopes


@pytest.mark.parametrize("reader", [SimpleITKIO])
def test_compressed_or_not_whatever_the_ending_says(tmp_path, reader):
    file = write_image(tmp_path / "a.nii.gz", blob(0))
    file.write_bytes(gzip.decompress(file.read_bytes()))
    np.testing.assert_array_equal(read_scan([file], reader).voxels[0], blob(0))


@pytest.mark.parametrize("slope, intercept", [(0.0, 0.0), (float("nan"), 0.0), (1.0, float("nan"))])
def test_odd_slope_and_intercept_are_read_as_nnunet_reads_them(tmp_path, slope, intercept):
    file = write_image(tmp_path / "a.nii", blob(0))
    patch(file, 112, "<2f", slope, intercept)
    expected, _ = SimpleITKIO().read_images((str(file),))
    if np.isfinite(expected).all():
        np.testing.assert_array_equal(read_scan([file], SimpleITKIO).voxels, expected)
    else:
        with pytest.raises(DiffaugError, match="NaN or infinite"):
            read_scan([file], SimpleITKIO)


# 9: links to nowhere, folders named like files


@pytest.mark.parametrize("what", ["link", "folder"])
def test_what_is_no_file_is_named(task, refusal, what):
    name = task.raw / "imagesUn" / "case_099_0000.nii.gz"
    if what == "link":
        name.symlink_to("../.git/annex/gone")
        dataset = open_dataset(task.raw)
        assert "a link to nowhere" in refusal(measure_scans, dataset, task.workspace)
        assert "case_099" in look_at_headers(dataset)[0]
    else:
        name.mkdir()
        dataset = open_dataset(task.raw)
        assert "case_099" not in {case.id for case in dataset.cases}
        assert dataset.inventories[1].passed_over == {"folders": 1}


# 11: too few scans


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_scans_are_refused_at_once(task, refusal, count):
    for case in (*LABELLED, *UNLABELLED)[count:]:
        task.image(case).unlink()
    assert "expected at least 3" in refusal(
        fit, task.workspace, FitRequest(budget="cpu-small", exclude=("none",)), device="cpu"
    )


# 12: sequences that a patient did not get


@pytest.mark.parametrize("value", [0.0, -5.0])
def test_a_constant_channel_beside_another_is_taken(tmp_path, value):
    files = [
        write_image(tmp_path / "a_0000.nii.gz", blob(0)),
        write_image(tmp_path / "a_0001.nii.gz", np.full_like(blob(0), value)),
    ]
    scan = read_scan(files, SimpleITKIO)
    reading = read_off("a", scan, ["T1", "T2"])
    grid = plan_grid([reading], voxels=10**6, multiple=(1, 1, 1), spacing=median_spacing([reading]))
    voxels, _ = to_canonical(scan, reading, grid)
    assert np.isfinite(voxels).all()
    assert (voxels[1] == -1).all()
    assert voxels[0].std() > 0.1


@pytest.mark.parametrize("channels", [1, 2])
def test_a_scan_that_is_constant_altogether_is_refused(tmp_path, refusal, channels):
    files = [write_image(tmp_path / f"a_{i:04d}.nii.gz", np.full((6, 7, 8), 3, np.float32)) for i in range(channels)]
    assert "every voxel is 3" in refusal(read_scan, files, SimpleITKIO)


# 17: channels that lie otherwise in the patient


@pytest.mark.parametrize(
    "other",
    [{"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1)}, {"origin": (-12.5, 34.0, -7.25)}],
    ids=["mirrored", "shifted"],
)
def test_channels_that_lie_otherwise_are_told_once_and_taken(tmp_path, other):
    files = [
        write_image(tmp_path / "a_0000.nii.gz", blob(0)),
        write_image(tmp_path / "a_0001.nii.gz", blob(1), **other),
    ]
    with pytest.warns(Notice, match="a_0001.nii.gz") as told:
        read_scan(files, SimpleITKIO)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_scan([files[0], files[0]], SimpleITKIO)


# 18: one slice, a fourth axis


def one_slice(file: Path) -> None:
    nifti(file, blob(0).T[:, :, 3:4])


def four_axes(file: Path) -> None:
    nifti(file, np.stack([blob(0).T] * 2, -1))


@pytest.mark.parametrize("write, told", [(one_slice, "22 x 24 x 1"), (four_axes, "22 x 24 x 20 x 2")])
def test_what_is_no_volume_is_named_rightly_and_can_be_left_out(task, refusal, capsys, write, told):
    write(task.image(UNLABELLED[0]))
    message = refusal(measure_scans, open_dataset(task.raw), task.workspace)
    assert told in message
    assert "--exclude" in message
    assert told in look_at_headers(open_dataset(task.raw))[0][UNLABELLED[0]]
    assert len(measure_scans(open_dataset(task.raw, exclude=[UNLABELLED[0]]), task.workspace)) == 7


def test_a_fourth_axis_of_one_is_read_where_nnunets_reader_reads_it(tmp_path):
    file = nifti(tmp_path / "a.nii.gz", blob(0).T[..., None])
    np.testing.assert_array_equal(read_scan([file], SimpleITKIO).voxels[0], blob(0))


def test_all_scans_that_cannot_be_used_are_listed_at_once_and_the_list_leaves_them_out(task, refusal):
    one_slice(task.image(UNLABELLED[0]))
    task.image(LABELLED[1]).write_text("no image")
    told = refusal(measure_scans, open_dataset(task.raw), task.workspace)
    assert "2 of 8 scans cannot be used" in told
    listed = task.workspace.run / UNUSABLE
    left_out = excluded_ids(task.workspace, [str(listed)])
    assert left_out == {UNLABELLED[0], LABELLED[1]}
    assert len(measure_scans(open_dataset(task.raw, exclude=left_out), task.workspace)) == 6
    assert not listed.exists()


# 19: dataset.json and splits_final.json as people write them

SLIPS = {
    "labels as in nnU-Net v1": ({"labels": {"0": "background", "1": "thing"}}, "nnU-Net v1"),
    "no background": ({"labels": {"thing": 1}}, "background 0"),
    "a list of labels": ({"labels": ["background", "thing"]}, "names as keys"),
    "names of labels as numbers": ({"labels": {"background": 0, "thing": "1"}}, "names as keys"),
    "a gap in labels": ({"labels": {"background": 0, "thing": 2}}, "consecutive"),
    "regions without an order": ({"labels": {"background": 0, "whole": [1, 2], "core": [2]}}, "regions_class_order"),
    "channels the wrong way round": ({"channel_names": {"MR": 0}}, 'such as {"0": "T1"}'),
    "a list of channels": ({"channel_names": ["MR"]}, 'such as {"0": "T1"}'),
    "channels from 1": ({"channel_names": {"1": "MR"}}, 'such as {"0": "T1"}'),
    "no dot": ({"file_ending": "nii.gz"}, '".nii.gz"'),
    "files of a case in one string": ({"dataset": {"a": "a.nii.gz"}}, "images"),
}


@pytest.mark.parametrize("change, told", SLIPS.values(), ids=SLIPS)
def test_slips_in_dataset_json_are_told_before_anything_begins(task, refusal, capsys, change, told):
    edited(task, **change)
    message = refusal(fit, task.workspace, FitRequest(budget="cpu-small", exclude=("none",)), device="cpu")
    assert str(task.raw / "dataset.json") in message
    assert told in message
    assert not task.workspace.run.exists() or not list(task.workspace.run.rglob("*.json"))
    with pytest.raises(DiffaugError):
        examine(task.dataset)
    assert told in "".join(line for line in capsys.readouterr().out.splitlines() if line.startswith("FIX   dataset"))


def test_labels_are_needed_for_training_alone(task, refusal):
    edited(task, labels=None)
    read_dataset_json(task.raw)
    assert "labels None" in refusal(read_dataset_json, task.raw, labels=True)


@pytest.mark.parametrize("splits", [[{"train": ["blob_0"]}], {"0": {}}, [["blob_0"], ["blob_1"]]])
def test_a_fold_without_validation_cases_is_told(task, refusal, splits):
    task.preprocessed.mkdir(parents=True, exist_ok=True)
    (task.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    assert "splits_final.json" in refusal(excluded_ids, task.workspace, ["fold:0"])


# 20: names


def test_names_that_nnunet_cannot_read_are_told_by_the_doctor(task, capsys):
    for case in LABELLED:
        task.image(case).rename(task.raw / "imagesTr" / f"{case}.nii.gz")
    with pytest.raises(DiffaugError):
        examine(task.dataset)
    assert (
        "6 labelled images have no channel number, expected names such as blob_0_0000.nii.gz" in capsys.readouterr().out
    )


def test_numbers_that_count_scans_are_told(task, refusal):
    for number, case in enumerate(LABELLED):
        task.image(case).rename(task.raw / "imagesTr" / f"case_{number + 1:04d}.nii.gz")
    assert "append _0000 to the names if their last four digits count scans" in refusal(open_dataset, task.raw)


@pytest.mark.parametrize("name", ["${SCANS}/{}", "$SCANS/{}"])
def test_variables_in_a_dataset_entry_are_expanded_as_nnunet_does(task, tmp_path, monkeypatch, name):
    monkeypatch.setenv("SCANS", str(tmp_path / "elsewhere"))
    (task.raw / "imagesTr").rename(tmp_path / "elsewhere")
    entry = {"images": [name.replace("{}", "blob_0_0000.nii.gz")], "label": "labelsTr/blob_0.nii.gz"}
    edited(task, dataset={"first": entry})
    dataset = open_dataset(task.raw)
    np.testing.assert_allclose(dataset.read(dataset.cases[0]).voxels[0], blob(0))


def test_a_good_dataset_has_nothing_to_fix_but_its_plans(task, capsys):
    with pytest.raises(DiffaugError):
        examine(task.dataset)
    told = capsys.readouterr().out
    for name in ("dataset", "names", "scans", "folds"):
        assert f"ok    {name}" in told


def test_folders_for_an_audit_say_what_they_gave(task, tmp_path):
    for number in range(10):
        for name in ("real", "made"):
            write_image(tmp_path / name / f"{name}_{number}.nii.gz", blob(number))
    (tmp_path / "made" / "readme.md").write_text("")
    found = open_folders(FoldersRequest(tmp_path / "real", tmp_path / "made"))
    assert "10 files taken, passed over: 1 files ending in .md" in found["synthetic"].inventories[0].text
