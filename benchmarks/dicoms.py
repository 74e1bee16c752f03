"""A known volume, written as DICOM in the ways in which scanners and archives do.

Each way is a function of a folder and a `Known`; readers must give the same voxels back, the same way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

SHAPE = (6, 40, 34)  # voxels (Z, Y, X)
SPACING = (3.0, 0.8, 1.25)  # mm (Z, Y, X)
ORIGIN = (-20.0, 35.0, -110.0)  # mm, LPS, of the first voxel
TILT = 15.0  # degrees
STUDY = "1.2.826.0.1.3680043.8.498.1"


@dataclass(frozen=True)
class Known:
    """A volume whose place and values are known.

    Attributes:
        voxels: `(Z, Y, X)` int16, as stored.
        axes: Columns x, y and z: where each index runs to, in LPS.
        slope: Of the stored values.
        intercept: Of the stored values.
        modality: `MR` or `CT`.
        tags: What every file says beside that.
    """

    voxels: np.ndarray
    axes: np.ndarray = field(default_factory=lambda: np.eye(3))
    slope: float = 1.0
    intercept: float = 0.0
    modality: str = "MR"
    tags: dict[str, object] = field(default_factory=dict)

    @property
    def values(self) -> np.ndarray:
        """What the stored values mean."""
        return self.voxels * self.slope + self.intercept


def known(seed: int = 0, **how: object) -> Known:
    """Draw a volume in which no two corners are alike: brighter to the left, behind and above.

    Args:
        seed: Of its noise.
        **how: Further arguments of `Known`.

    Returns:
        The volume.
    """
    z, y, x = np.indices(SHAPE)
    noise = np.random.default_rng(seed).integers(0, 20, SHAPE)
    return Known((100 + 12 * x + 3 * y + 40 * z + noise).astype(np.int16), **how)  # type: ignore[arg-type]


def write_series(
    folder: Path,
    volume: Known,
    *,
    name: str = "axial",
    syntax: str = ExplicitVRLittleEndian,
    skip: tuple[int, ...] = (),
    shear: float = 0.0,
    number: int = 1,
    patient: str = "Mustermann^Jörg",
    study: str = STUDY,
    slopes: np.ndarray | None = None,
) -> list[Path]:
    """Write a series, a file for each slice, in an order that tells nothing.

    Args:
        folder: Where to.
        volume: The volume.
        name: Description of the series.
        syntax: Transfer syntax.
        skip: Slices that are missing.
        shear: By how much, in mm, each slice lies further along y than its neighbour.
        number: Of the series.
        patient: Name of the patient, who is a number too.
        study: UID of the study.
        slopes: Of each slice, where they differ.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, frame, files = generate_uid(), generate_uid(), []
    order = np.random.default_rng(number).permutation(len(volume.voxels))
    for place, index in enumerate(order):
        if index in skip:
            continue
        made = _header(volume, name, series, frame, number, patient, study)
        made.InstanceNumber = int(index) + 1
        made.ImagePositionPatient = _position(volume, int(index), shear)
        made.ImageOrientationPatient = [*volume.axes[:, 0], *volume.axes[:, 1]]
        made.PixelSpacing, made.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
        if shear:
            made.GantryDetectorTilt = str(TILT)
        made.RescaleSlope = str(volume.slope if slopes is None else slopes[index])
        made.RescaleIntercept = str(volume.intercept)
        _pixels(made, volume.voxels[index])
        files.append(_save(made, folder / f"IM{number:02d}{place:04d}", syntax))
    return files


