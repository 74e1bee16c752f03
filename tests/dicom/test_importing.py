"""DICOM in, nnU-Net cases out: the right values in the right place, and nothing that names anybody."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file

from benchmarks import dicoms
from benchmarks.dicoms import ORIGIN, SHAPE, SHEAR, SPACING, WAYS, known, write_capture, write_enhanced, write_series
from diffaug.cli import main
from diffaug.dicom import decoding
from diffaug.dicom.importing import find, import_studies
from diffaug.dicom.requests import ImportRequest
from diffaug.dicom.rules import Rules
from diffaug.errors import DiffaugError
from diffaug.nnunet.readers import reader_for
from diffaug.scans.dataset import open_dataset


@pytest.fixture
def studies(tmp_path):
    return tmp_path / "studies"


@pytest.fixture
def into(tmp_path):
    """Imports what lies in `studies`, and gives the images."""
    dataset = tmp_path / "Dataset301_Imported"

    def run(*series, **how):
        request = ImportRequest((tmp_path / "studies",), dataset.name, series, key=tmp_path / "key.json")
        folder = import_studies(replace(request, **how), dataset)
        return sorted(folder.glob("*"))

    return run


def why(studies, *series):
    return [reason for _, reason in find(ImportRequest((studies,), "", series)).passed]


def values_at(file, volume, slices=range(SHAPE[0])):
    """What an image says at the places in the patient at which the known volume's voxels lie."""
    image = sitk.ReadImage(str(file))
    found = np.full(SHAPE, np.nan)
    voxels = sitk.GetArrayFromImage(image)
    for z in slices:
        for y in range(SHAPE[1]):
            for x in range(SHAPE[2]):
                point = np.array(ORIGIN) + volume.axes @ (np.array([x, y, z]) * SPACING[::-1])
                i, j, k = image.TransformPhysicalPointToContinuousIndex(point.tolist())
                assert max(abs(v - round(v)) for v in (i, j, k)) < 1e-3
                found[z, y, x] = voxels[round(k), round(j), round(i)]
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_known_volume_comes_back_the_right_way_round(studies, into, way):
    volume = WAYS[way](studies)
    (file,) = into()
    expected = dicoms.meaning(way, volume)
    assert np.abs(values_at(file, volume) - expected).max() < 1e-3
    assert sitk.ReadImage(str(file)).GetSize() == SHAPE[::-1]
    whole = np.array_equal(np.round(expected), expected)
    assert sitk.ReadImage(str(file)).GetPixelID() == (sitk.sitkInt16 if whole else sitk.sitkFloat32)


def test_a_tilted_gantry_is_set_upright(studies, into):
    volume = known(modality="CT", slope=1.0)
    write_series(studies, volume, shear=SHEAR)
    (file,) = into()
    image = sitk.ReadImage(str(file))
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert np.allclose(image.GetSpacing(), SPACING[::-1])
    voxels = sitk.GetArrayFromImage(image)
    for z in range(SHAPE[0]):
        # where the slice's own rows lie, by its own position
        first = image.TransformPhysicalPointToContinuousIndex(
            [ORIGIN[0], ORIGIN[1] + z * SHEAR, ORIGIN[2] + z * SPACING[0]]
        )
        assert abs(first[2] - z) < 1e-3
        rows = np.arange(int(np.ceil(first[1])), int(first[1]) + SHAPE[1] - 1)
        own = rows - first[1]
        expected = np.stack(
            [np.interp(own, np.arange(SHAPE[1]), volume.voxels[z, :, x]) for x in range(SHAPE[2])], axis=1
        )
        assert np.abs(voxels[z, rows, :] - expected).max() <= 1  # whole numbers or not


@pytest.mark.parametrize(("skip", "said"), [((2,), "lacks 1 of 12 slices"), ((1, 5, 6), "lacks 3 of 12 slices")])
def test_missing_slices_are_told_not_filled(studies, into, skip, said):
    twice = np.concatenate([known().voxels, known(1).voxels])
    write_series(studies, replace(known(), voxels=twice), skip=skip)
    assert why(studies) == [f"{said}, which should lie 3 mm apart"]
    with pytest.raises(DiffaugError, match="no volume is taken"):
        into()


