"""What the generator teaches: its layers' features, voxel by voxel, whatever the order they are computed in."""

import numpy as np
import torch
import torch.nn.functional as F

from diffaug.generator.model import Generator
from diffaug.pretraining import teacher
from diffaug.pretraining.sources import synthetic_source
from diffaug.pretraining.teacher import CLUSTERS, FEATURES, FITTED, Teacher
from diffaug.scans.windows import Window, paste_extent
from diffaug.stages.pipeline import sample
from diffaug.stages.requests import SampleRequest


def everywhere(generator: Generator, scan) -> torch.Tensor:
    """Give every voxel of a scan what all layers say of it, `(D, Z, Y, X)`: simple, and large."""
    layers, window = teacher._layers(generator, scan)
    shape = generator.plan.grid.shape
    whole = torch.cat([F.interpolate(layer, shape, mode="trilinear") for layer in layers], 1)[0]
    return torch.from_numpy(paste_extent(whole.numpy(), window).copy())


def test_features_are_components_of_what_all_layers_say(task):
    task.tiny_plan(2)
    source = synthetic_source(sample(task.workspace, SampleRequest(3, steps=8), device="cpu"), set())
    scans = [source.dataset.read(case) for case in source.dataset.cases]
    made = Teacher.fit(source.generator, scans[:FITTED], torch.device("cpu"))
    for scan in scans:
        raw = everywhere(made.generator, scan)
        known = torch.einsum("fd,dzyx->fzyx", made.axes, raw - made.mean[:, None, None, None])
        features = made.features(scan)
        assert features.shape == (FEATURES + CLUSTERS, *scan.size)
        assert known.shape[1:] == scan.size, "the blobs' grid has no other size than they have"
        np.testing.assert_allclose(features[:FEATURES], known.numpy(), atol=1e-3)


def test_voxels_are_drawn_within_the_scan_and_told_as_everywhere():
    torch.manual_seed(0)
    shape, window = (8, 6, 10), Window((-1, 2, 0), (5, 20, 10))
    layers = [torch.randn(1, 3, 4, 3, 5), torch.randn(1, 2, *shape)]
    whole = torch.cat([F.interpolate(layer, shape, mode="trilinear") for layer in layers], 1)[0]
    inside = torch.from_numpy(paste_extent(whole.numpy(), window).copy()).flatten(1).T
    places = teacher._draw(window, shape, np.random.default_rng(0))
    drawn = teacher._at(layers, places)
    assert drawn.shape == (5 * 6 * 10, 5), "a window with fewer voxels than are drawn gives all of them, each once"
    order, expected = drawn[:, 0].argsort(), inside[:, 0].argsort()
    torch.testing.assert_close(drawn[order], inside[expected], atol=1e-5, rtol=1e-5)