def write_enhanced(folder: Path, volume: Known, *, name: str = "enhanced", number: int = 1) -> list[Path]:
    """Write all slices as the frames of one file, as enhanced MR does, last slice first.

    Args:
        folder: Where to.
        volume: The volume.
        name: Description of the series.
        number: Of the series.

    Returns:
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = _header(volume, name, generate_uid(), generate_uid(), number, "Mustermann^Jörg", STUDY)
    made.SOPClassUID = EnhancedMRImageStorage
    measures, orientation, values = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
    measures.SpacingBetweenSlices = SPACING[0]
    orientation.ImageOrientationPatient = [*volume.axes[:, 0], *volume.axes[:, 1]]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = str(volume.slope), str(volume.intercept), "US"
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelValueTransformationSequence = Sequence([values])
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    frames, order = [], range(len(volume.voxels))[::-1]
    for place, index in enumerate(order, 1):
        position, content, group = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = _position(volume, index, 0)
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", place, [1, place]
        group.PlanePositionSequence, group.FrameContentSequence = Sequence([position]), Sequence([content])
        frames.append(group)
    made.PerFrameFunctionalGroupsSequence = Sequence(frames)
    made.NumberOfFrames, made.InstanceNumber = len(frames), 1
    _pixels(made, volume.voxels[::-1])
    return [_save(made, folder / f"EN{number:02d}", ExplicitVRLittleEndian)]


def write_capture(folder: Path, number: int = 9) -> list[Path]:
    """Write a secondary capture: a picture of a screen, which lies nowhere in the patient."""
    folder.mkdir(parents=True, exist_ok=True)
    volume = known()
    made = _header(volume, "screen save", generate_uid(), generate_uid(), number, "Mustermann^Jörg", STUDY)
    made.SOPClassUID, made.ImageType = SecondaryCaptureImageStorage, ["DERIVED", "SECONDARY"]
    made.InstanceNumber = 1
    _pixels(made, volume.voxels[0])
    return [_save(made, folder / f"SC{number:02d}", ExplicitVRLittleEndian)]


def turned(name: str) -> np.ndarray:
    """Give the axes of a plane.

    Args:
        name: `axial`, `sagittal`, `coronal` or `oblique`.

    Returns:
        Columns x, y and z in LPS, right-handed.
    """
    rows = {"axial": ([1, 0, 0], [0, 1, 0]), "sagittal": ([0, 1, 0], [0, 0, -1]), "coronal": ([1, 0, 0], [0, 0, -1])}
    angle = np.deg2rad(20)
    rows["oblique"] = ([np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0])  # type: ignore[list-item]
    x, y = (np.array(row, dtype=float) for row in rows[name])
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _header(volume: Known, name: str, series: str, frame: str, number: int, patient: str, study: str) -> Dataset:
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = CTImageStorage if volume.modality == "CT" else MRImageStorage
    made.SOPInstanceUID, made.StudyInstanceUID = generate_uid(), study
    made.SeriesInstanceUID, made.FrameOfReferenceUID = series, frame
    made.Modality, made.SeriesDescription, made.SeriesNumber = volume.modality, name, number
    made.PatientName, made.PatientID, made.PatientBirthDate = patient, f"P-{patient}", "19500102"
    made.StudyDate, made.StudyTime, made.AcquisitionNumber = "20260102", "101112", 1
    made.SeriesDate, made.SeriesTime, made.ContentTime = "20260102", "101112", "101112"
    made.AccessionNumber, made.StudyID, made.InstitutionName = "ACC-4711", "S4711", "Klinikum Süd"
    made.Manufacturer, made.ImageType = "SIEMENS", ["ORIGINAL", "PRIMARY", "AXIAL" if volume.modality == "CT" else "M"]
    made.ProtocolName, made.PatientPosition = name, "HFS"
    if volume.modality == "MR":
        made.EchoTime, made.RepetitionTime, made.MagneticFieldStrength = 2.5, 6.0, 1.5
        made.ScanningSequence, made.SequenceVariant, made.MRAcquisitionType = "GR", "SP", "3D"
    for tag, value in volume.tags.items():
        setattr(made, tag, value)
    return made


def _position(volume: Known, index: int, shear: float) -> list[float]:
    along = volume.axes[:, 2] * SPACING[0] + volume.axes[:, 1] * shear
    return [round(float(value), 6) for value in np.array(ORIGIN) + index * along]


def _pixels(made: Dataset, voxels: np.ndarray) -> None:
    made.Rows, made.Columns = voxels.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.PixelData = voxels.astype("<i2").tobytes()


def _save(made: Dataset, file: Path, syntax: str) -> Path:
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        made.compress(syntax)
    elif syntax == ExplicitVRBigEndian:
        made.PixelData = np.frombuffer(made.PixelData, "<i2").astype(">i2").tobytes()
        made.file_meta.TransferSyntaxUID = syntax
    else:
        made.file_meta.TransferSyntaxUID = syntax
    made.save_as(file, enforce_file_format=True)
    return file


SHEAR = float(np.tan(np.deg2rad(TILT)) * SPACING[0])
SLOPED, SLOPES = "a slope for each slice", np.linspace(1, 2.25, SHAPE[0])
WAYS: dict[str, Callable[[Path], Known]] = {}


def _way(name: str, write: Callable[..., object], volume: Known, **how: object) -> None:
    def written(folder: Path) -> Known:
        write(folder, volume, **how)
        return volume

    WAYS[name] = written


for _plane in ("axial", "sagittal", "coronal", "oblique"):
    _way(_plane, write_series, known(axes=turned(_plane)))
_way("CT in HU", write_series, known(slope=2.0, intercept=-1024.0, modality="CT"))
_way("implicit VR", write_series, known(), syntax=ImplicitVRLittleEndian)
_way("big endian", write_series, known(), syntax=ExplicitVRBigEndian)
_way("RLE", write_series, known(), syntax=RLELossless)
_way("JPEG-LS", write_series, known(), syntax=JPEGLSLossless)
_way("JPEG 2000", write_series, known(), syntax=JPEG2000Lossless)
_way(SLOPED, write_series, known(modality="PT"), slopes=SLOPES)
_way("enhanced multi-frame", write_enhanced, known())
_way("enhanced, sagittal", write_enhanced, known(axes=turned("sagittal")))


def meaning(way: str, volume: Known) -> np.ndarray:
    """Tell what a reader must find.

    Args:
        way: How the volume was written.
        volume: The volume.

    Returns:
        `(Z, Y, X)`.
    """
    return volume.voxels * SLOPES[:, None, None] if way == SLOPED else volume.values
