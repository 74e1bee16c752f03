"""Whose a scan is: by its name, or by groups of scans that were found to be of one patient."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")
IMPORTED_VOLUME = re.compile(r"(P\d{5})V\d+")  # as `diffaug import-dicom` names volumes


def patient_of(case: str) -> str:
    """Tell whose a scan is.

    Args:
        case: Its id.

    Returns:
        The patient's pseudonym of a volume that was imported from DICOM (`P04711` of `P04711V2`); of any other the id itself:
        nothing is known.
    """
    match = IMPORTED_VOLUME.fullmatch(case)
    return match[1] if match else case


def known_patients(cases: Iterable[str], seen: Iterable[str]) -> list[str]:
    """Find the scans of patients of whom something was seen, be it another scan.

    Args:
        cases: Ids of scans.
        seen: Ids of scans that were seen.

    Returns:
        Those of `cases`, sorted.
    """
    patients = {patient_of(case) for case in seen}
    return sorted({case for case in cases if patient_of(case) in patients})


def by_patient(scans: Iterable[T], patient: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    """Group scans by the patient they are of.

    Args:
        scans: In any form.
        patient: Tells whose each is.

    Returns:
        By patient, in the order in which they come.
    """
    groups: dict[Hashable, list[T]] = {}
    for scan in scans:
        groups.setdefault(patient(scan), []).append(scan)
    return groups


def owners_of(cases: Iterable[str], groups: Iterable[Sequence[str]]) -> list[str]:
    """Tell whose scans are that were found to be of one patient.

    Args:
        cases: Ids of scans.
        groups: Ids of scans that are of one patient.

    Returns:
        Of every scan the first of its group, or itself.
    """
    owner = {case: group[0] for group in groups for case in group}
    return [owner.get(case, case) for case in cases]


def patients_by_name(cases: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Group the scans that are of one patient by their names.

    Args:
        cases: Ids of scans.

    Returns:
        Every group of two and more, sorted.
    """
    return tuple(tuple(group) for group in by_patient(sorted(cases), patient_of).values() if len(group) > 1)
