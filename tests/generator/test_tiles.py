"""Tiles: no seam, no trace of where they were cut."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffaug.generator import tiles
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.tiles import in_tiles


def test_tiles_give_what_the_whole_gives():
    torch.manual_seed(0)
    run = nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.SiLU(), nn.Conv3d(3, 1, 3, padding=1)).double()
    x = torch.randn(2, 2, 11, 7, 16, dtype=torch.double)
    whole = run(x)
    calls = []

    def counted(part):
        calls.append(part.shape)
        return run(part)

    made = in_tiles(counted, x, [2, 2, 2], [1, 1, 1], [1, 1, 1], tile=5)
    torch.testing.assert_close(made, whole)
    assert len(calls) == 3 * 2 * 4
    assert max(max(shape[2:]) for shape in calls) == 9, "a tile and its margins"
    short = in_tiles(run, x, [1, 1, 1], [1, 1, 1], [1, 1, 1], tile=5)
    assert (short - whole).abs().max() > 1e-3, "a margin too small would show"


@pytest.mark.parametrize("before, after", [((2, 1, 4), (1, 1, 1)), ((1, 1, 1), (2, 1, 4))])
def test_sizes_may_change(before, after):
    x = torch.arange(6 * 5 * 4 * before[0] * before[2]).double().view(1, 1, 6 * before[0], 5, 4 * before[2])

    def run(part):
        return F.avg_pool3d(part, before) if before != (1, 1, 1) else F.interpolate(part, scale_factor=after)

    made = in_tiles(run, x, [0, 0, 0], before, after, tile=4)
    torch.testing.assert_close(made, run(x))


@pytest.mark.parametrize("strides", [[[2, 2, 2], [2, 2, 2]], [[1, 2, 2], [2, 2, 2]]])
def test_autoencoder_of_a_large_volume_shows_no_tiles(strides, monkeypatch):
    torch.manual_seed(0)
    made = Autoencoder(
        image_channels=1, channels=[8, 8], strides=strides, blocks=1, latent_channels=4, codes=16, groups=1
    ).eval()
    made.codebook.codes.normal_()
    volume = torch.randn(1, 1, 32, 40, 96)
    with torch.no_grad():
        latent = made.encode(volume)
        decoded = made.decode(latent)
        monkeypatch.setattr(tiles.in_tiles, "__defaults__", (32,))
        torch.testing.assert_close(made.encode(volume), latent, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(made.decode(latent), decoded, atol=1e-5, rtol=1e-4)
