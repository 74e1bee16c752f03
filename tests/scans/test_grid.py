"""The canonical grid and its exact inverse: no scan is mirrored, shifted, stretched or given other units."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.ndimage import distance_transform_edt, gaussian_filter
from test_scan import GEOMETRIES, assert_same_geometry, directed, place_of_the_lamp

from diffaug.nnunet.readers import nonzero_mask
from diffaug.scans.canonical import from_canonical, synthetic_scan, to_canonical
from diffaug.scans.grid import Grid, axis_order, main_orientation, median_spacing, plan_grid
from diffaug.scans.reading import read_scan
from diffaug.scans.readings import CT_WINDOW, Reading, read_off
from diffaug.scans.scan import Geometry, Scan, write_scan

SPACINGS = {"isotropic": (1.5, 1.5, 1.5), "anisotropic": (4.0, 0.9, 1.1)}


def smooth_scan(direction, spacing, size=(14, 30, 26), origin=(-20.0, 35.5, 7.0)) -> Scan:
    """Smooth, with one maximum off every middle."""
    lamp = np.zeros(size)
    lamp[4, 9, 19] = 1
    voxels = gaussian_filter(lamp, (1.5, 3, 3))
    return Scan((voxels / voxels.max() * 900 + 50).astype(np.float32)[None], Geometry(spacing, origin, direction))


def reading_of(size=(20, 24, 22), spacing=(2.0, 1.5, 1.5), orientation="LPS", ranges=((0.0, 900.0),)) -> Reading:
    return Reading("a", size, spacing, orientation, ranges, (1.0,) * len(ranges), (2.0,) * len(ranges))


def grid_for(spacing, orientation="LPS", ranges=((50.0, 950.0),)) -> Grid:
    return Grid("whole", orientation, spacing, (8, 8, 8), ranges, (0.0,) * len(ranges), (1.0,) * len(ranges))


@pytest.mark.parametrize("direction", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("orientation", ["LPS", "RAS"])
def test_canonical_and_back_keeps_geometry_units_and_place(direction, spacing, orientation):
    scan = smooth_scan(direction, spacing)
    reading = replace(read_off("a", scan, ["MR"]), ranges=((50.0, 950.0),))  # where it is clipped nothing is brightest
    voxels, placement = to_canonical(scan, reading, grid_for((1.2, 1.0, 1.0), orientation))
    assert voxels.dtype == np.float32
    assert -1 <= voxels.min() < voxels.max() <= 1
    back = from_canonical(voxels, placement)
    assert back.size == scan.size
    assert_same_geometry(back.geometry, scan.geometry)
    assert np.abs(place_of_the_lamp(back) - place_of_the_lamp(scan)).max() <= max(spacing), "moved in the patient"
    assert np.corrcoef(back.voxels.ravel(), scan.voxels.ravel())[0, 1] > 0.97  # a flip of any axis gives below 0.3
    assert abs(back.voxels.mean() - scan.voxels.mean()) < 5  # of 900


def test_resampling_by_a_little_leaves_a_scan_as_sharp_as_it_was():
    grain = np.random.default_rng(0).normal(500, 100, (1, 24, 24, 24)).astype(np.float32)
    scan = Scan(grain, Geometry((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), GEOMETRIES["LPS"]))
    reading = reading_of((24, 24, 24), (1.0, 1.0, 1.0), ranges=((0.0, 1000.0),))
    voxels, _ = to_canonical(scan, reading, grid_for((1.05, 1.05, 1.05), ranges=((0.0, 1000.0),)))
    assert voxels.std() * 500 > 75  # of 100; linear interpolation leaves 54


@pytest.mark.parametrize("direction", GEOMETRIES.values(), ids=GEOMETRIES)
def test_without_resampling_the_round_trip_is_exact_within_the_range(direction):
    scan = smooth_scan(direction, (1.5, 1.5, 1.5))
    reading = read_off("a", scan, ["MR"])
    voxels, placement = to_canonical(scan, reading, grid_for((1.5, 1.5, 1.5)))
    low, high = reading.ranges[0]
    np.testing.assert_allclose(
        from_canonical(voxels, placement).voxels, np.clip(scan.voxels, low, high), atol=1e-3 * (high - low)
    )


@pytest.mark.parametrize("letters", ["LPS", "RAS", "PSR", "LIP", "AIL"])
def test_left_stays_left(tmp_path, letters):
    """A bright blob on the patient's left, x > 0 in LPS, through every way there is, read by ITK alone."""
    size = (24, 24, 24)
    direction = directed(letters)
    image = sitk.GetImageFromArray(np.zeros(size, np.float32))
    image.SetDirection(direction)
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint([11.5] * 3))
    index = list(np.ndindex(*size))
    places = np.array([image.TransformIndexToPhysicalPoint(i[::-1]) for i in index]) - centre
    distance = np.linalg.norm(places - (6, -3, 2), axis=1)  # left, anterior, superior
    voxels = np.exp(-((distance / 3) ** 2)).reshape(size).astype(np.float32) * 100
    scan = Scan(voxels[None], Geometry((1.0, 1.0, 1.0), tuple(-centre), direction))
    reading = read_off("left", scan, ["MR"])
    for orientation in ("LPS", "RAS", letters):
        grid = grid_for((1.0, 1.0, 1.0), orientation, reading.ranges)
        canonical, placement = to_canonical(scan, reading, grid)
        ways = {"back": from_canonical(canonical, placement), "synthetic": synthetic_scan(canonical, grid)}
        for way, made in ways.items():
            (file,) = write_scan(made, tmp_path, f"{way}_{orientation}")
            read = sitk.ReadImage(str(file))
            array = sitk.GetArrayFromImage(read)
            brightest = np.unravel_index(array.argmax(), array.shape)[::-1]
            place = read.TransformIndexToPhysicalPoint(tuple(map(int, brightest)))
            # one and a half voxels: half from centring, one from the robust range's plateau
            np.testing.assert_allclose(place, (6, -3, 2), atol=1.5, err_msg=f"{way} in {orientation}")
            assert place[0] > 0


