"""From folders of scans to a trained nnU-Net, in Python.

    python examples/own_folder.py --unlabelled SCANS --labelled SCANS --masks MASKS --out OUT --budget cpu-small

Every scan is one file (NIfTI, .mha, .nrrd ...) of one channel; a mask has the name of its scan and whole numbers, 0 for
background. Run again, it goes on where it was stopped; nnU-Net's preprocessing alone is done anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

from diffaug.files import read_json, write_json
from diffaug.nnunet.budget_configurations import add_budget_configuration, ensure_plans
from diffaug.stages.pipeline import pretrain
from diffaug.stages.requests import FitRequest, PretrainRequest, SampleRequest
from diffaug.workspace import Workspace
from nnunet_plugin.trainer_path import trainer_path

TASK, NAME = 101, "OwnFolder"


def write_dataset(raw: Path, unlabelled: Path, labelled: Path, masks: Path) -> Path:
    """Lay scans out as nnU-Net wants them: imagesTr and labelsTr, and imagesUn, which diffaug alone reads.

    Args:
        raw: nnU-Net's folder of raw datasets.
        unlabelled: Scans without masks.
        labelled: Scans with masks.
        masks: Their masks.

    Returns:
        The dataset's folder.
    """
    folder = raw / f"Dataset{TASK:03d}_{NAME}"
    values: set[int] = set()
    for images, to in ((labelled, "imagesTr"), (unlabelled, "imagesUn")):
        (folder / to).mkdir(parents=True, exist_ok=True)
        for scan in sorted(images.iterdir()):
            case, ending = scan.name.partition(".")[0], "".join(scan.suffixes)
            shutil.copy(scan, folder / to / f"{case}_0000{ending}")
    (folder / "labelsTr").mkdir(exist_ok=True)
    for mask in sorted(masks.iterdir()):
        shutil.copy(mask, folder / "labelsTr" / mask.name)
        values |= set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(mask)))).tolist())
    names = {"background": 0, **{f"label_{value}": int(value) for value in sorted(values - {0})}}
    info = {"channel_names": {"0": "image"}, "labels": names, "numTraining": len(list(masks.iterdir()))}
    write_json(folder / "dataset.json", {**info, "file_ending": ending})
    return folder


def main() -> None:
    """Do all of it, and say how well the trained nnU-Net does on the cases that it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unlabelled", type=Path, required=True)
    parser.add_argument("--labelled", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", default="gpu-24g", help="cpu-small, gpu-24g or gpu-80g (%(default)s)")
    parser.add_argument("--volumes", type=int, default=200, help="synthetic volumes to pretrain on (%(default)s)")
    arguments = parser.parse_args()
    for name in ("raw", "preprocessed", "results"):
        folder = arguments.out.resolve() / f"nnUNet_{name}"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder)
    os.environ.update(nnUNet_extTrainer=trainer_path(), nnUNet_n_proc_DA="2")

    # nnU-Net's dataset, plans and preprocessed cases; the budget's configuration is one of nnU-Net's own plans
    raw = write_dataset(folder.parent / "nnUNet_raw", arguments.unlabelled, arguments.labelled, arguments.masks)
    configuration = add_budget_configuration(ensure_plans(raw.name), budget=arguments.budget)
    preprocess_dataset(TASK, configurations=(configuration,), num_processes=(2,))

    # the generator, its volumes and the pretrained encoder; fold 0's validation cases are seen by none of them
    workspace = Workspace(raw.name, configuration=configuration)
    upstream = FitRequest(budget=arguments.budget), SampleRequest(count=arguments.volumes)
    encoder = pretrain(workspace, PretrainRequest(budget=arguments.budget), upstream=upstream)

    # stock nnU-Net, started from it: what `nnUNetv2_train 101 CONFIGURATION 0 -tr nnUNetTrainerDiffAug` does
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    begun = any(folder.glob(f"{raw.name}/nnUNetTrainerDiffAug__nnUNetPlans__{configuration}/fold_0/checkpoint_*.pth"))
    how = {"continue_training": begun, "device": device}
    trainer = get_trainer_from_args(raw.name, configuration, 0, "nnUNetTrainerDiffAug", **how)
    maybe_load_checkpoint(trainer, continue_training=begun, validation_only=False)
    trainer.run_training()
    trainer.perform_actual_validation()
    score = read_json(Path(trainer.output_folder) / "validation" / "summary.json", "train again")
    print(f"pretrained from {encoder}; Dice of fold 0: {score['foreground_mean']['Dice']:.3f}")


if __name__ == "__main__":  # nnU-Net's workers import this file again where processes are not forked
    main()
