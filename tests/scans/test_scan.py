"""Scans in, scans out: nothing moves in the patient, and every broken file is named."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.spatial.transform import Rotation

from blobs import blob, write_image
from diffaug.scans.reading import read_scan
from diffaug.scans.scan import Geometry, Scan, reorient, to_images, write_scan

AXES = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def directed(orientation: str) -> tuple[float, ...]:
    return tuple(np.array([AXES[letter] for letter in orientation], float).T.ravel())


def oblique(degrees: float = 20) -> tuple[float, ...]:
    return tuple(Rotation.from_euler("xyz", [degrees, -degrees / 2, degrees / 3], degrees=True).as_matrix().ravel())


GEOMETRIES = {
    "LPS": directed("LPS"),
    "RAS": directed("RAS"),
    "sagittal": directed("PSR"),
    "coronal": directed("LIP"),
    "left-handed": directed("LPI"),
    "oblique": oblique(),
}


def scan_with_a_lamp(direction: tuple[float, ...], size=(9, 12, 15), spacing=(3.0, 1.5, 0.8)) -> Scan:
    """One bright voxel off every middle, in a ramp, so that a flip of any axis shows."""
    ramp = np.linspace(0, 1, int(np.prod(size)), dtype=np.float32).reshape(size)
    ramp[2, 3, 11] = 1000
    return Scan(ramp[None], Geometry(spacing, (-20.0, 35.5, 7.0), tuple(map(float, direction))))


def place_of_the_lamp(scan: Scan) -> np.ndarray:
    """Where ITK, which knows nothing of diffaug, finds the brightest voxel: (x, y, z) in LPS."""
    image = to_images(scan)[0]
    index = np.unravel_index(int(scan.voxels[0].argmax()), scan.size)[::-1]
    return np.array(image.TransformIndexToPhysicalPoint(tuple(map(int, index))))


def assert_same_geometry(a: Geometry, b: Geometry) -> None:
    for name in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("direction", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PSR", "ASL"])
def test_reorienting_moves_nothing_in_the_patient_and_changes_no_value(direction, orientation):
    scan = scan_with_a_lamp(direction)
    turned = reorient(scan, orientation)
    assert turned.geometry.orientation == orientation
    np.testing.assert_allclose(place_of_the_lamp(turned), place_of_the_lamp(scan), atol=1e-6)
    np.testing.assert_array_equal(np.sort(turned.voxels.ravel()), np.sort(scan.voxels.ravel()))


@pytest.mark.parametrize("seed", range(20))
def test_reorienting_there_and_back_is_identity_for_any_rotation(seed):
    matrix = Rotation.random(random_state=seed).as_matrix()
    if seed % 2:
        matrix[:, 0] *= -1  # left-handed
    scan = scan_with_a_lamp(tuple(matrix.ravel()))
    back = reorient(reorient(scan, "RAS"), scan.geometry.orientation)
    assert_same_geometry(back.geometry, scan.geometry)
    np.testing.assert_array_equal(back.voxels, scan.voxels)


@pytest.mark.parametrize("direction", GEOMETRIES.values(), ids=GEOMETRIES)
def test_what_is_written_is_read_back(tmp_path, direction):
    scan = scan_with_a_lamp(direction)
    files = write_scan(scan, tmp_path / "imagesTr", "case")
    assert [file.name for file in files] == ["case_0000.nii.gz"]
    read = read_scan(files, SimpleITKIO)
    assert_same_geometry(read.geometry, scan.geometry)
    np.testing.assert_array_equal(read.voxels, scan.voxels)


@pytest.mark.parametrize("direction", GEOMETRIES.values(), ids=GEOMETRIES)
def test_nibabel_reads_the_same_geometry_as_simpleitk(tmp_path, direction):
    files = write_scan(scan_with_a_lamp(direction), tmp_path, "case")
    by_itk, by_nibabel = read_scan(files, SimpleITKIO), read_scan(files, NibabelIO)
    np.testing.assert_allclose(by_nibabel.geometry.origin, by_itk.geometry.origin, atol=1e-4)
    np.testing.assert_allclose(by_nibabel.geometry.spacing, by_itk.geometry.spacing, atol=1e-5)
    np.testing.assert_allclose(by_nibabel.geometry.direction, by_itk.geometry.direction, atol=1e-5)
    np.testing.assert_array_equal(by_nibabel.voxels, by_itk.voxels)


def test_cropping_keeps_voxels_where_they_are_in_the_patient():
    geometry = Geometry((3.0, 1.5, 0.8), (-20.0, 35.5, 7.0), oblique())
    image = to_images(Scan(np.zeros((1, 9, 12, 15), np.float32), geometry))[0]
    np.testing.assert_allclose(geometry.cropped((2, 3, 4)).origin, image.TransformIndexToPhysicalPoint((4, 3, 2)))


def test_channels_stay_in_order(tmp_path):
    voxels = np.stack([blob(0), blob(1) + 500, blob(2) - 500])
    files = write_scan(Scan(voxels, Geometry((2.0, 1.5, 1.5))), tmp_path, "case")
    assert [file.name[5:9] for file in files] == ["0000", "0001", "0002"]
    np.testing.assert_array_equal(read_scan(files, SimpleITKIO).voxels, voxels)


def _nan(file: Path) -> None:
    voxels = blob(0)
    voxels[3, 4, 5] = np.nan
    write_image(file, voxels)


def _infinite(file: Path) -> None:
    voxels = blob(0)
    voxels[3, 4, 5] = -np.inf
    write_image(file, voxels)


def _truncated(file: Path) -> None:
    write_image(file, blob(0))
    file.write_bytes(file.read_bytes()[:5000])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _text(file: Path) -> None:
    file.write_text("not an image\nat all\n")


def _four_dimensional(file: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.random.default_rng(0).random((5, 6, 7, 8), np.float32), False), str(file))


def _two_dimensional(file: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(blob(0)[0]), str(file))


def _colours(file: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([blob(0)] * 3, -1), isVector=True), str(file))


def _missing(file: Path) -> None:
    pass


BROKEN = {
    "NaN": (_nan, "NaN"),
    "infinite": (_infinite, "infinite"),
    "truncated": (_truncated, "cannot be read"),
    "empty": (_empty, "cannot be read"),
    "text": (_text, "cannot be read"),
    "4D": (_four_dimensional, "one 3D volume"),
    "2D": (_two_dimensional, "at least two slices"),
    "colours": (_colours, "one 3D volume"),
    "missing": (_missing, "no such file"),
}


@pytest.mark.parametrize("make, told", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_broken_file_is_refused_by_name(tmp_path, refusal, make, told, reader):
    if reader is NibabelIO and make is _two_dimensional:
        pytest.skip("nnU-Net's nibabel reader asserts three dimensions itself; any refusal is fine")
    good = write_image(tmp_path / "good_0000.nii.gz", blob(1))
    bad = tmp_path / "bad_0001.nii.gz"
    make(bad)
    message = refusal(read_scan, [good, bad], reader)
    assert str(bad) in message
    if reader is SimpleITKIO:
        assert told in message


@pytest.mark.parametrize("change", [{"size": (20, 24, 21)}, {"spacing": (2.0, 1.5, 1.6)}])
def test_channels_of_different_grids_are_refused(tmp_path, refusal, change):
    first = write_image(tmp_path / "a_0000.nii.gz", blob(0))
    second = write_image(
        tmp_path / "a_0001.nii.gz", blob(1, change.get("size", (20, 24, 22))), change.get("spacing", (2.0, 1.5, 1.5))
    )
    assert str(second) in refusal(read_scan, [first, second], SimpleITKIO)
