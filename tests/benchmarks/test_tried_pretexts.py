"""Pretexts that were tried: what is hidden, what is asked, and what an ideal and a useless network score."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from planned import SILENT, Answer, silent, with_features
from planned import unet as planned_unet
from torch import nn

from benchmarks.tried.pretexts import TRIED, Contrast, Distil, Fusion, Reverse, SparseMae, Varied
from benchmarks.tried.pretexts.restoring import sparse
from diffaug.nnunet.families import network_of
from diffaug.pretraining.pretexts import PRETEXTS, pretext_for
from diffaug.pretraining.pretexts.appearance import vary
from diffaug.pretraining.pretexts.mae import Mae
from diffaug.pretraining.teacher import FEATURES


@pytest.fixture
def clean():
    torch.manual_seed(0)
    return torch.randn(8, 2, 24, 32, 40)


def test_they_stand_beside_diffaugs_own_once_imported():
    assert PRETEXTS.keys() == {"denoise", "mae", "anatomy", "clusters"} | TRIED.keys()


def test_a_transformer_has_no_convolutions_to_make_sparse(refusal):
    assert "--pretext mae-sparse" in refusal(
        pretext_for, "mae-sparse", network_of({"patch_size": [8, 8, 8]}, "PrimusS"), 1
    )
    plain = network_of({"patch_size": [8, 8, 8], "architecture": planned_unet()})
    assert pretext_for("mae-sparse", plain, 1) == SparseMae()


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
    SparseMae().solve(network, torch.randn(2, 1, 16, 16, 16)).loss.backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert all("seg_layers" in name for name in without), "deep supervision's other heads"


def test_finer_mae_hides_smaller_blocks(clean):
    def changes(pretext):
        hidden = (pretext.solve(SILENT, clean).seen == 0).float()
        return float((hidden.diff(dim=4) != 0).float().mean())

    assert changes(Mae(blocks=8)) > 1.5 * changes(Mae())


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


def test_contrast_wants_each_place_to_be_known_again():
    clean = torch.randn(2, 1, 8, 8, 8)
    pretext = Contrast(places=64)
    torch.manual_seed(0)
    place = nn.functional.normalize(torch.randn(2, 16, 8, 8, 8), dim=1)
    knows, blind = Answer(lambda x: place), Answer(lambda x: torch.ones(2, 16, 8, 8, 8))
    assert float(pretext.solve(knows, clean).loss) < 0.3
    assert float(pretext.solve(blind, clean).loss) == pytest.approx(1, abs=1e-4)
