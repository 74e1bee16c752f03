"""Plans: nnU-Net's own planner makes them, and a budget adds a configuration that builds, trains and inherits."""

import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned import PER_STAGE, write_plans

from diffaug.errors import DiffaugError
from diffaug.nnunet.budget_configurations import CPU_PATCH_VOXELS, add_budget_configuration, ensure_plans

DATASET = "Dataset905_Planned"


@pytest.mark.parametrize("unet", PER_STAGE)
@pytest.mark.parametrize(("patch", "stages"), [((48, 160, 192), 6), ((16, 320, 320), 5), ((16, 24, 24), 3)])
def test_cpu_small_builds_and_trains_a_step(tmp_path, unet, patch, stages):
    file = write_plans(tmp_path / DATASET, unet, patch, stages)
    before = json.loads(file.read_text())["configurations"]
    assert add_budget_configuration(file, budget="cpu-small") == "3d_cpu_small"
    assert {k: v for k, v in json.loads(file.read_text())["configurations"].items() if k != "3d_cpu_small"} == before

    configuration = PlansManager(str(file)).get_configuration("3d_cpu_small")
    assert configuration.data_identifier == "nnUNetPlans_3d_fullres"
    assert configuration.configuration["diffaug"]["epochs"] == 50
    small = configuration.patch_size
    assert math.prod(small) <= CPU_PATCH_VOXELS
    assert all(ours <= theirs for ours, theirs in zip(small, patch, strict=True))
    divisors = np.prod(configuration.pool_op_kernel_sizes, axis=0)
    assert not np.any(np.array(small) % divisors)
    network = get_network_from_plans(*configuration.configuration["architecture"].values(), 1, 2, deep_supervision=True)
    outputs = network(torch.randn(1, 1, *small))
    assert list(outputs[0].shape) == [1, 2, *small]
    sum(output.mean() for output in outputs).backward()


def test_cpu_small_uses_the_voxels_it_may(tmp_path):
    file = write_plans(tmp_path / DATASET)
    add_budget_configuration(file, budget="cpu-small")
    patch = PlansManager(str(file)).get_configuration("3d_cpu_small").patch_size
    assert patch == [16, 48, 48]


@pytest.mark.parametrize(("budget", "epochs"), [("gpu-24g", 300), ("gpu-80g", 1000)])
def test_gpu_budgets_set_the_schedule_alone(tmp_path, budget, epochs):
    file = write_plans(tmp_path / DATASET)
    name = add_budget_configuration(file, budget=budget)
    added = json.loads(file.read_text())["configurations"][name]
    assert added == {"inherits_from": "3d_fullres", "diffaug": {"epochs": epochs}}


def test_an_edited_configuration_is_left_alone(tmp_path, capsys):
    file = write_plans(tmp_path / DATASET)
    name = add_budget_configuration(file, budget="gpu-24g")
    assert f"added configuration {name}" in capsys.readouterr().out
    plans = json.loads(file.read_text())
    plans["configurations"][name]["diffaug"]["epochs"] = 77
    file.write_text(json.dumps(plans))
    edited = file.read_bytes()
    assert add_budget_configuration(file, budget="gpu-24g") == name
    assert file.read_bytes() == edited
    assert "left as it is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"budget": "tpu"}, "cpu-small, gpu-24g, gpu-80g"),
        ({"budget": "cpu-small", "base": "3d_lowres"}, "2d, 3d_fullres"),
        ({"budget": "cpu-small", "base": "2d"}, "expected a 3D"),
    ],
)
def test_wrong_budget_or_base_is_refused(tmp_path, arguments, told):
    file = write_plans(tmp_path / DATASET)
    with pytest.raises(DiffaugError, match=told):
        add_budget_configuration(file, **arguments)


def test_missing_plans_name_nnunets_command(tmp_path):
    with pytest.raises(DiffaugError, match="nnUNetv2_plan_and_preprocess -d 905 -c 3d_fullres"):
        add_budget_configuration(tmp_path / DATASET / "nnUNetPlans.json", budget="cpu-small")


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Three ordinary cases and a giant one, whose part in the plans would show."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    raw = tmp_path / "raw" / DATASET
    sizes = {"a": 16, "b": 16, "giant": 40}
    for case, size in sizes.items():
        image = np.random.default_rng(size).normal(size=(size,) * 3).astype(np.float32)
        for folder, array in (("imagesTr", image), ("labelsTr", (image > 0).astype(np.uint8))):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            suffix = "_0000" if folder == "imagesTr" else ""
            sitk.WriteImage(sitk.GetImageFromArray(array), str(raw / folder / f"{case}{suffix}.nii.gz"))
    dataset = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(dataset | {"numTraining": len(sizes)}))
    return raw


def test_nnunet_plans_without_the_excluded_cases(raw, tmp_path):
    preprocessed = tmp_path / "preprocessed" / DATASET
    file = ensure_plans(DATASET, exclude={"giant"})
    assert file == preprocessed / "nnUNetPlans.json"
    fingerprint = json.loads((preprocessed / "dataset_fingerprint.json").read_text())
    assert fingerprint["shapes_after_crop"] == [[16, 16, 16]] * 2
    assert (preprocessed / "dataset.json").is_file()
    assert add_budget_configuration(file, budget="cpu-small") == "3d_cpu_small"
    made = file.read_bytes()
    assert ensure_plans(DATASET).read_bytes() == made


def test_a_dataset_without_labels_cannot_be_planned(raw):
    for label in (raw / "labelsTr").iterdir():
        label.unlink()
    with pytest.raises(DiffaugError, match="no labelled case, expected some in labelsTr"):
        ensure_plans(DATASET)


def test_unknown_plans_are_not_guessed(raw):
    with pytest.raises(DiffaugError, match="none of nnU-Net's planners writes it"):
        ensure_plans(DATASET, "myPlans")


def test_epochs_replace_the_budgets_own(tmp_path):
    file = write_plans(tmp_path / DATASET)
    name = add_budget_configuration(file, budget="cpu-small", epochs=7)
    block = json.loads(file.read_text())["configurations"][name]["diffaug"]
    assert block["epochs"] == 7
    assert block["iterations_per_epoch"] == 20


def test_no_epoch_is_refused(tmp_path):
    with pytest.raises(DiffaugError, match="--epochs"):
        add_budget_configuration(write_plans(tmp_path / DATASET), budget="cpu-small", epochs=0)


def test_gpu_budgets_set_the_schedule_of_2d_configurations_too(tmp_path):
    file = write_plans(tmp_path / DATASET)
    name = add_budget_configuration(file, budget="gpu-24g", base="2d")
    assert json.loads(file.read_text())["configurations"][name]["inherits_from"] == "2d"
