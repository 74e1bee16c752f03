"""Whose a scan is, as far as its name tells."""

import pytest

from diffaug.generator.planning import hold_out
from diffaug.scans.patients import patient_of, patients_by_name

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


def test_all_scans_of_one_patient_are_parted_all_the_same():
    cases, held_out = hold_out([f"P00001V{n}" for n in range(1, 21)], 0)
    assert len(cases) >= len(held_out) >= 1
