"""nnU-Net's plans as its planner writes them, for networks of a few thousand weights; pretexts and known answers."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.tried.pretexts import TRIED
from diffaug.pretraining.pretexts import PRETEXTS
from diffaug.pretraining.pretexts.anatomy import Anatomy, Appearances

PER_STAGE = {"ResidualEncoderUNet": "n_blocks_per_stage", "PlainConvUNet": "n_conv_per_stage"}


def unet(name="ResidualEncoderUNet", features=(4, 8, 16), **kwargs) -> dict:
    """The `architecture` of a configuration: isotropic, one convolution or block per stage."""
    stages = len(features)
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
            PER_STAGE[name]: [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
        | kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(
    dataset: str, architecture: dict, *, patch, size, spacing, seen_spacing=None, axes=(0, 1, 2), order=1
) -> dict:
    """Whole plans with one configuration, `3d_fullres`.

    Args:
        dataset: Folder name of the dataset.
        architecture: See `unet`.
        patch: In voxels.
        size: Of the median scan, in voxels.
        spacing: Of the configuration, in mm.
        seen_spacing: Of the median scan, in mm; the configuration's own by default.
        axes: nnU-Net's `transpose_forward`, which must be its own inverse.
        order: Of the interpolation.
    """
    resampling = {"order": order, "order_z": 0, "force_separate_z": None}
    functions = {f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in ("data", "seg", "probabilities")}
    return {
        "dataset_name": dataset,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(seen_spacing or spacing),
        "original_median_shape_after_transp": list(size),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(axes),
        "transpose_backward": list(axes),
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch),
                "median_image_size_in_voxels": list(size),
                "spacing": list(spacing),
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                **functions,
                **{f"{name}_kwargs": {"is_seg": name.endswith("seg")} | resampling for name in functions},
                "batch_dice": False,
                "architecture": architecture,
            }
        },
    }


def write_plans(folder, network="PlainConvUNet", patch=(48, 160, 192), stages=6) -> Path:
    """Write plans of an anisotropic configuration with nnU-Net's usual network."""
    folder.mkdir(parents=True)
    usual = {
        "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * (stages - 1)],
        "strides": [[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * (stages - 2)],
        PER_STAGE[network]: [1, 3, 4, 6, 6, 6][:stages],
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    architecture = unet(network, [32, 64, 128, 256, 320, 320][:stages], **usual)
    content = plans(folder.name, architecture, patch=patch, size=patch, spacing=[2.0, 1.0, 1.0])
    base = content["configurations"]["3d_fullres"]
    content["configurations"] = {"2d": base | {"patch_size": [8, 8]}, "3d_fullres": base}
    file = folder / "nnUNetPlans.json"
    file.write_text(json.dumps(content))
    return file


ALL = {**PRETEXTS, **TRIED, "anatomy": replace(Anatomy(), helper=Appearances(2))}


class Answer(nn.Module):
    """Answers with a function of what it sees."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        self.seen = x
        return self.answer(x)


def with_features(pretext, clean):
    """The volume, and behind it a teacher's features where the pretext wants them."""
    return torch.cat([clean, torch.randn(len(clean), pretext.taught, *clean.shape[2:])], 1)


def silent(pretext, channels):
    """A network that always answers zero, with as many outputs as the pretext asks for."""
    return Answer(lambda x: x.new_zeros(len(x), pretext.outputs(channels), *x.shape[2:]))


SILENT = Answer(torch.zeros_like)


def blob_plans() -> dict:
    """Axes are transposed on purpose."""
    return plans(
        "Dataset905_Blobs",
        unet("PlainConvUNet", (4, 8, 8)),
        patch=[16, 16, 16],
        size=[22, 24, 20],
        spacing=[1.5, 1.5, 1.7],
        seen_spacing=[1.5, 1.5, 2.0],
        axes=(2, 1, 0),
        order=3,
    )
