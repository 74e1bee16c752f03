"""Organs: label maps of known shapes, sets of known differences, and a real trained nnU-Net."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from plugin.conftest import nnunet, prepared  # noqa: F401 (fixtures: a real nnU-Net dataset)

from diffaug.audit.organs import QUANTITIES, measure_labels, measure_organs, organ_distances

CPU = torch.device("cpu")
LABELS = {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}
SPACING = (2.0, 1.0, 0.5)  # mm (Z, Y, X)


def test_box_has_the_volume_and_elongation_of_a_box():
    labels = np.zeros((20, 30, 30), np.uint8)
    labels[4:14, 5:15, 2:22] = 1  # 20 x 10 x 10 mm
    found = measure_labels(labels, LABELS, SPACING)
    assert set(found) == {"liver", "tumour"}
    liver = found["liver"]
    assert liver["volume_ml"] == pytest.approx(2)
    assert (liver["components"], liver["largest_share"]) == (1, 1)
    assert liver["elongation"] == pytest.approx(2)
    expected = np.pi ** (1 / 3) * (6 * 2000) ** (2 / 3) / (4 * 200 + 2 * 100)
    assert liver["sphericity"] == pytest.approx(expected, rel=0.06)  # its corners are cut


def test_ball_is_round_in_millimetres():
    z, y, x = (np.arange(n) * s for n, s in zip((24, 48, 96), SPACING, strict=True))
    distance = (z[:, None, None] - 23) ** 2 + (y[:, None] - 24) ** 2 + (x - 24) ** 2
    ball = measure_labels((distance < 18**2).astype(int), LABELS, SPACING)["liver"]
    assert ball["volume_ml"] == pytest.approx(4 / 3 * np.pi * 18**3 / 1000, rel=0.02)
    assert ball["elongation"] == pytest.approx(1, abs=0.02)
    assert 0.85 < ball["sphericity"] <= 1  # a staircase has more surface than its ball


def test_components_are_counted_and_only_the_largest_is_shaped():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:8, 2:8, 2:8] = 2
    labels[12:15, 12:15, 12:15] = 2
    labels[18, 2, 2] = 2
    tumour = measure_labels(labels, LABELS, (1, 1, 1))["tumour"]
    assert tumour["components"] == 3
    assert tumour["largest_share"] == pytest.approx(216 / (216 + 27 + 1))
    assert tumour["elongation"] == pytest.approx(1)


def test_voxels_that_touch_in_a_corner_are_one_component():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1] = labels[2, 2, 2] = 1
    assert measure_labels(labels, LABELS, (1, 1, 1))["liver"]["components"] == 1


def test_one_voxel_and_none():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[0, 0, 4] = 1
    found = measure_labels(labels, LABELS, SPACING)
    assert found["liver"]["volume_ml"] == pytest.approx(0.001)
    assert found["liver"]["elongation"] == pytest.approx(4)
    assert found["tumour"] == dict.fromkeys(QUANTITIES, 0)


def test_regions_are_measured_together():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:6, 2:6, 2:4], labels[2:6, 2:6, 4:6] = 1, 2
    found = measure_labels(labels, {"background": 0, "whole": [1, 2], "core": 2}, (1, 1, 1))
    assert found["whole"]["volume_ml"] == pytest.approx(0.064)
    assert found["core"]["volume_ml"] == pytest.approx(0.032)


def organs(seed, volume=100.0, components=1):
    rng = np.random.default_rng(seed)
    return [
        {"liver": dict.fromkeys(QUANTITIES, 1.0) | {"volume_ml": volume + 10 * rng.normal(), "components": components}}
        for _ in range(60)
    ]


def test_equal_organs_are_at_the_floor_and_larger_or_broken_ones_off():
    equal = organ_distances(organs(0), organs(1), 0)
    assert set(equal) == {f"liver {quantity}" for quantity in QUANTITIES}
    assert {compared.verdict for compared in equal.values()} == {"at the floor"}
    larger = organ_distances(organs(0), organs(1, volume=130.0), 0)
    assert larger["liver volume_ml"].verdict == "off"
    assert larger["liver volume_ml"].figure.value == pytest.approx(3, abs=0.5)  # standard deviations
    broken = organ_distances(organs(0), organs(1, components=3), 0)
    assert broken["liver components"].verdict == "off"
    assert broken["liver components"].figure.value == 2  # never varies in real images: its own unit
    assert organ_distances(organs(0)[:3], organs(1), 0) == {}


def test_folder_without_a_model_is_refused(tmp_path, refusal):
    message = refusal(measure_organs, tmp_path, [], CPU)
    assert "found no dataset.json and no plans.json" in message
    for name in ("dataset.json", "plans.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "fold_0").mkdir()
    assert "no fold_*/checkpoint_final.pth" in refusal(measure_organs, tmp_path, [], CPU)
    (tmp_path / "fold_0" / "checkpoint_final.pth").write_bytes(b"torn")
    assert "cannot be loaded" in refusal(measure_organs, tmp_path, [], CPU)


@pytest.mark.slow
def test_real_trained_model_measures_what_nnunet_predicts(nnunet, refusal, capfd):  # noqa: F811
    nnunet.settings(epochs=2, iterations_per_epoch=30, val_iterations_per_epoch=1)
    trainer = nnunet.trainer("nnUNetTrainerDiffAugScratch")
    trainer.run_training()
    model = Path(trainer.output_folder_base)
    images = [[nnunet.raw / nnunet.dataset / "imagesTr" / f"{case}_0000.nii.gz"] for case in nnunet.cases]
    capfd.readouterr()
    found = measure_organs(model, images, CPU)
    assert "perform_everything_on_device" not in capfd.readouterr().out
    for image in found:
        assert image["lesion"]["volume_ml"] == pytest.approx(0.512, rel=0.3)  # a cube of 8 mm, 3 sigma over its noise

    predictor = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    target = str(nnunet.results / "predicted")
    predictor.predict_from_files_sequential([[str(images[1][0])]], [target])
    written = sitk.GetArrayFromImage(sitk.ReadImage(f"{target}.nii.gz"))
    assert found[1] == measure_labels(written, {"background": 0, "lesion": 1}, (1, 1, 1))

    assert "expects 1 channels" in refusal(measure_organs, model, [images[0] * 2], CPU)
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_tiny"]["previous_stage"] = "3d_lowres"
    (model / "plans.json").write_text(json.dumps(plans))
    file = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    for key, weight in checkpoint["network_weights"].items():
        if weight.ndim == 5 and weight.shape[1] == 1:  # the stem of a cascade sees the label before it too
            checkpoint["network_weights"][key] = weight.repeat(1, 2, 1, 1, 1)
    torch.save(checkpoint, file)
    assert "needs the model 3d_lowres first" in refusal(measure_organs, model, images, CPU)


def test_trainer_that_nnunet_cannot_find_is_explained(nnunet, refusal, monkeypatch):  # noqa: F811
    trainer = nnunet.trainer("nnUNetTrainerDiffAugScratch")
    trainer.initialize()
    trainer.on_train_start()
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    monkeypatch.delenv("nnUNet_extTrainer")
    message = refusal(measure_organs, Path(trainer.output_folder_base), [], CPU)
    assert "diffaug trainer-path" in message
