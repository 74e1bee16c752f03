"""Whose a scan is, where its name says so."""

from __future__ import annotations

import re
from collections.abc import Iterable

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


def patients_by_name(cases: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Group the scans that are of one patient by their names.

    Args:
        cases: Ids of scans.

    Returns:
        Every group of two and more, sorted.
    """
    groups: dict[str, list[str]] = {}
    for case in sorted(cases):
        groups.setdefault(patient_of(case), []).append(case)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