def test_slices_that_are_missing_at_regular_places_are_told_too(studies):
    volume = known(tags={"SpacingBetweenSlices": SPACING[0]})
    high = replace(volume, voxels=np.concatenate([volume.voxels] * 2))
    write_series(studies / "some", high, skip=tuple(range(1, len(high.voxels), 2)))
    write_series(studies / "all", volume, number=2)
    write_series(studies / "gap", known(tags={"SpacingBetweenSlices": SPACING[0] / 2}), number=3)
    (reason,) = why(studies)
    assert "lacks slices" in reason
    assert f"{2 * SPACING[0]:.3g} mm apart" in reason
    assert "one in 2" in reason


def test_echoes_numbered_in_turn_lack_nothing_whatever_the_header_says_of_gaps(studies, into):
    uid = pydicom.uid.generate_uid()
    for echo in range(2):
        tags = {"SeriesInstanceUID": uid, "EchoTime": 2.0 + echo, "SpacingBetweenSlices": SPACING[0] / 2}
        for file in write_series(studies / str(echo), known(echo, tags=tags), number=echo):
            data = pydicom.dcmread(file)
            data.InstanceNumber = 2 * data.InstanceNumber + echo
            data.save_as(file)
    assert len(into()) == 2


@pytest.mark.parametrize("value", [b"3\\3", b"2,5 ", b""])
def test_a_distance_that_is_no_number_keeps_no_scan_away(studies, into, value):
    for file in write_series(studies, known(tags={"SpacingBetweenSlices": 1})):
        content = file.read_bytes()
        place = content.index(b"\x18\x00\x88\x00DS")
        length = int.from_bytes(content[place + 6 : place + 8], "little")
        file.write_bytes(
            content[: place + 6] + len(value).to_bytes(2, "little") + value + content[place + 8 + length :]
        )
    assert len(into()) == 1


def test_what_is_no_volume_is_passed_over_with_its_reason(studies, into):
    write_series(studies / "good", known())
    write_capture(studies / "capture")
    write_series(studies / "localiser", known(tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}), number=2)
    short = known()
    write_series(studies / "three", replace(short, voxels=short.voxels[:3]), number=3, name="scout")
    for name in ("rtplan.dcm", "test-SR.dcm", "SC_rgb_rle.dcm", "DICOMDIR"):
        shutil.copy(get_testdata_file(name), studies / name)
    (studies / "notes.txt").write_text("not DICOM")
    (studies / "empty").write_bytes(b"")
    assert len(into()) == 1
    told = " | ".join(why(studies))
    for reason in ("lies nowhere", "is localizer", "has 3 parallel slices", "holds no image", "is a colour picture"):
        assert reason in told
    assert find(ImportRequest((studies,), "")).others >= 2


def test_an_instance_that_was_sent_twice_counts_once(studies, into):
    files = write_series(studies / "one", known())
    (studies / "two").mkdir()
    for file in files[:3]:
        shutil.copy(file, studies / "two" / f"again_{file.name}")
    (file,) = into()
    assert np.array_equal(values_at(file, known()), known().voxels)


def test_a_truncated_instance_costs_its_own_volume(studies, into, capsys):
    files = write_series(studies / "bad", known(), number=1)
    files[0].write_bytes(files[0].read_bytes()[:-1000])
    write_series(studies / "good", known(1), number=2)
    (file,) = into()
    assert np.array_equal(values_at(file, known(1)), known(1).voxels)
    told = capsys.readouterr().out
    assert f"{files[0].name} ends after" in told
    assert files[0].name in told


