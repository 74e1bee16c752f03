"""What an instance's header says of its slices; voxels are not read, and nothing that names a person is kept but the id."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError

from diffaug.dicom.elements import PHILIPS_SLOPE, apart, joined, meant, one_of, plain, rescale
from diffaug.dicom.sources import Source

BARE = (b"\x08\x00", b"\x02\x00")  # a bare instance begins with an element of one of these
MODALITIES = ("CT", "MR", "PT", "NM")  # of scans; SEG, RTDOSE and the like hold volumes that are none
SHARED_GROUPS, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
WANTED: list[Any] = [
    "SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "SeriesDescription",
    "SeriesNumber", "ImageType", "Rows", "Columns",
    "BitsAllocated", "SamplesPerPixel", "NumberOfFrames", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices",
    "InstanceNumber", "AcquisitionNumber", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "ContentTime", "SeriesTime", "StudyDate", "TemporalPositionIdentifier", "TriggerTime", "EchoTime",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "PhotometricInterpretation", "IssuerOfPatientID", "Manufacturer", SHARED_GROUPS, PER_FRAME, PHILIPS_SLOPE,
    "SpecificCharacterSet",
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
        apart: How far its neighbour should be, mm; 0 where the header does not say.
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
    apart: float
    size: tuple[int, int]
    rescale: tuple[float, float]
    first_rescale: tuple[float, float]
    moment: tuple[tuple[str, Any], ...]
    number: tuple[int, int]


@dataclass(frozen=True)
class Header:
    """What an instance says of the series that it is of.

    Attributes:
        patient: Id of the patient, and who gave it.
        study: UID of the study.
        series: UID of the series.
        description: Of the series.
        series_number: Of the series.
        modality: As MR or CT.
        image_type: As ORIGINAL/PRIMARY/AXIAL.
        time: When it was acquired, to be sorted by.
        slices: Its slices; none where it holds no image that lies somewhere.
        lacks: Why it has no slices.
        damage: Why its slices cannot be used, nor others without them.
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
    damage: str = ""


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
    except InvalidDicomError:
        return _read_bare(source, content)
    except EOFError:
        return None
    except Exception as error:  # a stranger's file: pydicom raises whatever its parts do
        return _without(
            Dataset(), f"cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = _header(source, data)
            return replace(header, damage=_damage(source, content, data)) if header and header.slices else header
    except Exception as error:
        return _without(data, f"has a broken header ({type(error).__name__}: {str(error)[:80]})")


def _damage(source: Source, content: BinaryIO, data: FileDataset) -> str:
    """Find out whether a file ends before its voxels do; older decoders fill up what is missing."""
    syntax = data.file_meta.TransferSyntaxUID
    if source.member or syntax.is_compressed or syntax.is_deflated:
        return ""
    voxels = int(data.Rows) * int(data.Columns) * int(data.get("NumberOfFrames") or 1)
    wanted = content.tell() + voxels * int(data.get("BitsAllocated") or 16) // 8
    size = source.file.stat().st_size
    return f"{source} ends after {size} of {wanted} bytes" if size < wanted else ""


def _read_bare(source: Source, content: BinaryIO) -> Header | None:
    """Read an instance without the preamble by which files are known, as old scanners and archives write them."""
    try:
        content.seek(0)
        if content.read(2) not in BARE:
            return None
        content.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _header(source, dcmread(content, stop_before_pixels=True, specific_tags=WANTED, force=True))
    except Exception:  # then it was none
        return None


def _header(source: Source, data: FileDataset) -> Header | None:
    if "SOPInstanceUID" not in data or "DICOMDIR" in data.get("SOPClassUID", ""):
        return None if "SOPClassUID" not in data else _without(data, "holds no image")
    if "Rows" not in data or not int(data.Rows) or not int(data.Columns):
        return _without(data, "holds no image")
    if int(data.get("SamplesPerPixel", 1)) != 1:
        return _without(data, "is a colour picture")
    if data.get("Modality") not in MODALITIES:
        return _without(
            data, f"is {data.get('Modality') or 'of no modality'}, and only {', '.join(MODALITIES)} are scans"
        )
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        return _without(data, "is inverted (MONOCHROME1)")
    if data.get("ModalityLUTSequence"):
        return _without(data, "has a table in place of a slope for its values")
    groups = _groups(data)
    rescales = [rescale(group) for group in groups]
    slices = []
    for number, group in enumerate(groups):
        position, rows, spacing = (
            one_of(group, name) for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
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
                apart(group),
                (int(data.Rows), int(data.Columns)),
                meant(group, rescales[number]),
                rescales[0],
                _moment(data, group),
                (int(data.get("InstanceNumber") or 0), number),
            )
        )
    if not all((len(s.position), len(s.rows), len(s.spacing)) == (3, 6, 2) and min(s.spacing) > 0 for s in slices):
        return _without(data, "has a position, orientation or spacing that is none")
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


def _moment(data: Dataset, group: list[Dataset]) -> tuple[tuple[str, Any], ...]:
    """What may differ between volumes that lie in one place, what they are of before when they are from."""
    found = {
        "type": joined(data.get("ImageType")),
        "echo": one_of(group, "EchoTime") or one_of(group, "EffectiveEchoTime"),
        "temporal position": one_of(group, "TemporalPositionIdentifier") or one_of(group, "TemporalPositionIndex"),
        "acquisition": data.get("AcquisitionNumber"),
        "trigger": one_of(group, "TriggerTime"),
        "time": data.get("AcquisitionDateTime") or data.get("AcquisitionTime"),
    }
    return tuple((name, plain(value)) for name, value in found.items())


def _without(data: Dataset, lacks: str, slices: tuple[Slice, ...] = ()) -> Header:
    def text(name: str) -> str:
        try:
            value = data.get(name)
        except Exception:  # pydicom looks at a value only now
            return ""
        return joined(value)

    number, day = text("SeriesNumber"), text("AcquisitionDate") or text("StudyDate")
    time = text("AcquisitionTime") or text("ContentTime") or text("SeriesTime")
    return Header(
        "/".join(part for part in (text("IssuerOfPatientID").strip(), text("PatientID").strip()) if part),
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
