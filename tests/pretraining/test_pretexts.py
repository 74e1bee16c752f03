"""The pretexts: what is hidden, what is asked, and what an ideal and a useless network score."""

import pytest
import torch
from planned import ALL, SILENT, Answer, silent, with_features
from torch import nn

from diffaug.nnunet.restyling import MAPS
from diffaug.pretraining.pretexts.anatomy import Anatomy
from diffaug.pretraining.pretexts.appearance import _recolour, vary
from diffaug.pretraining.pretexts.clusters import Clusters
from diffaug.pretraining.pretexts.denoise import Denoise
from diffaug.pretraining.pretexts.mae import Mae
from diffaug.pretraining.teacher import CLUSTERS

RESTORING = {name: pretext for name, pretext in ALL.items() if pretext.outputs(2) == 2 and not pretext.taught}
ANATOMY = ALL["anatomy"]


@pytest.fixture
def clean():
    torch.manual_seed(0)
    return torch.randn(8, 2, 24, 32, 40)


@pytest.mark.parametrize("pretext", RESTORING.values(), ids=RESTORING)
def test_a_useless_network_scores_about_one(clean, pretext):
    shown = pretext.solve(SILENT, clean)
    assert float(shown.loss) == pytest.approx(1, abs=0.05)
    assert shown.seen.shape == shown.predicted.shape == shown.truth.shape == clean.shape


@pytest.mark.parametrize("pretext", ALL.values(), ids=ALL)
def test_same_seed_same_task(clean, pretext):
    taught = with_features(pretext, clean)

    def drawn():
        torch.manual_seed(3)
        return pretext.solve(silent(pretext, 2), taught).seen

    assert torch.equal(drawn(), drawn())


def test_masks_hide_seven_tenths_in_whole_blocks(clean):
    seen = Mae().solve(SILENT, clean).seen
    hidden = seen == 0
    assert float(hidden.float().mean()) == pytest.approx(Mae().masked, abs=0.03)
    assert torch.equal(hidden[:, 0], hidden[:, 1]), "all channels of a place are hidden together"
    blocks = hidden[:, :1].float().unfold(2, 6, 6).unfold(3, 6, 6).unfold(4, 6, 6).flatten(5).mean(-1)
    assert ((blocks == 0) | (blocks == 1)).all()
    assert torch.equal(seen[~hidden], clean[~hidden])


def test_mae_asks_for_the_hidden_voxels_alone(clean):
    torch.manual_seed(1)
    hidden = Mae().solve(SILENT, clean).seen == 0

    def loss(answer):
        torch.manual_seed(1)
        return float(Mae().solve(Answer(lambda x: answer), clean).loss)

    noise = torch.randn_like(clean) * 50
    assert loss(torch.where(hidden, clean, noise)) == 0, "what is visible does not matter"
    assert loss(torch.where(hidden, clean + 2, clean)) == pytest.approx(4, rel=1e-4), "the mean is over the hidden"


def test_mae_network_sees_nothing_of_what_is_hidden(clean):
    network = Answer(torch.zeros_like)
    torch.manual_seed(1)
    seen = Mae().solve(network, clean).seen
    changed = torch.where(seen == 0, torch.randn_like(clean), clean)
    torch.manual_seed(1)
    Mae().solve(network, changed)
    assert torch.equal(network.seen, seen)


@pytest.mark.parametrize("size", [(3, 3, 3), (8, 40, 40), (16, 16, 16), (5, 7, 100)])
@pytest.mark.parametrize("pretext", ALL.values(), ids=ALL)
def test_any_patch_is_taken(pretext, size):
    clean = with_features(pretext, torch.randn(1, 2, *size))
    assert pretext.solve(silent(pretext, 2), clean).loss.isfinite()


def test_mae_with_nothing_hidden_is_zero_and_not_nan():
    assert Mae(masked=0.0).solve(SILENT, torch.randn(1, 1, 8, 8, 8)).loss == 0


def test_denoise_network_sees_unit_variance_at_every_level(clean):
    network = Answer(torch.zeros_like)
    Denoise().solve(network, clean)
    spread = network.seen.flatten(1).std(1)
    assert (spread - 1).abs().max() < 0.02


def test_the_truth_scores_zero_and_comes_out_as_prediction(clean):
    """The target in terms of what the network sees, written down a second time: sigma from the noise itself."""
    torch.manual_seed(5)
    level = (torch.randn(8, 1, 1, 1, 1) * 0.8 - 0.7).exp()
    total = (1 + level**2).sqrt()

    def knows(x):
        return (clean - x / total) * total / level

    torch.manual_seed(5)
    result = Denoise().solve(Answer(knows), clean)
    assert float(result.loss) < 1e-6
    torch.testing.assert_close(result.predicted, clean, atol=1e-3, rtol=1e-3)