def test_phases_of_one_series_and_of_several_are_told_apart_in_time(studies, into):
    for phase in range(3):
        tags = {
            "AcquisitionNumber": phase + 1,
            "TemporalPositionIdentifier": phase + 1,
            "AcquisitionTime": f"10{phase}000",
        }
        write_series(studies / f"dyn{phase}", known(phase, tags=tags), number=phase + 5, name="dyn")
    write_series(studies / "other", known(9, axes=dicoms.turned("sagittal")), number=9, name="T2")
    assert len(into("description=dyn*", "phase=1")) == 1
    (file,) = into("description=dyn*", "phase=1")
    assert np.array_equal(values_at(file, known(1)), known(1).voxels)
    assert sorted(set(why(studies, "description=dyn*", "phase=1"))) == [
        "has another description",
        "is phase 0 of 3",
        "is phase 2 of 3",
    ]


def test_volumes_that_one_series_holds_in_one_place_are_told_apart(studies, into):
    uid = pydicom.uid.generate_uid()
    for phase in range(2):
        tags = {"SeriesInstanceUID": uid, "TemporalPositionIdentifier": phase + 1, "AcquisitionTime": f"10{phase}000"}
        write_series(studies / f"dyn{phase}", known(phase, tags=tags), number=phase + 1)
    files = into()
    assert len(files) == 2
    (second,) = [f for f in files if np.array_equal(values_at(f, known(1)), known(1).voxels)]
    assert second in files
    assert len(into("phase=0")) == 2, "what was imported stays"
    assert why(studies, "phase=0") == ["is phase 1 of 2"]


@pytest.mark.parametrize("rule", ["nonsense", "plane=upright", "phase=first", "size=3", "plane="])
def test_a_rule_that_is_none_is_told(rule):
    with pytest.raises(DiffaugError, match=re.escape(repr(rule))):
        Rules.parse([rule])


def test_planes_and_modalities_are_chosen(studies):
    for number, plane in enumerate(("axial", "sagittal", "coronal")):
        write_series(studies / plane, known(axes=dicoms.turned(plane)), number=number)
    assert sorted(why(studies, "plane=sagittal")) == ["is axial", "is coronal"]
    assert why(studies, "plane=axial", "plane=coronal") == ["is sagittal"]
    assert why(studies, "modality=CT") == ["has another modality"] * 3


def test_nobody_is_named_and_the_key_tells_who_is_who(studies, into, tmp_path):
    for number, patient in enumerate(("Müller^Änne", "Öztürk^Ümit")):
        for visit in range(2):
            write_series(
                studies / f"{number}{visit}", known(number), number=visit, patient=patient, study=f"1.2.{number}"
            )
    files = into()
    assert len(files) == 4
    words = [
        "Mustermann",
        "ller",
        "zt",
        "ACC-4711",
        "S4711",
        "Klinikum",
        "19500102",
        "20260102",
        "1.2.826",
        "1.2.0",
        "axial",
    ]
    dataset = tmp_path / "Dataset301_Imported"
    for file in dataset.rglob("*"):
        if file.is_file():
            content = sitk.ReadImage(str(file)) if file.name.endswith(".nii.gz") else None
            text = " ".join(content.GetMetaData(k) for k in content.GetMetaDataKeys()) if content else file.read_text()
            assert [word for word in words if word in text or word in file.name] == []
    key = json.loads((tmp_path / "key.json").read_text())
    assert key["patients"].keys() == {"P-Müller^Änne", "P-Öztürk^Ümit"}
    assert {file.name for file in files} == {f"{volume['case']}_0000.nii.gz" for volume in key["volumes"].values()}
    for patient, name in key["patients"].items():
        own = {volume["case"] for volume in key["volumes"].values() if volume["patient"] == patient}
        assert own == {f"{name}V1", f"{name}V2"}
    assert len(pd.read_csv(tmp_path / "key_volumes.csv")) == 4


def test_nnunets_own_reader_reads_what_was_imported(studies, into, tmp_path):
    write_series(studies, known())
    (file,) = into()
    dataset = open_dataset(tmp_path / "Dataset301_Imported")
    assert [case.id for case in dataset.cases] == [file.name.removesuffix("_0000.nii.gz")]
    assert dataset.channels == ("MR",)
    scan = dataset.read(dataset.cases[0])
    assert scan.geometry.orientation == "LPS"
    assert reader_for(dataset.info, file).__name__ == dataset.reader.__name__


