"""Which scans are seen, and which must not be: nnU-Net's layout, plain folders, exclusion rules."""

import json
import shutil

import numpy as np
import pytest
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.crossval_split import generate_crossval_split

from blobs import LABELLED, UNLABELLED, blob, write_image
from diffaug.scans.dataset import list_cases, open_dataset, open_folder
from diffaug.scans.exclusion import excluded_ids, warn_of_folds


def edit(task, **changes):
    file = task.raw / "dataset.json"
    info = {k: v for k, v in (json.loads(file.read_text()) | changes).items() if v is not None}
    file.write_text(json.dumps(info))
    return info


def ids(dataset) -> list[str]:
    return [case.id for case in dataset.cases]


def test_images_for_training_and_unlabelled_ones_are_listed_and_test_images_never(task):
    dataset = open_dataset(task.raw)
    assert ids(dataset) == sorted((*LABELLED, *UNLABELLED))
    assert dataset.channels == ("MR",)
    assert dataset.reader is SimpleITKIO
    assert not [case for case in dataset.cases for file in case.files if "imagesTs" in file.parts]


def test_extra_folders_add_cases(task, tmp_path):
    write_image(tmp_path / "more" / "plain.nii.gz", blob(50))
    write_image(tmp_path / "more" / "named_0000.nii.gz", blob(51))
    (tmp_path / "more" / "readme.txt").write_text("")
    write_image(tmp_path / "more" / ".1.tmp.half_0000.nii.gz", blob(52))
    assert ids(open_dataset(task.raw, extra=[tmp_path / "more"]))[-2:] == ["named", "plain"]


def test_missing_extra_folder_is_refused(task, tmp_path, refusal):
    assert str(tmp_path / "nowhere") in refusal(open_dataset, task.raw, extra=[tmp_path / "nowhere"])


def test_case_in_two_folders_is_refused(task, tmp_path, refusal):
    shutil.copytree(task.raw / "imagesUn", tmp_path / "more")
    assert UNLABELLED[0] in refusal(open_dataset, task.raw, extra=[tmp_path / "more"])


def test_case_twice_in_one_folder_is_refused(task, tmp_path, refusal):
    for name in ("a.nii.gz", "a_0000.nii.gz"):
        write_image(tmp_path / "more" / name, blob(50))
    assert "case a" in refusal(open_folder, tmp_path / "more", json.loads((task.raw / "dataset.json").read_text()))


def test_excluded_cases_are_not_listed(task):
    assert ids(open_dataset(task.raw, exclude=[LABELLED[0], UNLABELLED[1]])) == [*LABELLED[1:], UNLABELLED[0]]


def test_nothing_left_is_refused(task, refusal):
    assert str(task.raw) in refusal(open_dataset, task.raw, exclude=[*LABELLED, *UNLABELLED])
    for folder in ("imagesTr", "imagesUn"):
        shutil.rmtree(task.raw / folder)
    assert str(task.raw) in refusal(open_dataset, task.raw)


def test_several_channels_come_in_the_order_of_their_numbers(task):
    edit(task, channel_names={"1": "T2", "0": "T1"})
    for case in (*LABELLED, *UNLABELLED):
        file = task.image(case)
        write_image(file.with_name(f"{case}_0001.nii.gz"), blob(60) + 1000)
    dataset = open_dataset(task.raw)
    assert dataset.channels == ("T1", "T2")
    scan = dataset.read(dataset.cases[0])
    assert scan.voxels.shape == (2, 20, 24, 22)
    assert scan.voxels[1].min() > 999 > scan.voxels[0].mean()


@pytest.mark.parametrize("channels, name", [({"0": "a", "1": "b"}, "blob_0_0000"), ({"0": "a"}, "blob_0_0001")])
def test_wrong_channel_count_is_refused_with_the_file(task, refusal, channels, name):
    edit(task, channel_names=channels)
    if name.endswith("1"):
        write_image(task.raw / "imagesTr" / f"{name}.nii.gz", blob(0))
    message = refusal(open_dataset, task.raw)
    assert str(task.raw / "imagesTr" / "blob_0_000") in message
    assert "channels" in message


def test_nibabel_dataset_is_read_as_the_same_scans(task):
    by_itk = open_dataset(task.raw)
    edit(task, overwrite_image_reader_writer="NibabelIO")
    by_nibabel = open_dataset(task.raw)
    assert by_nibabel.reader is NibabelIO
    for one, other in zip(by_itk.cases, by_nibabel.cases, strict=True):
        a, b = by_itk.read(one), by_nibabel.read(other)
        np.testing.assert_array_equal(a.voxels, b.voxels)
        np.testing.assert_allclose(a.geometry.origin, b.geometry.origin, atol=1e-4)
        np.testing.assert_allclose(a.geometry.direction, b.geometry.direction, atol=1e-6)
        np.testing.assert_allclose(a.geometry.spacing, b.geometry.spacing, atol=1e-5)


