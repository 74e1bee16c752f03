"""The encoder file: what is written is read back, and what does not fit is refused in one line."""

import copy

import numpy as np
import planned as planned_by_nnunet
import pytest
import torch
from dynamic_network_architectures.architectures.abstract_arch import test_submodules_loadable as assert_keys_hold
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from diffaug.errors import DiffaugError
from diffaug.nnunet.weights.format import encoder_path, overlap, read_encoder, save_encoder
from diffaug.nnunet.weights.transfer import load_encoder
from diffaug.workspace import Workspace

UNETS = planned_by_nnunet.PER_STAGE


def planned(unet="ResidualEncoderUNet", **arch_kwargs) -> dict:
    anisotropic = {
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        UNETS[unet]: [1, 2, 2],
    }
    architecture = planned_by_nnunet.unet(unet, **(anisotropic | arch_kwargs))
    return {"spacing": [3.0, 1.0, 1.0], "patch_size": [8, 16, 16], "architecture": architecture}


def build(configuration, channels=1, classes=2):
    return get_network_from_plans(*configuration["architecture"].values(), channels, classes, deep_supervision=True)


def save(path, network, configuration, **provenance):
    save_encoder(path, network, name="3d_fullres", configuration=configuration, provenance=provenance)


def load(network, path, configuration, parts="encoder+decoder"):
    return load_encoder(network, read_encoder(path), configuration=configuration, parts=parts)


def assert_same(network, other, prefix):
    ours, theirs = network.state_dict(), other.state_dict()
    for name in ours:
        if name.startswith(prefix):
            assert torch.equal(ours[name], theirs[name]), name


def refusal(action, *arguments, **keywords) -> str:
    with pytest.raises(DiffaugError) as caught:
        action(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def file(tmp_path):
    return tmp_path / "encoder" / "encoder.pt"


@pytest.fixture(params=UNETS)
def unet(request):
    return request.param


def test_saved_weights_and_provenance_come_back(file, unet):
    configuration = planned(unet)
    pretrained = build(configuration, classes=1)
    save(file, pretrained, configuration, case_ids=["a", "b"], steps=10)
    encoder = read_encoder(file)
    assert encoder.provenance == {"case_ids": ["a", "b"], "steps": 10}
    assert encoder.summary() == "case_ids 2, steps 10"
    network = build(configuration)
    report = load_encoder(network, encoder, configuration=configuration)
    assert_same(network, pretrained, "encoder.")
    assert_same(network, pretrained, "decoder.encoder.")
    assert_same(network, pretrained, "decoder.stages.")
    assert_same(network, pretrained, "decoder.transpconvs.")
    assert report.left_random == ("decoder.seg_layers",)
    assert report.total == sum(1 for _ in network.parameters())
    assert report.loaded == report.total - 4  # weight and bias of two output layers
    assert not report.channels_repeated


def test_encoder_part_leaves_the_decoder_as_it_was(file, unet):
    configuration = planned(unet)
    save(file, build(configuration), configuration)
    network = build(configuration)
    before = copy.deepcopy(network)
    report = load(network, file, configuration, parts="encoder")
    assert_same(network, before, "decoder.stages.")
    assert report.loaded == sum(1 for _ in network.encoder.parameters())
    assert set(report.left_random) == {"decoder.stages", "decoder.transpconvs", "decoder.seg_layers"}


def test_format_is_the_one_nnssls_readers_expect(file, unet):
    configuration = planned(unet)
    network = build(configuration, channels=2)
    save(file, network, configuration)
    content = torch.load(file, weights_only=True)
    assert set(content) == {"network_weights", "nnssl_adaptation_plan", "citations", "diffaug"}
    encoder_names = {f"encoder.{name}" for name in network.encoder.state_dict()}
    assert {name for name in content["network_weights"] if name.startswith("encoder.")} == encoder_names
    assert not [n for n in content["network_weights"] if n.startswith(("decoder.encoder.", "decoder.seg_layers."))]
    plan = content["nnssl_adaptation_plan"]
    assert plan["pretrain_num_input_channels"] == 2
    assert plan["pretrain_plan"]["configurations"]["3d_fullres"]["patch_size"] == [8, 16, 16]
    for key in ("key_to_encoder", "key_to_stem"):
        module = network.get_submodule(plan[key])
        prefix = f"{plan[key]}."
        weights = content["network_weights"]
        module.load_state_dict({n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)})
    rebuilt = plan["architecture_plans"]
    get_network_from_plans(
        rebuilt["arch_class_name"], rebuilt["arch_kwargs"], rebuilt["arch_kwargs_requiring_import"], 2, 2
    )
    assert_keys_hold(network)