def test_what_was_imported_stays_and_new_studies_join_it(studies, into, tmp_path):
    write_series(studies / "a", known(), patient="A")
    (first,) = into()
    before = first.stat().st_mtime_ns
    write_series(studies / "b", known(1), patient="B", study="1.2.3")
    assert len(into()) == 2
    assert first.stat().st_mtime_ns == before
    (tmp_path / "key.json").unlink()
    with pytest.raises(DiffaugError, match=r"key\.json: no such file, but Dataset301_Imported holds imported volumes"):
        into()


def test_a_volume_that_was_moved_to_be_labelled_or_to_test_with_is_not_imported_again(studies, into, tmp_path):
    for number in range(2):
        write_series(studies / f"{number}", known(number), number=number, patient=f"{number}", study=f"1.2.{number}")
    first, second = into()
    for place in ("imagesTr", "imagesTs"):
        (first.parents[1] / place).mkdir()
        first = first.rename(first.parents[1] / place / first.name)
        assert into() == [second]


def test_a_deflated_series_is_whole(studies, into):
    write_series(studies / "a", known())
    for file in (studies / "a").iterdir():
        instance = pydicom.dcmread(file)
        instance.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        instance.save_as(file)
    assert len(into()) == 1


def test_a_killed_import_goes_on(studies, into, tmp_path):
    for number in range(3):
        write_series(studies / f"{number}", known(number), number=number, patient=f"{number}", study=f"1.2.{number}")
    files = {file.name: file.read_bytes() for file in into()}
    victim = sorted(files)[1]
    (tmp_path / "Dataset301_Imported" / "imagesUn" / victim).unlink()
    assert {file.name: file.read_bytes() for file in into()} == files


def test_archives_are_read_and_their_paths_lead_nowhere(studies, into, tmp_path):
    files = write_series(tmp_path / "plain", known())
    studies.mkdir()
    with zipfile.ZipFile(studies / "one.zip", "w") as archive:
        for file in files:
            archive.write(file, f"../../outside/{file.name}")
    write_series(tmp_path / "second", known(1), number=2)
    with tarfile.open(studies / "two.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "second", "/tmp/second")
    assert len(into()) == 2
    assert not (tmp_path / "outside").exists()
    (studies / "three.zip").write_bytes((studies / "one.zip").read_bytes()[:200])
    with pytest.raises(DiffaugError, match=r"three\.zip: cannot be read"):
        into()


def test_a_packed_archive_is_read_no_oftener_for_many_volumes(studies, into, tmp_path, monkeypatch):
    for number in range(4):  # slices of different volumes side by side, as archives by date have them
        write_series(tmp_path / "plain", known(number), number=number, patient=str(number))
    studies.mkdir()
    with tarfile.open(studies / "all.tgz", "w:gz") as archive:
        for file in sorted((tmp_path / "plain").iterdir(), key=lambda file: file.name[::-1]):
            archive.add(file, file.name)
    opened = []
    whole = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *arguments: opened.append(arguments) or whole(*arguments))
    files = into()
    assert len(files) == 4
    assert len(opened) == 3  # for its list, for headers, for voxels
    monkeypatch.setattr(decoding, "MOST_HELD", 2 * known().voxels.size)
    shutil.rmtree(files[0].parent)
    assert len(into()) == 4
    assert len(opened) == 3 + 4  # for voxels twice, two volumes at a time
    values = {values_at(file, known(0)).tobytes() for file in files}
    assert values == {known(number).voxels.astype(float).tobytes() for number in range(4)}


def test_patients_whose_instances_have_equal_uids_stay_two(studies, into, capsys):
    for number in range(2):
        for index, file in enumerate(write_series(studies / str(number), known(number), patient=str(number))):
            data = pydicom.dcmread(file)
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{index}"
            data.SeriesInstanceUID = "1.2.3"
            data.save_as(file)
    files = into()
    assert len({file.name[:6] for file in files}) == 2
    assert "if both are one person, keep one" in capsys.readouterr().out
    values = {values_at(file, known(0)).tobytes() for file in files}
    assert values == {known(number).voxels.astype(float).tobytes() for number in range(2)}


