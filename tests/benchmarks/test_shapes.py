"""Random structures: seeded, normalised, solid and unlike each other."""

import numpy as np
import pytest

from benchmarks.shapes import draw_shapes, write_shapes
from diffaug.scans.dataset import open_dataset


@pytest.mark.parametrize("shape", [(24, 32, 48), (8, 40, 12)])
def test_volumes_are_normalised(shape):
    volume = draw_shapes(np.random.default_rng(0), shape)
    assert volume.shape == shape
    assert volume.dtype == np.float32
    assert abs(volume.mean()) < 1e-3
    assert volume.std() == pytest.approx(1, abs=1e-3)


def test_same_seed_same_volume():
    first, second, other = (draw_shapes(np.random.default_rng(seed), (16, 16, 16)) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.7


def test_structures_have_inside_and_edge():
    """Most neighbours are alike, few are not: solid bodies, and neither noise nor a smooth field."""
    steps = np.concatenate(
        [np.abs(np.diff(draw_shapes(np.random.default_rng(seed), (24, 32, 48)), axis=2)).ravel() for seed in range(8)]
    )
    assert np.quantile(steps, 0.5) < 0.2
    assert np.quantile(steps, 0.97) > 4 * np.quantile(steps, 0.5)


def test_a_folder_of_volumes_is_a_dataset_and_goes_on(tmp_path):
    options = {"size": (8, 12, 10), "spacing": (3.0, 1.0, 2.0), "channels": ["T1", "T2"]}
    folder = write_shapes(tmp_path / "shapes", 2, **options)
    dataset = open_dataset(folder)
    first = dataset.read(dataset.cases[0])
    assert first.voxels.shape == (2, 8, 12, 10)
    assert first.geometry.spacing == (3.0, 1.0, 2.0)
    assert np.array_equal(np.abs(first.voxels[0]), np.abs(first.voxels[1]))
    files = sorted((folder / "imagesTr").iterdir())
    before = {file.name: file.stat().st_mtime_ns for file in files}
    write_shapes(folder, 3, **options)
    assert {file.name: file.stat().st_mtime_ns for file in files} == before
    assert len(open_dataset(folder).cases) == 3