def test_on_smooth_scans_an_ideal_denoiser_beats_silence():
    """Volumes that are constant, N(0, 1) each: the mean over voxels is almost noise free."""
    torch.manual_seed(0)
    clean = torch.randn(64, 1, 1, 1, 1).expand(64, 1, 8, 8, 8).contiguous()

    def ideal(x):
        # x = (clean + sigma * noise) / total; voxels' own spread is sigma / total, and total^2 = 1 + sigma^2
        share = x.var((1, 2, 3, 4), keepdim=True).clamp(1e-6, 0.999)  # sigma^2 / (1 + sigma^2)
        total = (1 / (1 - share)).sqrt()
        level = (total**2 - 1).sqrt()
        estimate = x.mean((1, 2, 3, 4), keepdim=True) * total
        return (estimate - x / total) * total / level

    assert float(Denoise().solve(Answer(ideal), clean).loss) < 0.2 < 0.8 < float(Denoise().solve(SILENT, clean).loss)


@pytest.mark.parametrize("pretext", ALL.values(), ids=ALL)
def test_gradients_reach_the_network(clean, pretext):
    network = nn.Conv3d(2, pretext.outputs(2), 3, padding=1)
    pretext.solve(network, with_features(pretext, clean)).loss.backward()
    assert network.weight.grad.abs().max() > 0


def test_varied_volumes_are_normalised_and_keep_their_edges():
    torch.manual_seed(0)
    volume = torch.zeros(64, 1, 16, 16, 16)
    volume[..., 8:] = 1
    varied = vary(volume - 0.5)
    assert varied.mean((1, 2, 3, 4)).abs().max() < 1e-4
    told = [float((v[..., 8:].mean() - v[..., :8].mean()).abs()) for v in varied]
    assert sum(t > 0.5 for t in told) > 48, "one half still differs from the other"
    assert any(v[..., 8:].mean() < v[..., :8].mean() for v in varied), "contrast is inverted at times"


def test_network_that_knows_the_clusters_has_no_loss(clean):
    pretext = Clusters()
    taught = with_features(pretext, clean)
    member = nn.functional.one_hot(taught[:, -CLUSTERS:].argmax(1), CLUSTERS).movedim(-1, 1)
    taught[:, -CLUSTERS:] = member
    assert float(pretext.solve(Answer(lambda x: member * 100.0), taught).loss) < 1e-3


def test_what_lies_where_is_in_the_maps_alone(clean):
    maps = torch.rand(8, MAPS, 4, 5, 6).softmax(1)
    painted = ANATOMY.helper(maps, clean)
    assert torch.allclose(painted.flip(3), ANATOMY.helper(maps.flip(3), clean), atol=1e-6), "voxel by voxel"
    assert not torch.allclose(painted, ANATOMY.helper(maps, clean * 3), atol=1e-3), "in the appearance of the other"


def test_anatomy_is_learnt_by_network_and_painter_together():
    """Two tissues whose brightness differs from scan to scan: known maps and a code suffice to paint them."""
    torch.manual_seed(0)
    pretext = Anatomy().suited(None, 1)
    network = nn.Conv3d(1, MAPS, 1)
    optimizer = torch.optim.Adam([*network.parameters(), *pretext.helper.parameters()], 3e-3)
    losses = []
    for _ in range(200):
        tissue = (torch.rand(4, 1, 2, 2, 2) < 0.5).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
        tissue = tissue.repeat_interleave(4, 4)
        loss = pretext.solve(network, tissue * 2 - 1).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert all(parameter.grad is not None for parameter in pretext.helper.parameters())


def test_a_few_bright_voxels_leave_contrast_to_the_rest():
    torch.manual_seed(0)
    volume = torch.rand(1, 16, 16, 16)
    volume[0, 0, 0, :4] = 1000.0
    volume = (volume - volume.mean()) / volume.std()
    for _ in range(20):
        recoloured = _recolour(volume)
        if not torch.equal(recoloured, volume):
            rest = recoloured[0, 1:]
            assert float(rest.std()) > 0.1 * float(recoloured.max() - recoloured.min())


def test_random_networks_work_in_mixed_precision():
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(20):
            assert vary(torch.randn(1, 1, 6, 6, 6), networks=True).dtype == torch.float32


def test_random_networks_change_contrast_and_leave_edges_where_they_are():
    torch.manual_seed(2)
    volume = torch.zeros(1, 1, 16, 16, 16)
    volume[..., 8:] = 1
    volume = (volume - volume.mean()) / volume.std()
    for varied in (vary(volume, networks=True) for _ in range(20)):
        assert varied.shape == volume.shape
        assert float(varied.std()) == pytest.approx(1, abs=0.01)