def test_two_kinds_of_units_are_not_mixed(studies, into):
    write_series(studies / "ct", known(modality="CT"), number=1)
    write_series(studies / "mr", known(), number=2)
    with pytest.raises(DiffaugError, match="CT and MR would be taken"):
        into()
    assert len(into("modality=CT")) == 1
    with pytest.raises(DiffaugError, match="has channels CT"):
        into("modality=MR")
    assert not list(into("modality=CT")[0].parents[1].glob(".lock")), "it names the machine"


def test_philips_values_are_what_they_mean(studies, into):
    volume = known(slope=2.0, intercept=4.0, tags={"Manufacturer": "Philips Medical Systems"})
    for file in write_series(studies, volume):
        data = pydicom.dcmread(file)
        data.add_new((0x2005, 0x0010), "LO", "Philips MR Imaging DD 001")
        data.add_new((0x2005, 0x100E), "FL", 0.5)
        data.save_as(file)
    (file,) = into()
    assert np.allclose(values_at(file, volume), volume.values / (2.0 * 0.5), rtol=1e-5)


def test_frames_have_slopes_of_their_own(studies, into):
    (file,) = write_enhanced(studies, known())
    data = pydicom.dcmread(file)
    del data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    for number, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        own = pydicom.Dataset()
        own.RescaleSlope, own.RescaleIntercept, own.RescaleType = str(number + 1), "0", "US"
        group.PixelValueTransformationSequence = pydicom.Sequence([own])
    data.save_as(file)
    (image,) = into()
    factor = np.arange(SHAPE[0], 0, -1)[:, None, None]  # the last slice is the first frame
    assert np.array_equal(values_at(image, known()), known().voxels * factor)


def test_pydicoms_own_examples_are_taken_or_passed_over_and_none_is_a_traceback():
    folder = Path(get_testdata_file("CT_small.dcm")).parent
    found = find(ImportRequest((folder,), "Dataset302_Examples"))
    assert len(found.passed) > 30
    assert all(stack.size[0] >= 5 for stack in found.stacks)