def test_synthetic_scan_has_the_plans_units_spacing_and_orientation_and_lies_on_the_origin(tmp_path):
    grid = grid_for((4.0, 0.9, 1.1), "RAI", ((0.0, 800.0), (-1000.0, 1000.0)))
    voxels = np.stack([np.linspace(-1, 1, 480).reshape(6, 8, 10)] * 2)
    scan = synthetic_scan(voxels, grid)
    assert scan.geometry.orientation == "RAI"
    assert (scan.voxels[0].min(), scan.voxels[0].max()) == (0, 800)
    assert (scan.voxels[1].min(), scan.voxels[1].max()) == (-1000, 1000)
    read = read_scan(write_scan(scan, tmp_path, "a"), SimpleITKIO)
    np.testing.assert_allclose(read.geometry.spacing, grid.spacing, rtol=1e-6)
    image = sitk.ReadImage(str(tmp_path / "a_0000.nii.gz"))
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    np.testing.assert_allclose(centre, (0, 0, 0), atol=1e-4)


def test_ct_window_is_fixed_in_hounsfield_units_and_mr_range_is_robust():
    rng = np.random.default_rng(0)
    mr = rng.uniform(10, 500, (20, 20, 20)).astype(np.float32)
    mr[0, 0, :3] = 30000  # hot pixels
    ct = rng.normal(0, 300, (20, 20, 20)).astype(np.float32)
    reading = read_off("a", Scan(np.stack([mr, ct, ct]), Geometry()), ["MR", "CT", "ct"])
    assert reading.ranges[1] == reading.ranges[2] == CT_WINDOW == (-1000, 1000)
    low, high = reading.ranges[0]
    assert 10 <= low < 15
    assert 490 < high <= 500


