"""Families of networks: built as nnU-Net builds them, their parts told apart, their weights carried over or refused."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.primus import primus_trainers
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned import unet, write_plans

from diffaug.budgets import BUDGETS
from diffaug.nnunet.budget_configurations import add_budget_configuration
from diffaug.nnunet.families import NETWORKS, PLAN, network_of, trained_network, trainer_name
from diffaug.nnunet.networks import build_network
from diffaug.nnunet.weights.format import read_encoder, save_encoder
from diffaug.nnunet.weights.transfer import load_encoder, resampled
from diffaug.pretraining.pretexts import pretext_for

DATASET = "Dataset905_Planned"

BROUGHT = [name for name in NETWORKS if name != PLAN]
PRIMUS = [name for name in BROUGHT if name.startswith("Primus")]
HEART = (10, 224, 256)  # a patch of nnU-Net's for scans of ten slices


def small(folder, network, patch=(48, 160, 192)):
    file = write_plans(folder / DATASET, patch=patch, stages=5)
    name = add_budget_configuration(file, budget="cpu-small", network=network)
    return PlansManager(str(file)).get_configuration(name)


def save(file, module, configuration, network):
    save_encoder(file, module, name="3d", configuration=configuration, provenance={}, kind=network)
    return read_encoder(file)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("patch", [(48, 160, 192), HEART, (32, 32, 32)], ids=str)
def test_small_configuration_has_a_patch_that_the_network_takes(tmp_path, network, patch):
    configuration = small(tmp_path, network, patch if network != PLAN or patch != HEART else (16, 224, 256))
    assert configuration.configuration["diffaug"]["epochs"] == BUDGETS["cpu-small"].nnunet["epochs"]
    assert math.prod(configuration.patch_size) <= 2**16
    planned = network_of(configuration.configuration, network)
    module = planned.build(1, 2)
    output = module(torch.randn(1, 1, *configuration.patch_size))
    assert list(output.shape) == [1, 2, *configuration.patch_size]
    output.mean().backward()


@pytest.mark.parametrize("network", BROUGHT)
@pytest.mark.parametrize("patch", [(48, 160, 192), (40, 224, 256), (28, 252, 320), HEART, (12, 20, 28)], ids=str)
def test_gpu_configuration_has_the_nearest_patch_that_the_network_takes(tmp_path, network, patch):
    file = write_plans(tmp_path / DATASET, patch=patch, stages=3)
    name = add_budget_configuration(file, budget="gpu-24g", network=network)
    assert name == f"3d_gpu_24g_{network}"
    configuration = PlansManager(str(file)).get_configuration(name).configuration
    planned = network_of(configuration, network)  # refuses what it does not take
    step = planned.family.step(planned.kwargs)
    for edge, wanted, each in zip(configuration["patch_size"], patch, step, strict=True):
        assert abs(edge - wanted) <= each / 2 or edge <= 2 * each


@pytest.mark.parametrize("network", BROUGHT)
def test_patches_that_a_network_cannot_take_are_refused_with_the_command(tmp_path, network, refusal):
    configuration = {"patch_size": [10, 20, 28], "architecture": {}}
    told = refusal(network_of, configuration, network)
    assert (
        f"10 x 20 x 28: found with network {network}" in told
        and f"diffaug plan --task <dataset> --network {network}" in told
    )
    assert "patch size 64 x 64: found" in refusal(network_of, {"patch_size": [64, 64]}, network)


def test_swin_unetr_needs_more_than_one_voxel_in_its_deepest_layer(refusal):
    told = refusal(network_of, {"patch_size": [32, 32, 32]}, "SwinUNETR")
    assert "32 x 32 x 32: found" in told and "and more than one of them" in told
    network_of({"patch_size": [32, 32, 64]}, "SwinUNETR")


def test_the_plans_own_network_takes_what_it_pools_and_no_arguments(refusal):
    configuration = {"patch_size": [8, 10, 8], "architecture": unet()}
    told = refusal(network_of, configuration, PLAN)
    assert "8 x 10 x 8: found with network plan, expected multiples of 4 x 4 x 4" in told
    configuration = {"patch_size": [8, 8, 8], "architecture": unet(), "diffaug": {"architecture": {"embed_dim": 96}}}
    assert "--network" in refusal(network_of, configuration, PLAN)


@pytest.mark.parametrize(
    ("network", "changed", "told"),
    [
        ("PrimusS", [], "architecture is []"),
        ("PrimusS", {"patch_embed_size": 8}, "a value like [8, 8, 8]"),
        ("PrimusS", {"patch_embed_size": [4, 4, 0]}, "a value like [8, 8, 8]"),
        ("PrimusS", {"embed_dim": "96"}, "embed_dim is '96'"),
        ("PrimusS", {"embed_dim": 100}, "cannot be built"),
        ("PrimusV3S", {"patch_embed_size": [4, 4, 4]}, "tokens of 8 voxels"),
        ("SwinUNETR", {"feature_size": 10}, "cannot be built"),
        ("SwinUNETR", {"window_size": "a"}, "a value like 7"),
        ("SwinUNETR", {"depths": [2, 2, 2]}, "cannot be built"),
    ],
)
def test_arguments_that_make_no_network_end_in_one_line(network, changed, told, refusal):
    configuration = {"patch_size": [32, 32, 64], "diffaug": {"architecture": changed}}
    assert told in refusal(lambda: network_of(configuration, network).build(1, 2))


def test_unknown_networks_and_arguments_are_named(refusal):
    assert "PrimusS, PrimusB" in refusal(network_of, {"patch_size": [8, 8, 8]}, "Primus")
    configuration = {"patch_size": [8, 8, 8], "diffaug": {"architecture": {"embedding": 3}}}
    assert "architecture has embedding, expected of PrimusS some of" in refusal(network_of, configuration, "PrimusS")


@pytest.mark.parametrize("network", PRIMUS)
def test_primus_is_the_one_that_nnunets_own_trainer_builds(network):
    stock = getattr(primus_trainers, NETWORKS[network].stock)
    patch = {"patch_size": [16, 16, 16]}
    theirs = stock.build_network_architecture(None, SimpleNamespace(**patch), 1, 3)
    ours = network_of(patch, network).build(1, 3)
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(ours.eval()(image), theirs.eval()(image))


@pytest.mark.parametrize("network", NETWORKS)
def test_every_tensor_has_a_part_and_a_head_is_left_random(tmp_path, network):
    configuration = small(tmp_path, network).configuration
    planned = network_of(configuration, network)
    pretrained, downstream = planned.build(1, 1), planned.build(1, 3)
    parts = {planned.family.part(name) for name in downstream.state_dict()}
    assert {"encoder", "head"} <= parts
    encoder = save(tmp_path / "encoder.pt", pretrained, configuration, network)
    before = {name: tensor.clone() for name, tensor in downstream.state_dict().items()}
    report = load_encoder(downstream, encoder, configuration=configuration, kind=network)
    for name, tensor in downstream.state_dict().items():
        source = before if planned.family.part(name) in ("head", "unused") else pretrained.state_dict()
        assert torch.equal(tensor, source[name]), name
    assert report.loaded > 0.8 * report.total and report.left_random


@pytest.mark.parametrize("network", NETWORKS)
def test_equal_channels_respond_as_the_one_that_was_pretrained(tmp_path, network):
    configuration = small(tmp_path, network).configuration
    planned = network_of(configuration, network)
    encoder = save(tmp_path / "encoder.pt", planned.build(1, 1), configuration, network)
    one, three = planned.build(1, 2).eval(), planned.build(3, 2).eval()
    for module in (one, three):
        load_encoder(module, encoder, configuration=configuration, kind=network)
    head = {name: t for name, t in one.state_dict().items() if planned.family.part(name) == "head"}
    three.load_state_dict(head, strict=False)
    image = torch.randn(1, 1, *configuration["patch_size"])
    with torch.no_grad():
        assert torch.allclose(one(image), three(image.expand(-1, 3, -1, -1, -1)), atol=1e-4)


@pytest.mark.parametrize("network", PRIMUS[-2:])
def test_position_embedding_of_another_patch_is_resampled(tmp_path, network):
    configuration = small(tmp_path, network).configuration
    pretrained = network_of(configuration, network).build(1, 1)
    encoder = save(tmp_path / "encoder.pt", pretrained, configuration, network)
    other = {**configuration, "patch_size": [2 * edge for edge in configuration["patch_size"]]}
    module = network_of(other, network).build(1, 2)
    report = load_encoder(module, encoder, configuration=other, kind=network)
    assert report.positions_resampled and "resampled" in str(report)
    assert module.eva.pos_embed.shape[1] == 8 * pretrained.eva.pos_embed.shape[1]


def test_positions_of_another_grid_with_as_many_tokens_are_resampled_too(tmp_path):
    flat, long = ({"patch_size": patch, "spacing": [1.0, 1.0, 1.0]} for patch in ([8, 16, 16], [16, 16, 8]))
    pretrained = network_of(flat, "PrimusS").build(1, 1)
    encoder = save(tmp_path / "encoder.pt", pretrained, flat, "PrimusS")
    module = network_of(long, "PrimusS").build(1, 1)
    assert load_encoder(module, encoder, configuration=long, kind="PrimusS").positions_resampled
    assert not torch.equal(module.eva.pos_embed, pretrained.eva.pos_embed)


def test_resampled_positions_stay_where_they_were(refusal):
    z, y, x = torch.meshgrid(*(torch.linspace(0.5 / n, 1 - 0.5 / n, n) for n in (4, 6, 8)), indexing="ij")
    embedding = torch.stack([z, y, x], -1).flatten(0, 2)[None]
    finer = resampled(embedding, (4, 6, 8), (8, 12, 16)).unflatten(1, (8, 12, 16))[0, 1:-1, 1:-1, 1:-1]
    z, y, x = torch.meshgrid(*(torch.linspace(0.5 / n, 1 - 0.5 / n, n)[1:-1] for n in (8, 12, 16)), indexing="ij")
    assert torch.allclose(finer, torch.stack([z, y, x], -1), atol=1e-6)
    with pytest.raises(ValueError, match="no embedding of 10 tokens"):
        resampled(embedding, (1, 2, 5), (2, 2, 2))


@pytest.mark.parametrize(("network", "key", "value"), [("PrimusS", "eva_depth", 5), ("SwinUNETR", "window_size", 8)])
def test_another_size_is_named_before_anything_is_loaded(tmp_path, network, key, value, refusal):
    configuration = small(tmp_path, network).configuration
    planned = network_of(configuration, network)
    encoder = save(tmp_path / "encoder.pt", planned.build(1, 1), configuration, network)
    other = json.loads(json.dumps(configuration))
    other["diffaug"]["architecture"][key] = value
    told = refusal(load_encoder, planned.build(1, 1), encoder, configuration=other, kind=network)
    assert f"{key} is {planned.kwargs[key]} in the file, expected the plan's {value}" in told


def test_weights_of_another_family_are_refused(tmp_path, refusal):
    configuration = small(tmp_path, "PrimusS").configuration
    planned = network_of(configuration, "PrimusS")
    encoder = save(tmp_path / "encoder.pt", planned.build(1, 1), configuration, "PrimusS")
    told = refusal(load_encoder, planned.build(1, 1), encoder, configuration=configuration, kind="PrimusV3S")
    assert "network class is Primus in the file, expected the plan's PrimusV3" in told


def test_nnssls_primus_is_known_by_its_name(tmp_path):
    """nnssl pretrains at 160 voxels per axis and writes the network's name alone."""
    configuration = {"patch_size": [16, 16, 16], "spacing": [1.0, 1.0, 1.0]}
    planned = network_of(configuration, "PrimusS")
    pretrained = network_of({"patch_size": [24, 16, 16]}, "PrimusS").build(1, 1)
    content = {
        "network_weights": {f"encoder.{name}": tensor for name, tensor in pretrained.state_dict().items()},
        "nnssl_adaptation_plan": {
            "architecture_plans": {"arch_class_name": "PrimusS", "arch_kwargs": None},
            "pretrain_plan": {"configurations": {"onemmiso": {"patch_size": (24, 16, 16)}}},
            "recommended_downstream_patchsize": (160, 160, 160),
            "key_to_encoder": "encoder.eva",
            "key_to_stem": "encoder.down_projection",
        },
    }
    torch.save(content, tmp_path / "nnssl.pt")
    module = planned.build(1, 2)
    how = {"configuration": configuration, "parts": "encoder", "kind": "PrimusS"}
    report = load_encoder(module, read_encoder(tmp_path / "nnssl.pt"), **how)
    assert report.positions_resampled
    assert torch.equal(module.eva.blocks[3].mlp.fc2.weight, pretrained.eva.blocks[3].mlp.fc2.weight)


