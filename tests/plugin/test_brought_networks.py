"""Networks that a trainer brings along go the whole road: planned, pretrained, trained, resumed, predicted, shared."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

import nnunet_plugin.trainers
from diffaug.budgets import BUDGETS, Training
from diffaug.cli import main
from diffaug.errors import DiffaugError
from diffaug.nnunet.families import NETWORKS, PLAN, network_of, trainer_name
from diffaug.nnunet.plans import read_plans
from diffaug.nnunet.weights.format import read_encoder, save_encoder
from diffaug.nnunet.weights.transfer import load_encoder
from diffaug.pretraining.sharing import export_encoder, share_model
from diffaug.workspace import Workspace

BROUGHT = [name for name in NETWORKS if name != PLAN]
FAMILIES = ("PrimusS", "PrimusV3S", "SwinUNETR")  # one of each kind: on a CPU, sizes differ in name alone


def start(workspace, *, scratch=False, continue_training=False):
    name = trainer_name(workspace.network, scratch=scratch)
    device = torch.device("cpu")
    arguments = (workspace.dataset, workspace.configuration, 0, name, workspace.plans, continue_training, device)
    return get_trainer_from_args(*arguments)


@pytest.fixture
def small(nnunet, monkeypatch):
    """A task whose plans have the small configuration of a network, shortened."""

    def make(network):
        monkeypatch.setitem(
            BUDGETS,
            "cpu-small",
            replace(BUDGETS["cpu-small"], pretraining=Training(steps=2, batch_size=1, learning_rate=1e-3)),
        )
        assert main(["plan", "--task", nnunet.dataset, "--budget", "cpu-small", "--network", network]) == 0
        name = f"3d_cpu_small_{network}"
        nnunet.settings(name, keep=True)
        return Workspace(nnunet.dataset, configuration=name, network=network)

    return make


def predicted(folder):
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    image = torch.randn(1, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    return predictor.predict_logits_from_preprocessed_data(image)


@pytest.mark.parametrize("network", FAMILIES)
def test_the_whole_road(small, network, tmp_path, capsys):
    workspace = small(network)
    task = ["--task", workspace.dataset, "--configuration", workspace.configuration, "--network", network]
    assert main(["pretrain", *task, "--images", "real", "--budget", "cpu-small", "--pretext", "mae"]) == 0
    file = workspace.encoder / "encoder.pt"
    assert file.parent.name == f"encoder_{network}"
    family = network_of(read_plans(workspace)[1].configuration, network).family

    trainer = start(workspace)
    trainer.on_train_start()
    pretrained = read_encoder(file).weights
    ours = trainer.network.state_dict()
    assert all(torch.equal(ours[name], pretrained[name]) for name in pretrained)
    assert {family.part(name) for name in ours.keys() - pretrained.keys()} <= {"head", "unused"}

    trainer = start(workspace)
    trainer.run_training()
    assert "left random: " in Path(trainer.log_file).read_text()
    file.rename(tmp_path / "encoder.pt")
    resumed = start(workspace)
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    resumed.run_training()
    assert resumed.current_epoch == 1
    expected = predicted(trainer.output_folder_base)
    assert expected.shape == (2, 20, 20, 20)
    (tmp_path / "encoder.pt").rename(file)

    assert main(["export", *task, "--out", str(tmp_path / "shared.pt")]) == 0
    assert main(["import", *task, "--file", str(tmp_path / "shared.pt"), "--fresh"]) == 0
    again = start(workspace)
    again.on_train_start()
    ours = again.network.state_dict()
    assert all(torch.equal(ours[name], pretrained[name]) for name in pretrained)
    capsys.readouterr()


def test_an_encoder_of_another_network_is_not_taken_for_finished(small, nnunet, capsys):
    workspace = small("PrimusS")
    task = ["--task", workspace.dataset, "--configuration", workspace.configuration, "--network", "PrimusS"]
    line = ["pretrain", *task, "--images", "real", "--budget", "cpu-small"]
    assert main(line) == 0
    nnunet.settings(workspace.configuration, keep=True, architecture={"eva_depth": 3, "patch_embed_size": [4, 4, 4]})
    capsys.readouterr()
    assert main(line) == 2
    assert "eva_depth of the network was 6 and is 3" in capsys.readouterr().err
    told = refused(start(workspace).run_training)
    assert "run diffaug pretrain --fresh" in told
    assert main([*line, "--fresh"]) in (0, 2)


def refused(action):
    with pytest.raises(DiffaugError) as caught:
        action()
    return str(caught.value)


@pytest.mark.parametrize(("network", "name"), [("PrimusS", "PrimusS"), ("SwinUNETR", "SwinUNETR")])
def test_an_exported_transformer_is_named_as_others_name_it_where_they_know_it(nnunet, tmp_path, capsys, network, name):
    nnunet.settings(architecture={} if network == "PrimusS" else {"feature_size": 12, "window_size": 4})
    plans = json.loads(nnunet.plans_file.read_text())
    plans["configurations"][nnunet.configuration]["patch_size"] = [32, 32, 64]
    nnunet.plans_file.write_text(json.dumps(plans))
    workspace = Workspace(nnunet.dataset, configuration=nnunet.configuration, network=network)
    configuration = read_plans(workspace)[1].configuration
    module = network_of(configuration, network).build(1, 1)
    file = workspace.encoder / "encoder.pt"
    save_encoder(file, module, name="3d", configuration=configuration, provenance={}, kind=network)
    export_encoder(workspace, tmp_path / "shared.pt")
    known = "only diffaug reads this file" not in capsys.readouterr().out
    architecture = read_encoder(tmp_path / "shared.pt").adaptation_plan["architecture_plans"]
    assert known == (network == "PrimusS") == (architecture["arch_kwargs"] is None)
    assert architecture["arch_class_name"].endswith(name)
    load_encoder(module, read_encoder(tmp_path / "shared.pt"), configuration=configuration, kind=network)


def test_a_model_of_another_trainers_network_is_not_shared_under_nnunets_name(nnunet, tmp_path, refusal):
    workspace = Workspace(nnunet.dataset, configuration=nnunet.configuration, network="PrimusS")
    trainer = start(workspace, scratch=True)
    trainer.run_training()
    folder = Path(trainer.output_folder_base)
    theirs = folder.rename(
        folder.with_name(folder.name.replace("nnUNetTrainerDiffAugPrimusSScratch", "TrainerOfTheirs"))
    )
    told = refusal(share_model, theirs, tmp_path / "shared")
    assert "TrainerOfTheirs trained another network" in told
    assert not (tmp_path / "shared").exists()


def test_a_configuration_of_another_network_is_refused_without_its_name(small, refusal):
    workspace = small("PrimusS")
    told = refusal(start, replace(workspace, network=PLAN))
    assert "architecture found with the plan's own network" in told


def test_doctor_looks_at_the_network_that_is_named(small, capsys):
    workspace = small("PrimusS")
    line = ["doctor", "--task", workspace.dataset, "--configuration", workspace.configuration]
    main([*line, "--network", "PrimusS"])
    assert "Primus of 0." in capsys.readouterr().out


def test_a_changed_network_is_not_shared_as_nnunets_own(small, tmp_path, refusal):
    workspace = small("PrimusS")
    trainer = start(workspace, scratch=True)
    trainer.run_training()
    told = refusal(share_model, Path(trainer.output_folder_base), tmp_path / "shared")
    assert "nnU-Net has no trainer of this network" in told


def test_an_unchanged_network_predicts_the_same_without_the_plugin(nnunet, tmp_path, monkeypatch):
    workspace = Workspace(nnunet.dataset, configuration=nnunet.configuration, network="PrimusS")
    trainer = start(workspace, scratch=True)
    trainer.run_training()
    shared = share_model(Path(trainer.output_folder_base), tmp_path / "shared")
    assert shared.name.startswith("nnUNet_Primus_S_Trainer__")
    expected = predicted(trainer.output_folder_base)
    monkeypatch.delenv("nnUNet_extTrainer")
    assert torch.equal(predicted(shared), expected)


@pytest.mark.parametrize("network", BROUGHT)
@pytest.mark.parametrize("scratch", [False, True])
def test_nnunet_finds_each_network_and_its_twin(network, scratch, nnunet):
    name = trainer_name(network, scratch=scratch)
    found = recursive_find_trainer_class_by_name(name)
    assert found is getattr(nnunet_plugin.trainers, name)
    assert pickle.loads(pickle.dumps(found)) is found
    assert network in found.__doc__


def test_transformers_train_by_their_own_recipe(small):
    workspace = small("PrimusS")
    twin = start(workspace, scratch=True)
    twin.initialize()
    assert isinstance(twin.optimizer, torch.optim.AdamW)
    assert twin.optimizer.defaults["betas"] == (0.9, 0.98)
    assert twin.optimizer.defaults["weight_decay"] == 0.05
    assert not twin.enable_deep_supervision
    before = {name: parameter.detach().clone() for name, parameter in twin.network.named_parameters()}
    for parameter in twin.network.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    twin.optimizer.step()
    squares = [parameter.grad.square().sum() for parameter in twin.network.parameters()]
    assert float(torch.stack(squares).sum().sqrt()) == pytest.approx(1.0, abs=1e-3)
    assert any(not torch.equal(before[name], parameter) for name, parameter in twin.network.named_parameters())


def test_decoder_may_learn_first(small, nnunet):
    workspace = small("SwinUNETR")
    nnunet.settings(workspace.configuration, keep=True, epochs=2, warmup_epochs=0, decoder_first=1)
    twin = start(workspace, scratch=True)
    twin.initialize()
    part = twin.family.part
    before = {name: tensor.clone() for name, tensor in twin.network.state_dict().items()}
    twin.on_train_start()
    twin.lr_scheduler.step(0)
    twin.train_step(next(twin.dataloader_train))
    moved = {part(name) for name, tensor in twin.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"decoder", "head"}


def test_a_patch_that_it_cannot_take_is_refused_before_anything_starts(nnunet, refusal):
    plans = json.loads(nnunet.plans_file.read_text())
    plans["configurations"][nnunet.configuration]["patch_size"] = [12, 16, 16]
    nnunet.plans_file.write_text(json.dumps(plans))
    told = refusal(start, Workspace(nnunet.dataset, configuration=nnunet.configuration, network="PrimusB"))
    assert "12 x 16 x 16" in told and "diffaug plan --task <dataset> --network PrimusB" in told


def test_a_missing_encoder_is_told_with_the_command(small, refusal):
    told = refusal(start(small("PrimusV3S")).run_training)
    assert "diffaug pretrain" in told and "--configuration 3d_cpu_small_PrimusV3S --network PrimusV3S" in told


def test_an_unknown_network_ends_in_one_line(nnunet, capsys):
    assert main(["pretrain", "--task", nnunet.dataset, "--images", "real", "--network", "Primus"]) == 2
    error = capsys.readouterr().err
    assert "found Primus, expected one of plan, PrimusS" in error and "Traceback" not in error