def test_dataset_entry_names_files_freely_as_in_nnunet(task, tmp_path):
    write_image(tmp_path / "elsewhere" / "scan one.nii.gz", blob(70))
    entries = {
        "first": {"images": [str(tmp_path / "elsewhere" / "scan one.nii.gz")], "label": "x"},
        "second": {"images": ["imagesTr/blob_3_0000.nii.gz"], "label": "y"},
    }
    edit(task, dataset=entries)
    assert ids(open_dataset(task.raw)) == ["first", *UNLABELLED, "second"], "imagesTr itself is not listed then"


@pytest.mark.parametrize("key", ["channel_names", "file_ending"])
def test_dataset_json_without_a_key_is_refused(task, refusal, key):
    edit(task, **{key: None})
    assert key in refusal(open_dataset, task.raw)
    assert key in refusal(lambda: (excluded_ids(task.workspace, ["fold:0"]), open_dataset(task.raw)))


@pytest.mark.parametrize("text", ["[]", "3", "null", "{"])
def test_dataset_json_that_is_something_else_is_refused(task, refusal, text):
    (task.raw / "dataset.json").write_text(text)
    assert "dataset.json" in refusal(open_dataset, task.raw)
    assert "dataset.json" in refusal(excluded_ids, task.workspace, ["labelled"])


def test_plain_folder_may_hold_one_channel_files_without_a_number(task, tmp_path):
    write_image(tmp_path / "plain" / "a.nii.gz", blob(0))
    info = json.loads((task.raw / "dataset.json").read_text())
    assert ids(open_folder(tmp_path / "plain", info)) == ["a"]


def test_list_cases_without_folders_is_empty(tmp_path):
    assert list_cases([tmp_path / "imagesTr", tmp_path / "imagesUn"], ".nii.gz", 1) == []


def test_fold_rule_is_nnunets_own_split(task):
    splits = generate_crossval_split(sorted(LABELLED), seed=12345, n_splits=5)
    for fold in range(5):
        assert excluded_ids(task.workspace, [f"fold:{fold}"]) == set(splits[fold]["val"])


