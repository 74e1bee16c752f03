"""Whose a scan is, as far as its name tells."""

import pytest

from diffaug.dicom.pseudonyms import Pseudonyms
from diffaug.generator.planning import hold_out
from diffaug.patients import patient_of, patients_by_name

IMPORTED = [f"P{10000 + 7 * patient}V{volume + 1}" for patient in range(20) for volume in range(1 + patient % 4)]


def test_names_of_an_import_tell_and_others_do_not():
    assert patient_of("P04711V2") == "P04711"
    assert patient_of("P04711V2_0001") == "P04711V2_0001"
    assert patients_by_name(["P04711V2", "case_1", "P04711V1", "P00001V1", "case_2"]) == (("P04711V1", "P04711V2"),)


@pytest.mark.parametrize("seed", range(10))
def test_no_patient_is_trained_on_and_measured_with(seed):
    cases, held_out = hold_out(IMPORTED, seed)
    assert not {patient_of(case) for case in cases} & {patient_of(case) for case in held_out}
    assert sorted([*cases, *held_out]) == sorted(IMPORTED)
    assert 5 <= len(held_out) <= 8, "a tenth, and what belongs to it"


@pytest.mark.parametrize("sizes", [(6, 6, 1, 1, 1, 1, 1, 1, 1, 1), (12, 8, 9, 30), (29, *[1] * 38), (2, 1, 2, 1)])
@pytest.mark.parametrize("seed", range(10))
def test_uneven_patients_are_not_parted_and_most_scans_are_trained_on(sizes, seed):
    scans = [f"P{10000 + patient}V{n + 1}" for patient, size in enumerate(sizes) for n in range(size)]
    cases, held_out = hold_out(scans, seed)
    tenth = max(1, round(len(scans) / 10))
    assert 1 <= len(held_out) < 2 * tenth or len(held_out) == 1
    if len(sizes) > 2 and any(size < 2 * tenth for size in sizes):
        assert not {patient_of(case) for case in cases} & {patient_of(case) for case in held_out}


def test_a_pseudonym_is_known_for_one(tmp_path):
    names = Pseudonyms(tmp_path / "key.json", "Dataset001_A")
    drawn = names._draw()
    assert patient_of(f"{drawn}V3") == drawn


def test_all_scans_of_one_patient_are_parted_all_the_same():
    cases, held_out = hold_out([f"P00001V{n}" for n in range(1, 21)], 0)
    assert len(cases) >= len(held_out) >= 1
