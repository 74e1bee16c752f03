"""The pretexts: what is hidden, what is asked, and what an ideal and a useless network score."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from diffaug.pretraining.pretexts import PRETEXTS
from diffaug.pretraining.pretexts.appearance import Varied, vary
from diffaug.pretraining.pretexts.contrast import Contrast
from diffaug.pretraining.pretexts.denoise import Denoise
from diffaug.pretraining.pretexts.distil import Clusters, Distil
from diffaug.pretraining.pretexts.fusion import Fusion
from diffaug.pretraining.pretexts.mae import Mae
from diffaug.pretraining.pretexts.reverse import Reverse
from diffaug.pretraining.pretexts.sparse import sparse
from diffaug.pretraining.teacher import CLUSTERS, FEATURES


class Answer(nn.Module):
    """Answers with a function of what it sees."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        self.seen = x
        return self.answer(x)


SILENT = Answer(torch.zeros_like)
RESTORING = {name: pretext for name, pretext in PRETEXTS.items() if pretext.outputs(2) == 2 and not pretext.taught}


@pytest.fixture
def clean():
    torch.manual_seed(0)
    return torch.randn(8, 2, 24, 32, 40)


def with_features(pretext, clean):
    """The volume, and behind it a teacher's features where the pretext wants them."""
    return torch.cat([clean, torch.randn(len(clean), pretext.taught, *clean.shape[2:])], 1)


def silent(pretext, channels):
    """A network that always answers zero, with as many outputs as the pretext asks for."""
    return Answer(lambda x: x.new_zeros(len(x), pretext.outputs(channels), *x.shape[2:]))


@pytest.mark.parametrize("pretext", RESTORING.values(), ids=RESTORING)
def test_a_useless_network_scores_about_one(clean, pretext):
    shown = pretext.solve(SILENT, clean)
    assert float(shown.loss) == pytest.approx(1, abs=0.05)
    assert shown.seen.shape == shown.predicted.shape == shown.truth.shape == clean.shape


@pytest.mark.parametrize("pretext", PRETEXTS.values(), ids=PRETEXTS)
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
@pytest.mark.parametrize("pretext", PRETEXTS.values(), ids=PRETEXTS)
def test_any_patch_is_taken(pretext, size):
    clean = with_features(pretext, torch.randn(1, 1, *size))
    assert pretext.solve(silent(pretext, 1), clean).loss.isfinite()


def test_mae_with_nothing_hidden_is_zero_and_not_nan():
    assert Mae(masked=0.0).solve(SILENT, torch.randn(1, 1, 8, 8, 8)).loss == 0


def unet(stages: int, residual: bool) -> nn.Module:
    kind = ResidualEncoderUNet if residual else PlainConvUNet
    blocks = {"n_blocks_per_stage": 1} if residual else {"n_conv_per_stage": 1}
    strides = [1] + [2] * (stages - 1)
    return kind(
        1, stages, [4] * stages, nn.Conv3d, 3, strides, **blocks, num_classes=1, n_conv_per_stage_decoder=1,
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
    )  # fmt: skip


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_sparse_encoding_knows_nothing_of_what_is_hidden_and_of_how_much(residual):
    torch.manual_seed(0)
    network = unet(3, residual)
    volume, masked = torch.randn(2, 1, 16, 16, 16), torch.zeros(2, 1, 16, 16, 16)
    masked[..., 8:] = 1
    with sparse(network, masked):
        skips = network.encoder(volume * (1 - masked))
    alone = network.encoder(volume[..., :8])
    for skip, small in zip(skips, alone, strict=True):
        visible, hidden = skip.chunk(2, dim=-1)
        torch.testing.assert_close(visible, small, atol=1e-4, rtol=1e-4)
        token = visible.mean((2, 3, 4), keepdim=True).expand_as(hidden)
        torch.testing.assert_close(hidden, token, atol=1e-4, rtol=1e-4)
    assert not any(module._forward_hooks for module in network.modules())


def test_sparse_mae_trains_all_of_the_network():
    torch.manual_seed(0)
    network = unet(3, residual=False)
    Mae(sparse=True).solve(network, torch.randn(2, 1, 16, 16, 16)).loss.backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert all("seg_layers" in name for name in without), "deep supervision's other heads"