def test_aliases_are_stored_once(file):
    configuration = planned(features_per_stage=[32, 32, 32])
    network = build(configuration)
    save(file, network, configuration)
    weights = sum(parameter.nbytes for parameter in network.parameters())
    assert file.stat().st_size < 1.2 * weights


def test_compiled_and_wrapped_networks_save_and_load(file):
    configuration = planned()
    pretrained, network = build(configuration), build(configuration)
    save(file, torch.nn.DataParallel(torch.compile(pretrained)), configuration)
    load(torch.compile(network), file, configuration)
    assert_same(network, pretrained, "encoder.")


def test_one_channel_is_repeated_so_that_equal_channels_respond_alike(file, unet):
    configuration = planned(unet)
    pretrained, network = build(configuration), build(configuration, channels=3)
    save(file, pretrained, configuration)
    assert load(network, file, configuration).channels_repeated
    image = torch.randn(1, 1, 8, 16, 16)
    for ours, theirs in zip(network.encoder(image.repeat(1, 3, 1, 1, 1)), pretrained.encoder(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_other_channel_counts_are_refused(file):
    configuration = planned()
    save(file, build(configuration, channels=2), configuration)
    message = refusal(load, build(configuration, channels=3), file, configuration)
    assert "2 input channels" in message
    assert "3 or 1" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("strides", [[1, 1, 1], [2, 2, 2], [2, 2, 2]]),
        ("features_per_stage", [4, 8, 8]),
        ("kernel_sizes", 3),
        ("n_blocks_per_stage", [1, 1, 1]),
        ("conv_bias", False),
        ("norm_op", "torch.nn.modules.batchnorm.BatchNorm3d"),
        ("n_conv_per_stage_decoder", [2, 2]),
    ],
)
def test_another_architecture_is_named_before_anything_is_loaded(file, key, value):
    other = planned(**{key: value})
    save(file, build(other), other)
    configuration = planned()
    network = build(configuration)
    before = copy.deepcopy(network)
    message = refusal(load, network, file, configuration)
    assert f"{file}: {key} is " in message
    assert str(configuration["architecture"]["arch_kwargs"][key]).rpartition(".")[2] in message
    assert_same(network, before, "")


def test_another_decoder_does_not_matter_to_the_encoder(file):
    other = planned(n_conv_per_stage_decoder=[2, 2])
    save(file, build(other), other)
    load(build(planned()), file, planned(), parts="encoder")


def test_another_network_class_is_refused(file):
    other = planned("PlainConvUNet")
    save(file, build(other), other)
    message = refusal(load, build(planned()), file, planned())
    assert "network class is PlainConvUNet in the file, expected the plan's ResidualEncoderUNet" in message


def test_spelling_of_an_architecture_does_not_matter(file):
    written = planned(features_per_stage=4, strides=2, kernel_sizes=3, norm_op="torch.nn.InstanceNorm3d")
    save(file, build(written), written)
    read = planned(features_per_stage=(4, 4, 4), strides=[[2, 2, 2]] * 3, kernel_sizes=[[3, 3, 3]] * 3)
    load(build(read), file, read)


def nnssl_file(path, network, architecture_plans, prefix="encoder", without="") -> None:
    """Write a network as nnssl does: whole, with training state, its names after the pretext."""
    weights = {
        name.replace("encoder.", f"{prefix}.", 1) if name.startswith("encoder.") else name: tensor
        for name, tensor in network.state_dict().items()
        if without not in name.split(".")
    }
    content = {
        "network_weights": weights,
        "current_epoch": 3,
        "nnssl_adaptation_plan": {
            "architecture_plans": architecture_plans,
            "pretrain_plan": {"configurations": {"onemmiso": {"patch_size": (160, 160, 160)}}},
            "pretrain_num_input_channels": 1,
            "key_to_encoder": f"{prefix}.stages",
            "key_to_stem": f"{prefix}.stem",
            "keys_to_in_proj": (f"{prefix}.stem.convs.0.conv",),
        },
    }
    path.parent.mkdir(parents=True)
    torch.save(content, path)


