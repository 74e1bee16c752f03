"""The trainers in real nnU-Net, through every way a training starts, resumes, validates and predicts."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

import nnunet_plugin.trainers
from diffaug.errors import DiffaugError
from diffaug.nnunet.families import Recipe
from diffaug.nnunet.weights.format import EncoderFile
from nnunet_plugin.schedule import WarmupPolyLR
from nnunet_plugin.settings import Settings, read_settings
from nnunet_plugin.trainer_path import trainer_path

BODY = "decoder.stages."
HEAD = "decoder.seg_layers."


def same(network, other, prefix) -> bool:
    ours, theirs = network.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours if name.startswith(prefix))


def log(trainer) -> str:
    return Path(trainer.log_file).read_text()


def trained(nnunet, name="nnUNetTrainerDiffAug"):
    trainer = nnunet.trainer(name)
    trainer.run_training()
    return trainer


def refused(trainer) -> str:
    with pytest.raises(DiffaugError) as caught:
        trainer.run_training()
    assert trainer.dataloader_train is None, "the refusal came after the data workers started"
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["nnUNetTrainerDiffAug", "nnUNetTrainerDiffAugScratch"])
def test_nnunet_finds_the_installed_class_itself(nnunet, name):
    found = recursive_find_trainer_class_by_name(name)
    assert found is getattr(nnunet_plugin.trainers, name)
    assert pickle.loads(pickle.dumps(found)) is found


def test_fresh_training_starts_from_the_encoder_file_and_logs_it(nnunet):
    pretrained = nnunet.write_encoder()
    trainer = nnunet.trainer()
    trainer.on_train_start()
    assert same(trainer.network, pretrained, "encoder.")
    assert same(trainer.network, pretrained, "decoder.encoder.")
    assert same(trainer.network, pretrained, BODY)
    assert trainer.network.decoder.deep_supervision
    text = log(trainer)
    for told in (
        str(nnunet.encoder),
        "sha256",
        "pretext inpainting, images 7, steps 11",
        "left random: decoder.seg_layers",
    ):
        assert told in text


def test_encoder_alone_leaves_the_decoder_random(nnunet):
    nnunet.settings(load="encoder")
    pretrained = nnunet.write_encoder()
    trainer = nnunet.trainer()
    trainer.on_train_start()
    assert same(trainer.network, pretrained, "encoder.")
    assert not same(trainer.network, pretrained, BODY)


def test_encoder_file_of_the_plan_is_relative_to_the_results(nnunet):
    nnunet.settings(encoder_file="elsewhere/mine.pt")
    pretrained = nnunet.write_encoder(path=nnunet.results / "elsewhere" / "mine.pt")
    trainer = nnunet.trainer()
    trainer.on_train_start()
    assert same(trainer.network, pretrained, "encoder.")


def test_missing_encoder_file_names_the_command(nnunet):
    message = refused(nnunet.trainer())
    assert str(nnunet.encoder) in message
    assert f"diffaug pretrain --task {nnunet.dataset}" in message


def test_other_strides_of_equal_shapes_are_refused(nnunet):
    nnunet.write_encoder(strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]])
    message = refused(nnunet.trainer())
    for told in (
        str(nnunet.encoder),
        "strides",
        "[[1, 1, 1], [1, 2, 2], [2, 2, 2]]",
        "[[1, 1, 1], [2, 2, 2], [2, 2, 2]]",
    ):
        assert told in message


def test_seen_validation_cases_are_refused(nnunet):
    nnunet.write_encoder(case_ids=nnunet.cases)
    message = refused(nnunet.trainer())
    for told in (
        "1 of the 1 validation cases of fold 0",
        "case_3",
        "--exclude labelled --fresh",
        "--configuration",
        "allow_leakage",
    ):
        assert told in message


def test_2d_is_refused_before_a_command_is_told_that_would_be_refused_too(nnunet):
    trainer = nnunet.trainer()
    trainer.configuration_manager.configuration["patch_size"] = [16, 16]
    message = refused(trainer)
    assert "2D" in message
    assert "diffaug pretrain" not in message


def test_plans_made_anew_since_the_pretraining_are_told(nnunet):
    nnunet.write_encoder()
    trainer = nnunet.trainer()
    trainer.on_train_start()
    assert "WARNING" not in log(trainer), "a file that says nothing of it"
    content = torch.load(nnunet.encoder, weights_only=True)
    content["diffaug"]["preprocessing"] = {"spacing": [9.0, 9.0, 9.0], "normalization_schemes": ["ZScoreNormalization"]}
    torch.save(content, nnunet.encoder)
    trainer = nnunet.trainer()
    trainer.on_train_start()
    assert "WARNING: spacing of the preprocessing was [9.0, 9.0, 9.0]" in log(trainer)
    assert "normalization_schemes of" not in log(trainer)


def test_allowed_leakage_warns(nnunet):
    nnunet.settings(allow_leakage=True)
    nnunet.write_encoder(case_ids=nnunet.cases)
    trainer = nnunet.trainer()
    trainer.on_train_start()
    assert "WARNING" in log(trainer)
    assert "case_3" in log(trainer)


def test_weights_of_another_hospitals_generator_say_whose_scans_they_come_from(nnunet):
    nnunet.write_encoder(case_ids=(), origins=["300 breast MRI of elsewhere"])
    trainer = nnunet.trainer()
    trainer.on_train_start()
    assert "comes from a generator of 300 breast MRI of elsewhere: whether it has seen cases of this fold" in log(
        trainer
    )


def test_fold_all_has_nothing_to_leak(nnunet):
    nnunet.write_encoder(case_ids=nnunet.cases)
    trainer = nnunet.trainer(fold="all")
    trainer.on_train_start()
    assert "no leakage to check" in log(trainer)


def test_continue_goes_on_without_the_encoder_file_and_with_the_same_schedule(nnunet):
    nnunet.settings(epochs=4, warmup_epochs=2)
    nnunet.write_encoder()
    killed = nnunet.trainer()

    def kill_in_epoch_2():
        if killed.current_epoch == 2:
            raise KeyboardInterrupt

    killed.on_validation_epoch_start = kill_in_epoch_2
    with pytest.raises(KeyboardInterrupt):
        killed.run_training()
    nnunet.encoder.unlink()

    resumed = nnunet.trainer(continue_training=True)
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    assert resumed.current_epoch == 2
    resumed.run_training()
    rates = resumed.logger.get_value("lrs", step=None)
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.01 * 0.5**0.9])


def test_continue_without_a_checkpoint_is_a_fresh_start(nnunet):
    pretrained = nnunet.write_encoder()
    trainer = nnunet.trainer(continue_training=True)
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    trainer.on_train_start()
    assert same(trainer.network, pretrained, "encoder.")


def test_validation_only_needs_no_encoder_file(nnunet):
    nnunet.write_encoder()
    first = trained(nnunet)
    nnunet.encoder.unlink()
    again = nnunet.trainer()
    maybe_load_checkpoint(again, continue_training=False, validation_only=True)
    assert same(again.network, first.network, "")


def test_pretrained_weights_exclude_the_encoder_file(nnunet):
    twin = trained(nnunet, "nnUNetTrainerDiffAugScratch")
    checkpoint = str(Path(twin.output_folder) / "checkpoint_final.pth")
    nnunet.write_encoder()
    trainer = nnunet.trainer()
    maybe_load_checkpoint(trainer, False, False, pretrained_weights_file=checkpoint)
    assert "-pretrained_weights" in refused(trainer)


def test_the_twin_loads_nothing_and_has_the_same_schedule(nnunet):
    nnunet.settings(epochs=20, initial_lr=0.02)
    pretrained = nnunet.write_encoder(case_ids=nnunet.cases)
    twin = nnunet.trainer("nnUNetTrainerDiffAugScratch")
    twin.on_train_start()
    assert not same(twin.network, pretrained, "encoder.")
    nnunet.settings(epochs=20, initial_lr=0.02, allow_leakage=True)
    trainer = nnunet.trainer()
    trainer.on_train_start()
    assert [twin.lr_scheduler.lr(e) for e in range(20)] == [trainer.lr_scheduler.lr(e) for e in range(20)]
    assert type(twin.optimizer) is type(trainer.optimizer)
    assert type(twin.loss) is type(trainer.loss)


@pytest.mark.parametrize(
    ("optimizer", "kind", "rate"), [("sgd", torch.optim.SGD, 0.01), ("adamw", torch.optim.AdamW, 0.003)]
)
def test_each_optimizer_has_its_own_learning_rate(nnunet, optimizer, kind, rate):
    nnunet.settings(optimizer=optimizer, epochs=20)
    twin = nnunet.trainer("nnUNetTrainerDiffAugScratch")
    twin.initialize()
    assert type(twin.optimizer) is kind
    assert twin.lr_scheduler.lr(1) == rate, "the warm-up's single epoch is over"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_decoder_may_learn_first(nnunet, optimizer):
    nnunet.settings(optimizer=optimizer, epochs=2, warmup_epochs=0, decoder_first=1)
    pretrained = nnunet.write_encoder()
    trainer = nnunet.trainer()
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    trainer.lr_scheduler.step(0)
    trainer.train_step(batch)
    assert same(trainer.network, pretrained, "encoder.")
    assert not same(trainer.network, pretrained, BODY)
    trainer.lr_scheduler.step(1)
    trainer.train_step(batch)
    assert not same(trainer.network, pretrained, "encoder.")


def test_trained_model_predicts_without_the_encoder_file_and_without_the_plugin(nnunet, monkeypatch):
    nnunet.write_encoder()
    trainer = trained(nnunet)
    nnunet.encoder.unlink()
    patch = torch.randn(1, 20, 20, 20, generator=torch.Generator().manual_seed(0))

    def predict():
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
        return predictor.predict_logits_from_preprocessed_data(patch)

    with_plugin = predict()
    assert with_plugin.shape == (2, 20, 20, 20)

    file = Path(trainer.output_folder) / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNetTrainerDiffAug"
    torch.save(checkpoint | {"trainer_name": "nnUNetTrainer"}, file)
    monkeypatch.delenv("nnUNet_extTrainer")
    assert torch.equal(predict(), with_plugin)


def test_pretrained_weights_are_not_kept_on_the_trainer(nnunet):
    nnunet.write_encoder()
    trainer = nnunet.trainer()
    trainer.on_train_start()
    kept = [value for value in vars(trainer).values() if isinstance(value, EncoderFile)]
    assert not kept
    assert (Path(trainer.output_folder) / "debug.json").is_file()


def test_schedule_warms_up_linearly_then_decays_to_zero():
    schedule = WarmupPolyLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), 1.0, 5, 25)
    rates = [schedule.lr(epoch) for epoch in range(26)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[15] == pytest.approx(0.5**0.9)
    assert rates[25] == 0
    assert rates[5:] == sorted(rates[5:], reverse=True)
    schedule.step(15)
    assert schedule.optimizer.param_groups[0]["lr"] == rates[15]


def test_settings_default_to_nnunets_own_and_warm_up_for_a_twentieth():
    assert read_settings({}, "plans", Recipe()) == Settings()
    assert read_settings({"epochs": 300}, "plans", Recipe()).warmup_epochs == 15
    assert read_settings({"epochs": 1}, "plans", Recipe()).warmup_epochs == 0


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'"),
        ({"load": ["encoder"]}, "load is ['encoder']"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": True}, "epochs is True"),
        ({"initial_lr": "fast"}, "initial_lr is 'fast'"),
        ({"warmup_epochs": 5, "epochs": 5}, "fewer than the 5 epochs"),
        ({"load": "decoder"}, "encoder or encoder+decoder"),
        ({"encoder_file": 3}, "a path or null"),
        ({"allow_leakage": "yes"}, "true or false"),
        ([], "a JSON object"),
    ],
)
def test_bad_settings_say_where_and_what(block, told):
    with pytest.raises(DiffaugError, match="plans: ") as caught:
        read_settings(block, "plans", Recipe())
    assert told in str(caught.value)


def test_bad_settings_stop_the_trainer_at_once(nnunet):
    nnunet.settings(epochs=-1)
    with pytest.raises(DiffaugError, match=r"nnUNetPlans\.json, configuration 3d_tiny, diffaug block: epochs is -1"):
        nnunet.trainer()


def test_trainer_path_keeps_other_folders_and_adds_ours_once(monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    ours = trainer_path()
    assert (Path(ours) / "nnunet_trainer_diffaug.py").is_file()
    monkeypatch.setenv("nnUNet_extTrainer", "/other")
    assert trainer_path() == f"/other{os.pathsep}{ours}"
    monkeypatch.setenv("nnUNet_extTrainer", trainer_path())
    assert trainer_path() == f"/other{os.pathsep}{ours}"


def command(nnunet, *arguments) -> subprocess.CompletedProcess:
    """Run `nnUNetv2_train` as its entry point does, on one thread: `-device cpu` would take every core."""
    code = (
        "import multiprocessing, sys; multiprocessing.cpu_count = lambda: 1;"
        "from nnunetv2.run.run_training import run_training_entry;"
        "run_training_entry()"
    )
    line = [sys.executable, "-c", code, nnunet.dataset, nnunet.configuration, "0", "-device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.run(
        [*line, "-tr", "nnUNetTrainerDiffAug", *arguments], capture_output=True, text=True, env=environment
    )


def test_command_ends_with_the_one_line_that_matters(nnunet):
    done = command(nnunet)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("diffaug.errors.DiffaugError: ")
    assert f"diffaug pretrain --task {nnunet.dataset}" in last


@pytest.mark.slow
def test_command_trains_validates_and_validates_again_without_the_encoder_file(nnunet):
    nnunet.write_encoder()
    done = command(nnunet)
    assert done.returncode == 0, done.stderr
    assert "Mean Validation Dice" in done.stdout
    nnunet.encoder.unlink()
    done = command(nnunet, "--val")
    assert done.returncode == 0, done.stderr