def test_finer_mae_hides_smaller_blocks(clean):
    def changes(pretext):
        hidden = (pretext.solve(SILENT, clean).seen == 0).float()
        return float((hidden.diff(dim=4) != 0).float().mean())

    assert changes(Mae(blocks=8)) > 1.5 * changes(Mae())


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


@pytest.mark.parametrize("pretext", PRETEXTS.values(), ids=PRETEXTS)
def test_gradients_reach_the_network(clean, pretext):
    network = nn.Conv3d(2, pretext.outputs(2), 3, padding=1)
    pretext.solve(network, with_features(pretext, clean)).loss.backward()
    assert network.weight.grad.abs().max() > 0


def test_fusion_mixes_just_as_much_as_it_asks_for(clean):
    pretext = Fusion()
    torch.manual_seed(2)
    shown = pretext.solve(silent(pretext, 2), clean)
    mixed = clean * (1 - shown.truth) + clean.roll(1, 0) * shown.truth
    assert torch.equal(shown.seen, mixed)
    assert set(shown.truth.unique().tolist()) == {0, 0.25, 0.5, 0.75, 1}
    assert 0.2 < float((shown.truth > 0).float().mean()) < 0.95


def test_fusion_network_that_knows_the_shares_has_no_loss(clean):
    pretext = Fusion()
    torch.manual_seed(2)
    level = (pretext.solve(silent(pretext, 2), clean).truth[:, 0] * pretext.levels).long()
    torch.manual_seed(2)
    knows = Answer(lambda x: nn.functional.one_hot(level, 5).movedim(-1, 1) * 100.0)
    assert float(pretext.solve(knows, clean).loss) < 1e-3


def test_varied_volumes_are_normalised_and_keep_their_edges():
    torch.manual_seed(0)
    volume = torch.zeros(64, 1, 16, 16, 16)
    volume[..., 8:] = 1
    varied = vary(volume - 0.5)
    assert varied.mean((1, 2, 3, 4)).abs().max() < 1e-4
    told = [float((v[..., 8:].mean() - v[..., :8].mean()).abs()) for v in varied]
    assert sum(t > 0.5 for t in told) > 48, "one half still differs from the other"
    assert any(v[..., 8:].mean() < v[..., :8].mean() for v in varied), "contrast is inverted at times"


def test_reversal_asks_for_the_scan_itself(clean):
    shown = Reverse().solve(SILENT, clean)
    assert torch.equal(shown.truth, clean)
    assert not torch.equal(shown.seen, clean)


def test_varied_pretext_asks_for_the_varied_volume(clean):
    torch.manual_seed(4)
    varied = vary(clean)
    torch.manual_seed(4)
    assert torch.equal(Varied(Mae()).solve(SILENT, clean).truth, varied)


def test_distillation_network_that_knows_the_features_has_no_loss(clean):
    pretext = Distil()
    taught = with_features(pretext, clean)
    assert float(pretext.solve(Answer(lambda x: taught[:, 2 : 2 + FEATURES]), taught).loss) == 0
    assert float(pretext.solve(silent(pretext, 2), taught).loss) == pytest.approx(1, abs=0.05)


def test_network_that_knows_the_clusters_has_no_loss(clean):
    pretext = Clusters()
    taught = with_features(pretext, clean)
    member = nn.functional.one_hot(taught[:, -CLUSTERS:].argmax(1), CLUSTERS).movedim(-1, 1)
    taught[:, -CLUSTERS:] = member
    assert float(pretext.solve(Answer(lambda x: member * 100.0), taught).loss) < 1e-3


def test_contrast_wants_each_place_to_be_known_again():
    clean = torch.randn(2, 1, 8, 8, 8)
    pretext = Contrast(places=64)
    torch.manual_seed(0)
    place = nn.functional.normalize(torch.randn(2, 16, 8, 8, 8), dim=1)
    knows, blind = Answer(lambda x: place), Answer(lambda x: torch.ones(2, 16, 8, 8, 8))
    assert float(pretext.solve(knows, clean).loss) < 0.3
    assert float(pretext.solve(blind, clean).loss) == pytest.approx(1, abs=1e-4)