def test_positions_of_no_known_patch_are_refused(tmp_path, refusal):
    configuration = {"patch_size": [16, 16, 16], "spacing": [1.0, 1.0, 1.0]}
    planned = network_of(configuration, "PrimusS")
    encoder = save(tmp_path / "encoder.pt", planned.build(1, 1), configuration, "PrimusS")
    encoder.weights["eva.pos_embed"] = torch.zeros(1, 7, 396)
    how = {"configuration": configuration, "kind": "PrimusS"}
    assert "has 7 tokens" in refusal(load_encoder, planned.build(1, 1), encoder, **how)


def test_trainers_are_named_after_their_network():
    assert trainer_name(PLAN, scratch=True) == "nnUNetTrainerDiffAugScratch"
    for network in NETWORKS:
        for scratch in (False, True):
            assert trained_network(trainer_name(network, scratch=scratch)) == network
    assert trained_network("nnUNetTrainer") == PLAN
    assert trained_network("nnUNet_Primus_M_Trainer") == "PrimusM"


@pytest.mark.parametrize("network", PRIMUS[-2:])
def test_masks_hide_whole_tokens(tmp_path, network):
    configuration = small(tmp_path, network)
    planned = network_of(configuration.configuration, network)
    pretext, token = pretext_for("mae", planned, 1), planned.family.token(planned.kwargs)
    clean = torch.randn(2, 1, *configuration.patch_size)
    seen = pretext.solve(build_network(configuration, 1, 1, network=network), clean).seen
    hidden = (seen == 0).float()
    share = torch.nn.functional.avg_pool3d(hidden, token)
    assert set(share.unique().tolist()) == {0.0, 1.0}