def test_a_series_that_somebody_derived_is_taken_if_its_type_is_named(studies):
    write_series(studies, known(tags={"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}))
    assert why(studies) == ["is secondary by its image type"]
    assert why(studies, "type=derived/*") == []


def test_damaged_instances_are_passed_over_and_never_a_traceback(studies, tmp_path):
    whole = [file.read_bytes() for file in write_series(tmp_path / "whole", known())]
    whole += [write_enhanced(tmp_path / "whole", known())[0].read_bytes()]
    rng = np.random.default_rng(0)
    for round_ in range(40):
        folder = studies / str(round_)
        folder.mkdir(parents=True)
        for number, content in enumerate(whole):
            damaged = bytearray(content)
            for place in rng.integers(128, 1200, size=rng.integers(0, 4)):
                damaged[place] = rng.integers(256)
            (folder / str(number)).write_bytes(
                damaged[: rng.integers(100, len(damaged)) if rng.random() < 0.2 else None]
            )
        request = ImportRequest((folder,), "Dataset304_Damaged", key=tmp_path / f"{round_}.json")
        try:
            import_studies(request, tmp_path / str(round_) / "Dataset304_Damaged")
        except DiffaugError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("phases", [2, 3])
def test_slices_acquired_in_turn_make_whole_volumes(studies, into, phases):
    uid = pydicom.uid.generate_uid()
    for phase in range(phases):
        for file in write_series(studies / str(phase), known(phase, tags={"SeriesInstanceUID": uid}), number=phase + 1):
            data = pydicom.dcmread(file)
            data.InstanceNumber += phase * 100
            data.AcquisitionTime = f"10{phase:02d}{data.InstanceNumber % 2:02d}"
            data.save_as(file)
    files = into()
    assert len(files) == phases
    assert all(sitk.ReadImage(str(file)).GetSize() == SHAPE[::-1] for file in files)


def test_a_phase_that_comes_later_is_not_taken_for_another(studies, into, tmp_path):
    uid = pydicom.uid.generate_uid()
    for phase in (1, 2):
        tags = {"SeriesInstanceUID": uid, "TemporalPositionIdentifier": phase}
        write_series(studies / str(phase), known(phase, tags=tags), number=phase + 1)
    before = {file.name: file.read_bytes() for file in into()}
    write_series(studies / "0", known(0, tags={"SeriesInstanceUID": uid, "TemporalPositionIdentifier": 0}), number=9)
    after = into()
    assert len(after) == 3
    assert {file.name: file.read_bytes() for file in after if file.name in before} == before
    (new,) = [file for file in after if file.name not in before]
    assert np.array_equal(values_at(new, known(0)), known(0).voxels)


def test_phases_of_a_cine_are_in_the_order_of_their_triggers(studies, into):
    uid = pydicom.uid.generate_uid()
    for phase in range(3):
        tags = {"SeriesInstanceUID": uid, "TriggerTime": 100.0 * phase}
        for file in write_series(studies / str(5 - phase), known(phase, tags=tags), number=phase + 1):
            data = pydicom.dcmread(file)
            data.AcquisitionTime = f"10{int(data.InstanceNumber):02d}{9 - phase:02d}"
            data.save_as(file)
    (file,) = into("phase=2")
    assert np.array_equal(values_at(file, known(2)), known(2).voxels)


def test_a_small_tilt_is_judged_by_where_it_leads(studies, into):
    long = replace(known(modality="CT"), voxels=np.concatenate([known(i).voxels for i in range(20)]))
    write_series(studies, long, shear=0.02)  # mm a slice, and 2.4 mm from the first to the last: three voxels
    (file,) = into()
    assert sitk.ReadImage(str(file)).GetSize()[1] == SHAPE[1] + 3


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"Modality": "SEG"}, "is SEG, and only CT, MR, PT, NM are scans"),
        ({"ModalityLUTSequence": pydicom.Sequence([pydicom.Dataset()])}, "has a table"),
    ],
)
def test_what_holds_no_scan_is_passed_over(studies, tags, said):
    write_series(studies, known(tags=tags))
    assert all(said in reason for reason in why(studies))
    assert why(studies)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PhotometricInterpretation", "MONOCHROME1"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 1]),
        ("ImagePositionPatient", [1, 2]),
        ("PixelSpacing", [1, 1, 1]),
        ("PixelSpacing", [0, 0]),
        ("PixelSpacing", [-1, 1]),
    ],
)
def test_headers_that_make_no_volume_cost_their_own_series_alone(studies, into, name, value):
    for file in write_series(studies / "bad", known()):
        data = pydicom.dcmread(file)
        setattr(data, name, value)
        data.save_as(file)
    write_series(studies / "good", known(1), number=2)
    (file,) = into()
    assert np.array_equal(values_at(file, known(1)), known(1).voxels)


def test_rounding_splits_no_series_and_no_phase(studies, into):
    for phase in range(2):
        for file in write_series(studies / str(phase), known(phase, axes=dicoms.turned("oblique")), number=phase + 1):
            data = pydicom.dcmread(file)
            data.PixelSpacing = [0.8 + 1e-6 * phase, 1.25]
            data.ImageOrientationPatient = [v + 2e-5 * (data.InstanceNumber % 2) for v in data.ImageOrientationPatient]
            data.ImagePositionPatient = [v + 0.05 * phase for v in data.ImagePositionPatient]
            data.SeriesTime = data.AcquisitionTime = f"1{phase}0000"
            data.save_as(file)
    assert why(studies, "phase=1") == ["is phase 0 of 2"]


def test_patients_are_told_apart_by_who_named_them(studies, into, tmp_path):
    for number, issuer in enumerate(("H0", "H1")):
        tags = {"IssuerOfPatientID": issuer}
        write_series(studies / issuer, known(number, tags=tags), number=number, study=f"1.2.{number}", patient="A")
    into()
    assert len(json.loads((tmp_path / "key.json").read_text())["patients"]) == 2


