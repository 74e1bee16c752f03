"""Elements of a header: where they stand, and what they are worth."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

PHILIPS_FRAME = Tag(0x2005, 0x140F)  # private: a sequence in which enhanced files have it
PHILIPS_SLOPE = Tag(0x2005, 0x100E)  # private: the scale slope


def one_of(group: list[Dataset], name: str) -> Any:
    """Find a property: in the functional groups, where each stands in a sequence of its own, then in the dataset itself.

    Args:
        group: Functional groups of a frame, the nearest first, and the dataset last.
        name: Keyword of the property.

    Returns:
        Its value, or None.
    """
    *functional, data = group
    for element in (element for groups in functional for element in groups if element.VR == "SQ"):
        for item in element.value:
            if item.get(name) not in (None, ""):
                return item.get(name)
    value = data.get(name)
    return None if value == "" else value


def rescale(group: list[Dataset]) -> tuple[float, float]:
    """Read slope and intercept of a frame.

    Args:
        group: As for `one_of`.

    Returns:
        Both; 1 and 0 where there are none.
    """
    slope, intercept = one_of(group, "RescaleSlope"), one_of(group, "RescaleIntercept")
    return float(1 if slope is None else slope), float(0 if intercept is None else intercept)


def meant(group: list[Dataset], shown: tuple[float, float]) -> tuple[float, float]:
    """Turn what Philips' MR scanners display into what is comparable between scans (doi 10.1593/tlo.13811).

    Args:
        group: As for `one_of`.
        shown: Slope and intercept of what is displayed.

    Returns:
        Slope and intercept of what is meant: the same for other makers.
    """
    *_, data = group
    nested = [item for each in group if PHILIPS_FRAME in each for item in each[PHILIPS_FRAME].value]
    element = next((found for each in (*nested, data) if (found := each.get(PHILIPS_SLOPE)) is not None), None)
    if element is None or not str(data.get("Manufacturer", "")).lower().startswith("philips"):
        return shown
    # in implicit VR a private element has no type
    value = np.frombuffer(element.value, "<f4")[0] if isinstance(element.value, bytes) else element.value
    total = shown[0] * float(value)
    return (shown[0] / total, shown[1] / total) if total else shown


def apart(group: list[Dataset]) -> float:
    """Read how far slices lie apart; what is no number there says nothing, and keeps no scan away.

    Args:
        group: As for `one_of`.

    Returns:
        Mm; 0 where there is none.
    """
    try:
        value = plain(one_of(group, "SpacingBetweenSlices"))
    except (TypeError, ValueError):  # pydicom looks at a value only now
        return 0.0
    return abs(value) if isinstance(value, float) and np.isfinite(value) else 0.0


def plain(value: Any) -> float | str | None:
    """Give one value that can be compared.

    Args:
        value: Of any element.

    Returns:
        A number, a text, or None.
    """
    if value is None or value == "":
        return None
    if isinstance(value, MultiValue):
        return joined(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def joined(value: Any) -> str:
    """Give the text of an element.

    Args:
        value: Of any element.

    Returns:
        Its text, several joined by slashes.
    """
    return "/".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")
