"""Self-training in real nnU-Net: a trained model labels volumes, a student trains on cases and volumes."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tried.self_training.labelling import LabelRequest, label
from benchmarks.tried.self_training.trainer import (
    MixedCases,
    nnUNetTrainerSelfTraining,
    pseudo_labels_path,
    save_labelled,
)
from diffaug.errors import DiffaugError
from diffaug.files import read_json
from diffaug.workspace import Workspace

REQUEST = LabelRequest(trainer="nnUNetTrainerDiffAugScratch", images=("real",))


@pytest.fixture
def taught(nnunet):
    """A model of fold 0, trained so long that it is sure of something."""
    nnunet.settings(epochs=8, iterations_per_epoch=12)
    nnunet.trainer("nnUNetTrainerDiffAugScratch").run_training()
    return nnunet


def student_of(nnunet):
    """The student's trainer, which only the benchmark knows."""
    teacher = nnunet.trainer("nnUNetTrainerDiffAugScratch")
    arguments = (
        {**teacher.plans_manager.plans, "continue_training": False},
        nnunet.configuration,
        0,
        teacher.dataset_json,
        torch.device("cpu"),
    )
    return nnUNetTrainerSelfTraining(*arguments)


def workspace(nnunet):
    return Workspace(nnunet.dataset, configuration=nnunet.configuration)


def folder(nnunet):
    return pseudo_labels_path(nnunet.results, nnunet.dataset, "nnUNetPlans", nnunet.configuration, 0)


@pytest.mark.slow
def test_student_trains_on_cases_and_labelled_volumes(taught):
    assert label(workspace(taught), REQUEST, device="cpu") == folder(taught)
    manifest = read_json(folder(taught) / "manifest.json", "")
    assert manifest["case_ids"] == list(taught.cases[:3]), "the validation case of the fold has no part"
    values = np.concatenate([np.load(f).ravel() for f in sorted(folder(taught).glob("*_seg.npy"))])
    assert set(np.unique(values)) <= {0, 1, 2}
    assert (values == 1).any()
    assert (values == 2).any(), "somewhere the teacher is unsure"

    taught.write_encoder()
    student = student_of(taught)
    student.on_train_start()
    draws = Counter(name in manifest["volumes"] for name in student.dataloader_train.data_loader.indices)
    assert draws[True] == draws[False]
    assert "3 labelled volumes" in Path(student.log_file).read_text()
    student.train_step(next(student.dataloader_train))


@pytest.mark.slow
def test_labelling_is_done_once_and_refuses_another_teacher(taught, refusal):
    first = label(workspace(taught), REQUEST, device="cpu")
    before = {file.name: file.stat().st_mtime_ns for file in first.iterdir()}
    label(workspace(taught), REQUEST, device="cpu")
    assert {file.name: file.stat().st_mtime_ns for file in first.iterdir()} == before
    message = refusal(label, workspace(taught), replace(REQUEST, seed=1), device="cpu")
    assert "--fresh" in message


@pytest.mark.slow
def test_killed_labelling_goes_on_and_never_with_another_teacher(taught, refusal, monkeypatch):
    monkeypatch.setattr("benchmarks.tried.self_training.labelling.save_labelled", fail_at(2))
    with pytest.raises(KeyboardInterrupt):
        label(workspace(taught), REQUEST, device="cpu")
    monkeypatch.undo()
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(getattr(taught, name)))
    assert len(list(folder(taught).glob("*_seg.npy"))) == 1
    with pytest.raises(DiffaugError, match="not finished"):
        MixedCases(Labelled(), folder(taught), 0.5)
    assert "another teacher" in refusal(label, workspace(taught), replace(REQUEST, seed=1), device="cpu")
    label(workspace(taught), REQUEST, device="cpu")
    assert len(MixedCases(Labelled(), folder(taught), 0.5).volumes) == 3


def fail_at(number):
    """What saves volumes until it is killed at the given one."""
    calls = []

    def save(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        save_labelled(*arguments)

    return save


def test_broken_teacher_is_named(nnunet, refusal):
    checkpoint = nnunet.results / nnunet.dataset / f"nnUNetTrainerDiffAugScratch__nnUNetPlans__{nnunet.configuration}"
    (checkpoint / "fold_0").mkdir(parents=True)
    (checkpoint / "fold_0" / "checkpoint_final.pth").write_bytes(b"PK truncated")
    assert "checkpoint_final.pth: cannot be read" in refusal(label, workspace(nnunet), REQUEST, device="cpu")


def test_missing_teacher_is_named(nnunet, refusal):
    message = refusal(label, workspace(nnunet), REQUEST, device="cpu")
    assert "checkpoint_final.pth" in message
    assert "nnUNetv2_train" in message


def test_share_without_labelled_volumes_says_how_to_make_them(nnunet):
    nnunet.write_encoder()
    with pytest.raises(DiffaugError, match="have a teacher label"):
        student_of(nnunet).on_train_start()


def write_volumes(nnunet, case_ids=()):
    from diffaug.files import write_json

    image = np.random.default_rng(0).normal(size=(1, 20, 20, 20))
    labels = np.zeros((20, 20, 20), int)
    labels[4:8, 4:8, 4:8] = 1
    labels[:2] = 2
    save_labelled(folder(nnunet), "made", image, labels, [1])
    write_json(folder(nnunet) / "manifest.json", {"finished": True, "volumes": ["made"], "case_ids": list(case_ids)})


def test_volumes_made_from_validation_cases_are_refused(nnunet):
    nnunet.write_encoder()
    write_volumes(nnunet, case_ids=nnunet.cases)
    with pytest.raises(DiffaugError, match="validation cases"):
        student_of(nnunet).on_train_start()


def test_unsure_voxels_cost_nothing(nnunet):
    trainer = student_of(nnunet)
    trainer.initialize()
    target = torch.zeros(1, 1, 16, 16, 16)
    target[..., 8:] = 2
    scales = [target, target[..., ::2, ::2, ::2]]
    torch.manual_seed(0)
    outputs = [torch.randn(1, 2, *s.shape[2:]) for s in scales]
    before = trainer.loss(outputs, scales)
    for output, scale in zip(outputs, scales, strict=True):
        output[:, :, scale[0, 0] == 2] = 50 * torch.randn(1, 2, int((scale == 2).sum()))
    assert torch.allclose(trainer.loss(outputs, scales), before, atol=1e-5)


class Labelled:
    identifiers = ["a", "b", "c"]

    def load_case(self, identifier):
        return identifier


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75, 0.9])
def test_draws_have_the_share_that_was_asked_for(nnunet, share):
    write_volumes(nnunet)
    mixed = MixedCases(Labelled(), folder(nnunet), share)
    assert mixed.identifiers.count("made") / len(mixed.identifiers) == pytest.approx(share, abs=0.01)
    assert mixed.share == mixed.identifiers.count("made") / len(mixed.identifiers)
    assert mixed.load_case("b") == "b"


def test_labelled_volume_comes_back_as_nnunet_wants_it(nnunet):
    write_volumes(nnunet)
    image, labels, previous, properties = MixedCases(Labelled(), folder(nnunet), 0.5).load_case("made")
    assert image.shape == labels.shape == (1, 20, 20, 20)
    assert previous is None
    places = properties["class_locations"][1]
    assert places.shape == (64, 4)
    assert (labels[tuple(places.T)] == 1).all()