def test_fold_rule_follows_splits_final(task):
    task.preprocessed.mkdir()
    splits = [{"train": [], "val": ["blob_5"]}, {"train": [], "val": ["blob_4"]}]
    (task.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    assert excluded_ids(task.workspace, ["fold:1"]) == {"blob_4"}


def test_labels_without_an_image_do_not_change_the_split(task):
    """nnU-Net splits its preprocessed cases, and a label alone never becomes one."""
    write_image(task.raw / "labelsTr" / "aaa_no_image.nii.gz", np.ones((4, 4, 4), np.uint8))
    splits = generate_crossval_split(sorted(LABELLED), seed=12345, n_splits=5)
    assert excluded_ids(task.workspace, ["fold:0"]) == set(splits[0]["val"])


def test_a_person_is_told_when_no_fold_is_left_to_train(task):
    validation = excluded_ids(task.workspace, ["fold:0"])
    assert warn_of_folds(task.workspace, [*UNLABELLED, *(set(LABELLED) - validation)]) is None
    assert warn_of_folds(task.workspace, UNLABELLED) is None
    told = warn_of_folds(task.workspace, LABELLED)
    assert told is not None and "--exclude fold:0" in told


def test_other_scans_of_an_excluded_patient_are_left_out_too(task, tmp_path):
    """`imagesUn` holds further scans of patients of whom one is labelled: no split of nnU-Net's can name them."""
    for number, case in enumerate(LABELLED):
        for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            (task.raw / folder / f"{case}{ending}").rename(task.raw / folder / f"P0000{number}V1{ending}")
        write_image(task.raw / "imagesUn" / f"P0000{number}V2_0000.nii.gz", blob(60 + number))
    first, second = ([f"P0000{number}V{volume}" for number in range(len(LABELLED))] for volume in (1, 2))
    assert excluded_ids(task.workspace, ["labelled"]) == {*first, *second}
    fold = excluded_ids(task.workspace, ["fold:0"])
    assert {case for case in fold if case.endswith("V2")} == {case[:-1] + "2" for case in fold}
    assert 0 < len(fold) < len(LABELLED)
    (tmp_path / "patients.txt").write_text("P00001\nP00003V2\n")
    listed = excluded_ids(task.workspace, [str(tmp_path / "patients.txt")])
    assert listed == {"P00001V1", "P00001V2", "P00003V1", "P00003V2"}
    assert warn_of_folds(task.workspace, set(second) - fold) is None
    assert warn_of_folds(task.workspace, second) is not None


def test_too_few_labelled_cases_for_folds_exclude_none(task):
    shutil.rmtree(task.raw / "labelsTr")
    assert excluded_ids(task.workspace, ["fold:0"]) == set()


def test_rules_add_up(task, tmp_path):
    (tmp_path / "ids.txt").write_text("free_0\n\nfree_1\n")
    (tmp_path / "ids.json").write_text(json.dumps(["blob_1"]))
    (tmp_path / "keys.json").write_text(json.dumps({"test": ["blob_2"], "train": ["blob_3"]}))
    assert excluded_ids(task.workspace, []) == excluded_ids(task.workspace, ["none"]) == set()
    assert excluded_ids(task.workspace, ["labelled"]) == set(LABELLED)
    assert excluded_ids(task.workspace, [str(tmp_path / "ids.txt")]) == {"free_0", "free_1"}
    rules = [str(tmp_path / "ids.json"), f"{tmp_path / 'keys.json'}:test"]
    assert excluded_ids(task.workspace, rules) == {"blob_1", "blob_2"}


@pytest.mark.parametrize(
    "rule", ["fold:5", "fold:-1", "fold:x", "fold:", "nofile", "{tmp}/keys.json", "{tmp}/keys.json:no", "{tmp}"]
)
def test_bad_rule_is_refused_by_name(task, tmp_path, refusal, rule):
    (tmp_path / "keys.json").write_text(json.dumps({"test": ["blob_2"]}))
    rule = rule.format(tmp=tmp_path)
    assert rule.partition(":no")[0] in refusal(excluded_ids, task.workspace, [rule])


LISTS = {
    "endings": "blob_1.nii.gz\nblob_2.nii\n",
    "channel numbers": "blob_1_0000.nii.gz\nblob_2_0000\n",
    "paths": "imagesTr/blob_1_0000.nii.gz\n/data/raw/blob_2.nii.gz\n",
    "byte order mark": "\ufeffblob_1\nblob_2\n",
    "comments": "# the first site\nblob_1  # twice\n\nblob_2\n",
    "quotes and blanks": ' "blob_1" \n\tblob_2\r\n',
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_lists_as_people_write_them_mean_what_they_mean(task, tmp_path, text):
    file = tmp_path / "leave_out.txt"
    file.write_text(text, encoding="utf-8")
    assert excluded_ids(task.workspace, [str(file)]) == {"blob_1", "blob_2"}
    names = [line.split("  #")[0].strip(' \t"\ufeff') for line in text.splitlines() if line.strip() and line[0] != "#"]
    (tmp_path / "leave_out.json").write_text(json.dumps(names))
    assert excluded_ids(task.workspace, [str(tmp_path / "leave_out.json")]) == {"blob_1", "blob_2"}


def test_ids_with_spaces_and_ids_that_end_in_a_channel_number_are_ids(task, tmp_path):
    for name in ("the first one", "blob_1_0001"):
        write_image(task.raw / "imagesUn" / f"{name}_0000.nii.gz", blob(1))
    file = tmp_path / "leave_out.txt"
    file.write_text("the first one\nblob_1_0001\n")
    assert excluded_ids(task.workspace, [str(file)]) == {"the first one", "blob_1_0001"}


@pytest.mark.parametrize("text", ["blob_1\nblob_O2\n", "blob_1 blob_2\n", "blob_1\nblob_2\nid\n", "Blob_1\n"])
def test_every_name_that_is_no_case_is_told(task, tmp_path, refusal, text):
    """Whoever it was meant for would be trained on."""
    file = tmp_path / "leave_out.txt"
    file.write_text(text)
    message = refusal(excluded_ids, task.workspace, [str(file)])
    wrong = [line for line in text.splitlines() if line not in LABELLED]
    assert all(line in message for line in wrong)
    assert "blob_0" in message, "an example of what an id looks like"


def test_a_fold_of_ids_that_are_no_cases_is_told(task, refusal):
    task.preprocessed.mkdir()
    (task.preprocessed / "splits_final.json").write_text(json.dumps([{"train": [], "val": ["blob_5", "blob_55"]}]))
    message = refusal(excluded_ids, task.workspace, ["fold:0"])
    assert "blob_55" in message
    assert "1 of 2" in message


def test_test_cases_may_be_named_though_nobody_reads_them(task, tmp_path):
    file = tmp_path / "leave_out.txt"
    file.write_text("held_back\nblob_1\n")
    assert "blob_1" in excluded_ids(task.workspace, [str(file)])


def test_cases_of_further_folders_may_be_named(task, tmp_path, refusal):
    write_image(tmp_path / "more" / "more_0_0000.nii.gz", blob(1))
    file = tmp_path / "leave_out.txt"
    file.write_text("more_0\n")
    assert "more_0" in refusal(excluded_ids, task.workspace, [str(file)])
    assert excluded_ids(task.workspace, [str(file)], [tmp_path / "more"]) == {"more_0"}
