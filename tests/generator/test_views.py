"""Views: every scan's windows, encoded once, read back one by one, and summed up as if all lay in memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.planning import make_plan
from diffaug.generator.views import Views, encode_views
from diffaug.scans.cache import VolumeCache
from diffaug.scans.readings import Reading
from diffaug.scans.windows import cut

CPU = torch.device("cpu")
CASES = [f"c{i}" for i in range(6)]
READINGS = [Reading(case, (20, 24, 22), (2.0, 1.5, 1.5), "LPS", ((0.0, 900.0),), (1.0,), (1.0,)) for case in CASES]


@pytest.fixture
def encoded(tmp_path):
    """A plan, an untrained autoencoder, scans of noise, and their views."""
    torch.manual_seed(0)
    plan = make_plan(READINGS, ["MR"], budget="cpu-small")
    plan = replace(
        plan, views=3, autoencoder={**plan.autoencoder, "channels": [8, 8], "latent_channels": 4, "codes": 32}
    )
    scans = VolumeCache(tmp_path / "scans")
    scans.fill(CASES, lambda case: np.random.default_rng(CASES.index(case)).uniform(-1, 1, (1, 20, 24, 22)))
    autoencoder = Autoencoder(**plan.autoencoder)
    latents = VolumeCache(tmp_path / "latents")
    return plan, autoencoder, scans, latents, encode_views(autoencoder, plan, scans, CASES, latents, CPU)


def test_each_view_is_the_latent_of_its_window(encoded):
    plan, autoencoder, scans, _, views = encoded
    assert (len(views), views.each) == (18, 3)
    for number in (0, 4, 17):
        window = torch.from_numpy(cut(scans[CASES[number // 3]], views.windows[number], plan.grid.shape))[None]
        with torch.no_grad():
            expected = autoencoder.encode(window)[0]
        torch.testing.assert_close(views[number], expected, atol=1e-3, rtol=1e-3)  # half precision
    assert len({window.offset for window in views.windows[:3]}) > 1, "the views of a scan differ"
    mirrored = [window.mirrored for window in views.windows[:6]]
    assert mirrored == [None, plan.grid.mirror, None] * 2, "and every other one shows it mirrored"


def test_statistics_are_those_of_all_latents_together(encoded):
    views = encoded[-1]
    everything = torch.stack([views[number] for number in range(len(views))]).double()
    mean, std = views.statistics()
    expected = everything.mean((0, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(mean, expected.float())
    torch.testing.assert_close(std.flatten()[0], (everything - expected).square().mean().sqrt().float())
    constant = Views({"c": np.ones((2, 4, 4, 4), np.float16)}, ["c"], [views.windows[0]])
    assert float(constant.statistics()[1]) > 0, "nothing is divided by zero"


def test_encoding_goes_on_where_it_was_stopped(encoded, monkeypatch):
    plan, autoencoder, scans, latents, views = encoded
    before = [views[number] for number in range(len(views))]
    (latents.folder / f"{CASES[2]}.npy").unlink()
    counted = []
    encode = autoencoder.encode
    monkeypatch.setattr(autoencoder, "encode", lambda volume: counted.append(0) or encode(volume))
    again = encode_views(autoencoder, plan, scans, CASES, latents, CPU)
    assert len(counted) == plan.views
    assert again.windows == views.windows
    assert all(torch.equal(again[number], latent) for number, latent in enumerate(before))