def test_names_that_are_no_utf8_links_and_bare_instances_are_read(studies, into, tmp_path):
    folder = os.path.join(os.fsencode(studies), b"M\xfcller")  # noqa: PTH118
    os.makedirs(folder)  # noqa: PTH103
    for file in write_series(tmp_path / "plain", known()):
        shutil.copy(file, os.path.join(folder, os.fsencode(file.name)))  # noqa: PTH118
    write_series(tmp_path / "elsewhere", known(1), number=2, patient="B")
    (studies / "link").symlink_to(tmp_path / "elsewhere")
    (studies / "circle").symlink_to(studies)
    (studies / "bare").mkdir()
    for file in write_series(tmp_path / "bare", known(2), number=3, patient="C"):
        data = pydicom.dcmread(file)
        data.save_as(studies / "bare" / file.name, implicit_vr=False, little_endian=True)
        content = (studies / "bare" / file.name).read_bytes()
        start = content.index(b"DICM") + 4 if b"DICM" in content[:140] else 0
        (studies / "bare" / file.name).write_bytes(content[start:])
    assert len(into()) == 3


def test_damaged_archives_cost_what_they_hold_alone(studies, into, tmp_path, capsys):
    files = write_series(tmp_path / "plain", known())
    studies.mkdir()
    with tarfile.open(studies / "twice.tar", "w") as archive:
        for file in (*files, files[0]):
            archive.add(file, file.name)
    write_series(tmp_path / "second", known(1), number=2, patient="B")
    with zipfile.ZipFile(studies / "bad.zip", "w") as archive:
        for file in (tmp_path / "second").iterdir():
            archive.write(file, file.name)
    content = bytearray((studies / "bad.zip").read_bytes())
    content[3000:3050] = bytes(50)
    (studies / "bad.zip").write_bytes(content)
    (file,) = into()
    assert np.array_equal(values_at(file, known()), known().voxels)


def test_the_key_is_never_written_over(studies, into, tmp_path):
    write_series(studies, known())
    with pytest.raises(DiffaugError, match=r"expected a name that ends in \.json"):
        into(key=tmp_path / "key.csv")
    (tmp_path / "key.json").write_text("{}")
    with pytest.raises(DiffaugError, match="format is missing"):
        into()
    assert (tmp_path / "key.json").read_text() == "{}"


def test_a_full_disk_leaves_no_half_volume(studies, into, tmp_path, monkeypatch):
    from diffaug import images

    write_series(studies, known())
    whole = sitk.WriteImage

    def short(image, name, **how):  # what ITK leaves behind on a full disk, without a word
        whole(image, name, **how)
        Path(name).write_bytes(Path(name).read_bytes()[:-200])

    monkeypatch.setattr(images.sitk, "WriteImage", short)
    with pytest.raises(DiffaugError, match="disk is full"):
        into()
    monkeypatch.undo()
    (file,) = into()
    assert np.array_equal(values_at(file, known()), known().voxels)


def test_the_command_line_tells_before_it_takes(studies, folders, capsys, monkeypatch):
    monkeypatch.chdir(folders)
    write_series(studies / "a", known())
    write_capture(studies / "b")
    arguments = ["import-dicom", str(studies / "a"), str(studies / "b"), "--task", "Dataset303_New"]
    assert main([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"taken +1 x axial, MR axial, 6 x 40 x 34 voxels of 3 x 0.8 x 1.25 mm", told)
    assert "lies nowhere" in told
    assert not (folders / "raw" / "Dataset303_New").exists()
    assert main(arguments) == 0
    assert len(list((folders / "raw" / "Dataset303_New" / "imagesUn").glob("*.nii.gz"))) == 1
    assert (folders / "Dataset303_New_dicom_key.json").is_file()
    assert main(["import-dicom", str(studies / "a"), "--task", "303"]) == 0
    assert main(["import-dicom", str(studies / "a"), "--task", "999"]) == 2
    assert main(["import-dicom", str(studies / "missing"), "--task", "303"]) == 2
    assert main([*arguments, "--key", str(folders / "raw" / "Dataset303_New" / "key.json")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_needs_no_pydicom():
    code = "import sys; sys.modules['pydicom'] = None; from diffaug.cli import main; main(['--help'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
