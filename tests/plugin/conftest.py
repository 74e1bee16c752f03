"""A real nnU-Net dataset small enough for one CPU thread: raw and preprocessed cases, hand-written plans, one fold."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned import plans, unet

from diffaug.nnunet.weights.format import encoder_path, save_encoder
from nnunet_plugin.trainer_path import trainer_path

DATASET = "Dataset904_Tiny"
CONFIGURATION = "3d_tiny"
CASES = ("case_0", "case_1", "case_2", "case_3")
DATASET_JSON = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "lesion": 1},
    "numTraining": len(CASES),
    "file_ending": ".nii.gz",
}
SCHEDULE = {"epochs": 1, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}


def _plans() -> dict:
    made = plans(DATASET, unet(), patch=[16, 16, 16], size=[20, 20, 20], spacing=[1.0, 1.0, 1.0])
    made["configurations"][CONFIGURATION] = {"inherits_from": "3d_fullres", "diffaug": SCHEDULE}
    return made


@dataclass
class Nnunet:
    """nnU-Net's three folders, and what tests do with them."""

    raw: Path
    preprocessed: Path
    results: Path
    dataset: str = DATASET
    configuration: str = CONFIGURATION
    cases: tuple[str, ...] = CASES

    @property
    def plans_file(self) -> Path:
        return self.preprocessed / DATASET / "nnUNetPlans.json"

    @property
    def encoder(self) -> Path:
        return encoder_path(self.results, DATASET, "nnUNetPlans", CONFIGURATION)

    def settings(self, configuration=CONFIGURATION, *, keep=False, **block) -> None:
        """Shorten the training of a configuration, and write further settings into its block, in place of what is there."""
        content = json.loads(self.plans_file.read_text())
        before = content["configurations"][configuration]["diffaug"] if keep else {}
        content["configurations"][configuration]["diffaug"] = before | SCHEDULE | block
        self.plans_file.write_text(json.dumps(content))

    def write_encoder(
        self, *, case_ids=CASES[:3], path=None, outputs=1, styles=None, origins=(), **arch_kwargs
    ) -> torch.nn.Module:
        """Save a "pretrained" network, with other architecture settings where they are given, and return it."""
        configuration = PlansManager(_plans()).get_configuration(CONFIGURATION).configuration
        architecture = configuration["architecture"]
        architecture["arch_kwargs"] |= arch_kwargs
        network = get_network_from_plans(*architecture.values(), 1, outputs, deep_supervision=False)
        provenance = {"case_ids": list(case_ids), "pretext": "inpainting", "images": 7, "steps": 11}
        provenance |= {"origins": list(origins)} if origins else {}
        path = path or self.encoder
        about = {"name": CONFIGURATION, "configuration": configuration, "provenance": provenance}
        save_encoder(path, network, **about, styles=styles)
        return network

    def trainer(self, name="nnUNetTrainerDiffAug", *, fold=0, continue_training=False):
        device = torch.device("cpu")
        return get_trainer_from_args(DATASET, CONFIGURATION, fold, name, "nnUNetPlans", continue_training, device)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """Cases through nnU-Net's own reader and preprocessor, in this process: no planner, no pool of workers."""
    root = tmp_path_factory.mktemp("nnunet")
    raw, preprocessed = root / "raw" / DATASET, root / "preprocessed" / DATASET
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed / "nnUNetPlans_3d_fullres"):
        folder.mkdir(parents=True)
    plans = PlansManager(_plans())
    configuration = plans.get_configuration("3d_fullres")
    rng = np.random.default_rng(0)
    for case in CASES:
        label = np.zeros((20, 20, 20), np.uint8)
        label[6:14, 6:14, 6:14] = 1
        image = (rng.normal(size=label.shape) + 3 * label).astype(np.float32)
        files = raw / "imagesTr" / f"{case}_0000.nii.gz", raw / "labelsTr" / f"{case}.nii.gz"
        for array, file in zip((image, label), files, strict=True):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
        configuration.preprocessor_class(verbose=False).run_case_save(
            str(preprocessed / configuration.data_identifier / case),
            [str(files[0])],
            str(files[1]),
            plans,
            configuration,
            DATASET_JSON,
        )
    shutil.copytree(raw / "labelsTr", preprocessed / "gt_segmentations")
    splits = [{"train": CASES[:3], "val": CASES[3:]}]
    contents = {"dataset": DATASET_JSON, "splits_final": splits, "dataset_fingerprint": {}, "nnUNetPlans": _plans()}
    for name, content in contents.items():
        (preprocessed / f"{name}.json").write_text(json.dumps(content))
    (raw / "dataset.json").write_text(json.dumps(DATASET_JSON))
    return root


@pytest.fixture
def nnunet(prepared, tmp_path, monkeypatch) -> Nnunet:
    torch.set_num_threads(1)
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    folders = {name: tmp_path / name for name in ("raw", "preprocessed", "results")}
    for name, folder in folders.items():
        folder.mkdir(exist_ok=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(folder))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    monkeypatch.setenv("nnUNet_extTrainer", trainer_path())
    return Nnunet(**folders)