def test_ct_comes_back_in_hounsfield_units_and_metal_is_cut_off():
    hu = np.linspace(-1000, 3000, 512, dtype=np.float32).reshape(8, 8, 8)
    scan = Scan(hu[None], Geometry())
    grid = grid_for((1.0, 1.0, 1.0), ranges=(CT_WINDOW,))
    voxels, placement = to_canonical(scan, read_off("a", scan, ["CT"]), grid)
    np.testing.assert_allclose(from_canonical(voxels, placement).voxels[0], np.minimum(hu, 1000), atol=1e-3)
    np.testing.assert_allclose(voxels[0], np.minimum(hu, 1000) / 1000, atol=1e-6)


def test_almost_empty_image_still_has_a_range():
    voxels = np.zeros((1, 20, 20, 20), np.float32)
    voxels[0, 1, 2, 3] = 7
    assert read_off("a", Scan(voxels, Geometry()), ["MR"]).ranges == ((0, 7),)


def test_a_hair_of_spacing_difference_is_not_resampled():
    scan = smooth_scan(directed("LPS"), (1.5, 1.5, 1.51))
    voxels, placement = to_canonical(scan, read_off("a", scan, ["MR"]), grid_for((1.5, 1.5, 1.5)))
    assert voxels.shape == scan.voxels.shape
    assert_same_geometry(from_canonical(voxels, placement).geometry, scan.geometry)


def test_axes_of_sagittal_and_axial_scans_are_matched():
    axial, sagittal = reading_of((30, 200, 180), (4.0, 1.0, 1.0)), reading_of((180, 30, 200), (1.0, 4.0, 1.0), "PSR")
    # PSR: x runs to P, y to S, z to R: the array's (Z, Y, X) are (right, superior, posterior)
    assert axis_order(axial.orientation, "LPS") == [0, 1, 2]
    assert axis_order(sagittal.orientation, "LPS") == [1, 2, 0]
    assert np.array(sagittal.size)[axis_order(sagittal.orientation, "LPS")].tolist() == [30, 200, 180]
    assert main_orientation([axial, axial, sagittal]) == "LPS"
    assert median_spacing([axial, axial, sagittal]) == (4.0, 1.0, 1.0)


SHAPES = list(itertools.product([(20, 24, 22), (160, 512, 512), (8, 300, 40)], [(4.0, 0.7, 0.7), (1.0, 1.0, 1.0)]))


@pytest.mark.parametrize("size, spacing", SHAPES)
@pytest.mark.parametrize("view", ["auto", "whole", "patch"])
@pytest.mark.parametrize("voxels, multiple", [(2**17, (8, 8, 8)), (2**15, (4, 16, 16)), (2**21, (16, 16, 16))])
def test_planned_grid_honours_the_budget_and_the_strides(size, spacing, view, voxels, multiple):
    reading = reading_of(size, spacing)
    grid = plan_grid([reading] * 3, voxels=voxels, multiple=multiple, spacing=spacing, field_of_view=view)
    assert all(n % m == 0 and n >= m for n, m in zip(grid.shape, multiple, strict=True))
    assert np.prod(grid.shape) <= max(voxels, np.prod(multiple))
    if grid.field_of_view == "patch":
        np.testing.assert_allclose(grid.spacing, spacing)
    else:
        # the window covers the scan but for half a step, and is no more than half a step larger
        covered = np.array(grid.shape) * grid.spacing
        extent = np.multiply(size, spacing)
        step = np.array(multiple) * grid.spacing
        assert (covered > extent - 0.51 * step).all()
        assert ((covered < extent + 0.51 * step) | (np.array(grid.shape) == multiple)).all()
        np.testing.assert_allclose(np.divide(grid.spacing, spacing), grid.spacing[0] / spacing[0])


