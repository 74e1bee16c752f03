"""Whatever affine, spacing and orientation: a scan goes onto the canonical grid and back and has not moved in the patient."""

import tempfile
from pathlib import Path

import nibabel
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.spatial.transform import Rotation

from diffaug.scans.canonical import from_canonical, to_canonical
from diffaug.scans.grid import Grid, median_spacing, plan_grid
from diffaug.scans.reading import RAS_TO_LPS, read_scan
from diffaug.scans.readings import Reading
from diffaug.scans.scan import Geometry, Scan, write_scan
from diffaug.scans.windows import Window, cut, inside, paste_extent, refill

ORIENTATIONS = [a + b + c for a in "LR" for b in "AP" for c in "SI"] + ["PSR", "ASL", "LIP", "SRA"]
millimetres = some.floats(0.05, 12)
sizes = some.tuples(*[some.integers(2, 14)] * 3)
few = settings(max_examples=60, deadline=None, derandomize=True)


@some.composite
def geometries(draw) -> Geometry:
    matrix = np.eye(3)[:, draw(some.permutations(range(3)))]
    if draw(some.booleans()):  # oblique
        matrix = Rotation.random(random_state=draw(some.integers(0, 10**6))).as_matrix()
    if draw(some.booleans()):
        matrix[:, draw(some.integers(0, 2))] *= -1  # left-handed
    spacing = (draw(millimetres), draw(millimetres), draw(millimetres))
    origin = tuple(draw(some.floats(-500, 500)) for _ in range(3))
    return Geometry(spacing, origin, tuple(map(float, matrix.ravel())))


def places(geometry: Geometry, size) -> np.ndarray:
    """Where each voxel lies: (x, y, z) in LPS, `(3, Z, Y, X)`."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"))[::-1]
    scaled = index * np.array(geometry.spacing[::-1]).reshape(3, 1, 1, 1)
    turned = np.tensordot(np.array(geometry.direction).reshape(3, 3), scaled, 1)
    return (turned + np.array(geometry.origin).reshape(3, 1, 1, 1)).astype(np.float32)


@few
@given(geometries(), sizes, some.sampled_from(ORIENTATIONS), some.tuples(*[some.floats(0.4, 2.5)] * 3))
def test_every_voxel_comes_back_to_where_it_was_within_half_a_voxel(geometry, size, orientation, ratio):
    voxels = places(geometry, size)
    ranges = tuple((float(v.min()), float(v.max()) + 1e-3) for v in voxels)
    scan = Scan(voxels, geometry)
    reading = Reading("a", size, geometry.spacing, geometry.orientation, ranges, (0.0,) * 3, (1.0,) * 3)
    own = plan_grid([reading], voxels=10**9, multiple=(1, 1, 1), spacing=median_spacing([reading]))
    spacing = tuple(float(a * b) for a, b in zip(own.spacing, ratio, strict=True))
    canonical, placement = to_canonical(
        scan, reading, Grid("whole", orientation, spacing, (8, 8, 8), ranges, (0.0,), (1.0,))
    )
    assert np.isfinite(canonical).all()
    back = from_canonical(canonical, placement)
    for name in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(back.geometry, name), getattr(geometry, name), atol=1e-4)
    # resampling moves what lies at the edge by less than half a voxel of the coarser grid
    longest = max(max(geometry.spacing), max(spacing))
    moved = np.linalg.norm(back.voxels - voxels, axis=0)
    assert moved.max() <= np.sqrt(3) * longest / 2 + 1e-2
    middle = tuple(slice(n // 4, n - n // 4) for n in size)
    assert np.median(moved[middle]) <= longest / 2 + 1e-2


@few
@given(geometries(), sizes)
def test_a_written_scan_is_read_back_by_either_of_nnunets_readers(geometry, size):
    voxels = places(geometry, size)[:1]
    with tempfile.TemporaryDirectory() as folder:
        files = write_scan(Scan(voxels, geometry), Path(folder), "a")
        for reader in (SimpleITKIO, NibabelIO):
            scan = read_scan(files, reader)
            np.testing.assert_array_equal(scan.voxels, voxels)
            half = min(geometry.spacing) / 2
            apart = np.linalg.norm(places(scan.geometry, size) - places(geometry, size), axis=0)
            assert apart.max() < max(half, 2e-3)  # NIfTI's quaternions and float32


@few
@given(geometries(), sizes, some.sampled_from([np.int16, np.uint8, np.float32, np.float64]), some.booleans())
def test_whatever_nibabel_writes_is_read_with_its_values_and_places(geometry, size, kind, second):
    values = np.random.default_rng(0).integers(0, 200, size[::-1]).astype(kind)
    values.flat[0], values.flat[-1] = 0, 200  # some contrast, always
    matrix = np.array(geometry.direction).reshape(3, 3) * np.array(geometry.spacing[::-1])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = RAS_TO_LPS @ matrix, RAS_TO_LPS @ np.array(geometry.origin)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.nii.gz"
        nibabel.save((nibabel.Nifti2Image if second else nibabel.Nifti1Image)(values, affine), file)
        scan = read_scan([file], NibabelIO)
    np.testing.assert_array_equal(scan.voxels[0], values.T.astype(np.float32))
    apart = np.linalg.norm(places(scan.geometry, size) - places(geometry, size), axis=0)
    assert apart.max() < max(min(geometry.spacing) / 2, 2e-3)


@few
@given(some.data(), sizes, sizes)
def test_a_window_gives_back_what_it_holds_of_a_scan(data, extent, shape):
    reach = [data.draw(some.integers(-(n // 2), max(0, e - n // 2))) for e, n in zip(extent, shape, strict=True)]
    mirrored = data.draw(some.sampled_from([None, 0, 1, 2]))
    voxels = np.random.default_rng(0).normal(size=(1, *extent)).astype(np.float32)
    window = Window(tuple(reach), tuple(extent), mirrored)
    made = cut(voxels, window, shape)
    assert made.shape == (1, *shape)
    z, y, x = (slice(max(o, 0), min(o + n, e)) for o, n, e in zip(reach, shape, extent, strict=True))
    seen = np.flip(voxels, mirrored + 1) if mirrored is not None else voxels
    if min(s.stop - s.start for s in (z, y, x)) > 0:
        np.testing.assert_array_equal(paste_extent(made, window), seen[:, z, y, x])
        assert [s.stop - s.start for s in inside(window, shape)] == [s.stop - s.start for s in (z, y, x)]
        np.testing.assert_array_equal(refill(paste_extent(made, window), window, shape), made)
