"""What an instance's header says of its slices; voxels are not read, and nothing that names a person is kept but the id."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from diffaug.dicom.sources import Source

PHILIPS_SLOPE = Tag(0x2005, 0x100E)  # private: the scale slope
SHARED_GROUPS, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
WANTED: list[Any] = [
    "SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "SeriesDescription",
    "SeriesNumber", "ImageType", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "InstanceNumber", "AcquisitionNumber", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "ContentTime", "SeriesTime", "StudyDate", "TemporalPositionIdentifier", "TriggerTime", "EchoTime",
    "RescaleSlope", "RescaleIntercept", "Manufacturer", SHARED_GROUPS, PER_FRAME, PHILIPS_SLOPE, "SpecificCharacterSet",
]  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """One slice: a frame of an instance.

    Attributes:
        source: Where the instance lies.
        frame: Number of the frame in it, from 0.
        uid: Of the instance.
        position: Of the first voxel, mm in LPS.
        rows: Where columns run to, then where rows run to: two unit vectors in LPS.
        spacing: Between rows and between columns, mm.
        size: Rows and columns.
        rescale: Slope and intercept that turn stored values into their meaning.
        first_rescale: Those of the instance's first frame, which ITK applies to every frame.
        moment: What tells volumes of one series apart, in the order in which they are told apart.
        number: Of the instance, then of the frame.
    """

    source: Source
    frame: int
    uid: str
    position: tuple[float, ...]
    rows: tuple[float, ...]
    spacing: tuple[float, ...]
    size: tuple[int, int]
    rescale: tuple[float, float]
    first_rescale: tuple[float, float]
    moment: tuple[tuple[str, Any], ...]
    number: tuple[int, int]


@dataclass(frozen=True)
class Header:
    """What an instance says of the series that it is of.

    Attributes:
        patient: Id of the patient.
        study: UID of the study.
        series: UID of the series.
        description: Of the series.
        series_number: Of the series.
        modality: As MR or CT.
        image_type: As ORIGINAL/PRIMARY/AXIAL.
        time: When it was acquired, to be sorted by.
        slices: Its slices; none where it holds no image that lies somewhere.
        lacks: Why it has no slices.
    """

    patient: str
    study: str
    series: str
    description: str
    series_number: int
    modality: str
    image_type: str
    time: str
    slices: tuple[Slice, ...]
    lacks: str


def read_header(source: Source, content: BinaryIO) -> Header | None:
    """Read an instance's header.

    Args:
        source: Where it lies.
        content: Its content.

    Returns:
        The header; None for what is no DICOM instance.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that break the standard: what matters is checked here
            data = dcmread(content, stop_before_pixels=True, specific_tags=WANTED, force=False)
    except (InvalidDicomError, EOFError):
        return None
    except Exception as error:  # a stranger's file: pydicom raises whatever its parts do
        return _without(
            Dataset(), f"cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _header(source, data)
    except Exception as error:
        return _without(data, f"has a broken header ({type(error).__name__}: {str(error)[:80]})")


def _header(source: Source, data: FileDataset) -> Header | None:
    if "SOPInstanceUID" not in data or "DICOMDIR" in data.get("SOPClassUID", ""):
        return None if "SOPClassUID" not in data else _without(data, "holds no image")
    if "Rows" not in data or not int(data.Rows) or not int(data.Columns):
        return _without(data, "holds no image")
    if int(data.get("SamplesPerPixel", 1)) != 1:
        return _without(data, "is a colour picture")
    groups = _groups(data)
    rescales = [_rescale(data, group) for group in groups]
    slices = []
    for number, group in enumerate(groups):
        position, rows, spacing = (
            _one_of(group, name) for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        )
        if position is None or rows is None or spacing is None:
            return _without(data, "lies nowhere in the patient (no position, orientation or spacing)")
        slices.append(
            Slice(
                source,
                number,
                str(data.SOPInstanceUID),
                tuple(map(float, position)),
                tuple(map(float, rows)),
                tuple(map(float, spacing)),
                (int(data.Rows), int(data.Columns)),
                _meant(data, rescales[number]),
                rescales[0],
                _moment(data, group),
                (int(data.get("InstanceNumber") or 0), number),
            )
        )
    if not all(np.isfinite([*s.position, *s.rows, *s.spacing, *s.rescale]).all() for s in slices):
        return _without(data, "has numbers in its header that are none")
    return _without(data, "", tuple(slices))


def _groups(data: Dataset) -> list[list[Dataset]]:
    """Give, for each frame, the datasets in which its properties may stand, the nearest first."""
    frames = int(data.get("NumberOfFrames") or 1)
    own = list(data.get(PER_FRAME) or [])
    shared = list(data.get(SHARED_GROUPS) or [])
    if frames > 1 and len(own) != frames:
        return [[Dataset()]]  # a cine loop: frames that lie nowhere
    return [[*own[i : i + 1], *shared, data] for i in range(frames)]


def _one_of(group: list[Dataset], name: str) -> Any:
    """Find a property: in the functional groups, where each stands in a sequence of its own, then in the dataset itself."""
    *functional, data = group
    for element in (element for groups in functional for element in groups if element.VR == "SQ"):
        for item in element.value:
            if item.get(name) not in (None, ""):
                return item.get(name)
    value = data.get(name)
    return None if value == "" else value


def _rescale(data: Dataset, group: list[Dataset]) -> tuple[float, float]:
    slope, intercept = _one_of(group, "RescaleSlope"), _one_of(group, "RescaleIntercept")
    return float(1 if slope is None else slope), float(0 if intercept is None else intercept)


def _meant(data: Dataset, rescale: tuple[float, float]) -> tuple[float, float]:
    """Turn what Philips' MR scanners display into what is comparable between scans (doi 10.1593/tlo.13811)."""
    element = data.get(PHILIPS_SLOPE)
    if element is None or not str(data.get("Manufacturer", "")).lower().startswith("philips"):
        return rescale
    # in implicit VR a private element has no type
    value = np.frombuffer(element.value, "<f4")[0] if isinstance(element.value, bytes) else element.value
    total = rescale[0] * float(value)
    return (rescale[0] / total, rescale[1] / total) if total else rescale


def _moment(data: Dataset, group: list[Dataset]) -> tuple[tuple[str, Any], ...]:
    """What may differ between volumes that lie in one place, what they are of before when they are from."""
    found = {
        "type": _joined(data.get("ImageType")),
        "echo": _one_of(group, "EchoTime") or _one_of(group, "EffectiveEchoTime"),
        "temporal position": _one_of(group, "TemporalPositionIdentifier") or _one_of(group, "TemporalPositionIndex"),
        "acquisition": data.get("AcquisitionNumber"),
        "trigger": _one_of(group, "TriggerTime"),
        "time": data.get("AcquisitionDateTime") or data.get("AcquisitionTime"),
    }
    return tuple((name, None if value in (None, "") else value) for name, value in found.items())


def _joined(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")


def _without(data: Dataset, lacks: str, slices: tuple[Slice, ...] = ()) -> Header:
    def text(name: str) -> str:
        try:
            value = data.get(name)
        except Exception:  # pydicom looks at a value only now
            return ""
        return _joined(value)

    number, day = text("SeriesNumber"), text("AcquisitionDate") or text("StudyDate")
    time = text("AcquisitionTime") or text("ContentTime") or text("SeriesTime")
    return Header(
        text("PatientID"),
        text("StudyInstanceUID"),
        text("SeriesInstanceUID"),
        text("SeriesDescription"),
        int(number) if number.isdecimal() else 0,
        text("Modality"),
        text("ImageType"),
        text("AcquisitionDateTime") or day + time,
        slices,
        lacks,
    )