def test_auto_takes_the_whole_scan_where_it_fits_at_full_resolution():
    small = plan_grid([reading_of()] * 2, voxels=2**17, multiple=(4, 4, 4), spacing=(2.0, 1.5, 1.5))
    assert (small.field_of_view, small.spacing, small.shape) == ("whole", (2.0, 1.5, 1.5), (20, 24, 24))
    large = plan_grid([reading_of((99, 300, 300))] * 2, voxels=2**17, multiple=(8, 8, 8), spacing=(2.0, 1.5, 1.5))
    assert large.field_of_view == "patch"


def test_patches_are_nnunets_unless_scan_or_budget_is_smaller():
    def shape(size, voxels):
        options = {"multiple": (8, 8, 8), "spacing": (1.0, 1.0, 1.0), "field_of_view": "patch"}
        reading = reading_of(size, (1.0, 1.0, 1.0))
        return plan_grid([reading] * 2, voxels=voxels, patch_size=(32, 48, 64), **options).shape

    assert shape((99, 99, 99), 2**21) == (32, 48, 64)
    assert shape((16, 99, 99), 2**21) == (16, 48, 64)
    assert np.prod(shape((99, 99, 99), 2**15)) <= 2**15


def test_unknown_field_of_view_is_refused(refusal):
    options = {"voxels": 1000, "multiple": (8, 8, 8), "spacing": (1.0, 1.0, 1.0)}
    assert "'half'" in refusal(plan_grid, [reading_of()], field_of_view="half", **options)


def brain(seed=0, size=(24, 28, 26)) -> Scan:
    """Tissue without skull: zero all round, and a dark hole inside."""
    rng = np.random.default_rng(seed)
    radius = sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1.4, 1.4, n) for n in size), indexing="ij"))
    tissue = 500 + 100 * gaussian_filter(rng.normal(size=size), 1.5) / 0.06
    voxels = np.where(radius < 0.03, 5, np.where(radius < 1, tissue.clip(200), 0))
    return Scan(voxels.astype(np.float32)[None], Geometry((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel())))


def planned_for(scans) -> Grid:
    readings = [read_off(f"s{number}", scan, ["T1"]) for number, scan in enumerate(scans)]
    return plan_grid(readings, voxels=10**6, multiple=(1, 1, 1), spacing=(1.0, 1.0, 1.0))


def test_what_lies_round_scans_without_skull_is_nothing_in_samples_too():
    """nnU-Net crops and normalises by exact zeros; a network's background is never quite one value."""
    scan = brain()
    grid = planned_for([scan, brain(1), brain(2)])
    assert grid.masked
    canonical, _ = to_canonical(scan, read_off("a", scan, ["T1"]), grid)
    noise = 0.04 * np.abs(np.random.default_rng(0).normal(size=canonical.shape))
    made = synthetic_scan((canonical + noise.astype(np.float32)).clip(-1, 1), grid).voxels[0]
    outside = ~nonzero_mask(scan.voxels)
    assert (made[outside] == 0).mean() > 0.98, "a voxel of noise may hang on to the rim"
    assert (made[distance_transform_edt(outside) > 3] == 0).all()
    assert (made[~outside] > 0).all(), "a dark hole stays"
    noise = np.random.default_rng(1).normal(size=(2, *scan.voxels.shape))
    corner = np.indices(scan.voxels.shape[1:]).sum(0) < 30  # of a scan that was turned
    for air in (np.round(np.hypot(*noise)), np.where(corner, 0, 30 * np.abs(noise[0]))):
        assert not planned_for([replace(scan, voxels=np.maximum(scan.voxels, air).astype(np.float32))]).masked


def test_thin_bright_structures_are_no_background():
    scan = brain()
    scan.voxels[0, :, 1, 1:3] = 300
    grid = planned_for([scan, brain(1), brain(2)])
    assert grid.masked
    canonical, _ = to_canonical(scan, read_off("a", scan, ["T1"]), grid)
    assert (synthetic_scan(canonical, grid).voxels[0, :, 1, 1:3] > 200).all()