def test_nnssls_res_enc_l_is_known_by_its_name(file):
    configuration = planned(
        n_stages=6,
        features_per_stage=[32, 64, 128, 256, 320, 320],
        kernel_sizes=[[3, 3, 3]] * 6,
        strides=[[1, 1, 1]] + [[2, 2, 2]] * 5,
        n_blocks_per_stage=[1, 3, 4, 6, 6, 6],
        n_conv_per_stage_decoder=[1] * 5,
    )
    configuration["patch_size"] = [32, 32, 32]
    network = get_network_from_plans(*configuration["architecture"].values(), 1, 1, allow_init=False)
    nnssl_file(file, network, {"arch_class_name": "ResEncL", "arch_kwargs": None})
    pretrained = network.encoder.stages[5].blocks[0].conv1.conv.weight.detach().clone()
    torch.nn.init.zeros_(network.encoder.stages[5].blocks[0].conv1.conv.weight)
    load(network, file, configuration)
    assert torch.equal(network.encoder.stages[5].blocks[0].conv1.conv.weight, pretrained)


@pytest.mark.parametrize("without", ["conv", "all_modules"])
@pytest.mark.parametrize("prefix", ["encoder", "online_encoder"])
def test_nnssls_names_are_translated(file, prefix, without):
    configuration = planned()
    architecture = configuration["architecture"]
    pretrained, network = build(configuration), build(configuration, channels=2)
    plans = {"arch_class_name": architecture["network_class_name"], "arch_kwargs": architecture["arch_kwargs"]}
    nnssl_file(file, pretrained, plans, prefix, without)
    assert load(network, file, configuration).channels_repeated
    assert_same(network, pretrained, "encoder.stages.")
    assert read_encoder(file).provenance == {}
    assert "unknown" in read_encoder(file).summary()


@pytest.mark.parametrize("kwargs", [None, {}, {"embed_dim": 864}])
def test_nnssls_transformer_is_refused(file, kwargs):
    nnssl_file(file, build(planned()), {"arch_class_name": "PrimusM", "arch_kwargs": kwargs})
    assert "network class is PrimusM" in refusal(load, build(planned()), file, planned())


def test_missing_and_unknown_tensors_are_named(file):
    configuration = planned()
    save(file, build(configuration), configuration)
    content = torch.load(file, weights_only=True)
    weights = content["network_weights"]
    content["network_weights"] = {n: w for n, w in weights.items() if not n.startswith("decoder.")}
    torch.save(content, file)
    assert '"load": "encoder"' in refusal(load, build(configuration), file, configuration)
    content["network_weights"] = weights | {"encoder.stages.9.weight": torch.zeros(1)}
    torch.save(content, file)
    assert "encoder.stages.9.weight" in refusal(load, build(configuration), file, configuration)


def test_diverged_weights_are_refused(file):
    configuration = planned()
    pretrained = build(configuration)
    next(pretrained.parameters()).data.fill_(float("nan"))
    save(file, pretrained, configuration)
    assert "NaN" in refusal(load, build(configuration), file, configuration)


def test_missing_file_names_the_command(file):
    message = refusal(read_encoder, file)
    assert str(file) in message
    assert "diffaug pretrain --task" in message


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_truncated_or_foreign_bytes_are_refused(file, content):
    configuration = planned()
    save(file, build(configuration), configuration)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert f"{file}: cannot be read" in refusal(read_encoder, file)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], {"network_weights": {}, "nnssl_adaptation_plan": {}}])
def test_checkpoints_of_others_are_refused(file, content):
    file.parent.mkdir()
    torch.save(content, file)
    assert "not an encoder file" in refusal(read_encoder, file)


def test_values_that_need_unsafe_loading_fail_when_saved_and_keep_the_old_file(file):
    configuration = planned()
    save(file, build(configuration), configuration, steps=1)
    with pytest.raises(Exception, match="numpy"):
        save(file, build(configuration), configuration, steps=np.int64(2))
    assert read_encoder(file).provenance == {"steps": 1}
    assert list(file.parent.iterdir()) == [file]


def test_overlap_finds_seen_cases():
    assert overlap({"case_ids": ["a", "b", "c"]}, ["c", "d", "a"]) == ["a", "c"]
    assert overlap({}, ["a"]) == []
    other_scan = ["P00002V1", "P00003V1"]
    assert overlap({"case_ids": ["P00003V2", "a"]}, other_scan) == ["P00003V1"], "of the same patient"


def test_encoder_path_lies_in_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    workspace = Workspace("Dataset004_Breast", "nnUNetPlans", "3d_cpu_small")
    path = encoder_path(tmp_path, "Dataset004_Breast", "nnUNetPlans", "3d_cpu_small")
    assert path == workspace.encoder / "encoder.pt"


def test_a_file_of_a_newer_format_is_refused(file, unet, refusal):
    configuration = planned(unet)
    save(file, build(configuration), configuration)
    content = torch.load(file, weights_only=True)
    assert content["diffaug"]["format"] == 1
    content["diffaug"]["format"] = 2
    torch.save(content, file)
    assert "upgrade" in refusal(read_encoder, file)
