"""Tiny raw datasets of smooth bodies, and what tests do with them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from diffaug.files import file_hash, write_json
from diffaug.stages.pipeline import fit
from diffaug.stages.requests import FitRequest
from diffaug.workspace import Workspace

DATASET = "Dataset905_Blobs"
SIZE = (20, 24, 22)  # voxels (Z, Y, X)
SPACING = (2.0, 1.5, 1.5)  # mm (Z, Y, X)
ORIGIN = (-12.5, 30.0, -7.25)  # mm, LPS
LABELLED = tuple(f"blob_{i}" for i in range(6))
UNLABELLED = ("free_0", "free_1")
REQUEST = FitRequest(budget="cpu-small")


def blob(seed: int, size: tuple[int, ...] = SIZE) -> np.ndarray:
    """A smooth body of its own shape in a dark background with a little noise, 0 to about 1000, as MR units run."""
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.normal(size=size), 2)
    texture /= texture.std()
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    radius = sum((a / s) ** 2 for a, s in zip(axes, rng.uniform(0.6, 0.95, 3), strict=True))
    body = 1 / (1 + np.exp(12 * (radius - 1)))
    return (body * (500 + 120 * texture) + rng.uniform(1, 20, size)).astype(np.float32)


def write_image(
    file: Path,
    voxels: np.ndarray,
    spacing: tuple[float, ...] = SPACING,
    origin: tuple[float, ...] = ORIGIN,
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> Path:
    """Write `(Z, Y, X)` with ITK; spacing is (Z, Y, X) as in diffaug."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin)
    image.SetDirection(direction)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))
    return file


@dataclass
class Task:
    """A dataset in nnU-Net's folders, and what tests do with it."""

    root: Path
    dataset: str = DATASET

    @property
    def raw(self) -> Path:
        return self.root / "raw" / self.dataset

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed" / self.dataset

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.dataset)

    def image(self, case: str) -> Path:
        folder = "imagesUn" if case in UNLABELLED else "imagesTr"
        return self.raw / folder / f"{case}_0000.nii.gz"

    def tiny_plan(self, steps: int = 6, request: FitRequest = REQUEST, **changes) -> dict:
        """Let diffaug plan, then edit plan.json as a person would: a few steps of tiny networks."""
        fit(self.workspace, request, device="cpu", plan_only=True)
        file = self.workspace.generator / "plan.json"
        plan = json.loads(file.read_text())
        plan["autoencoder"] |= {"channels": [8, 8], "latent_channels": 4, "codes": 32}
        plan["denoiser"] |= {"channels": [8, 8], "latent_channels": 4}
        plan["refiner"] = {"width": 8, "blocks": 1}
        plan["views"] = 2
        plan["autoencoder_training"] |= {"steps": steps, "warmup_steps": 2}
        for training in ("refiner_training", "denoiser_training"):
            plan[training] |= {"steps": steps, "batch_size": 2, "warmup_steps": 2}
        plan |= changes
        file.write_text(json.dumps(plan))
        return plan

    def audit_manifest(self, **changes) -> dict:
        """Write the manifest of a finished audit that found no copies."""
        copies = {
            "found": 0,
            "share": 0.0,
            "share_of_real_scans": {},
            "by_chance": 1.0,
            "planted_found": {},
            "certain": 0,
        }
        told = {
            "stage": "audit",
            "finished": True,
            "inputs": {"generator_sha256": file_hash(self.workspace.generator / "generator.safetensors")},
            "verdicts": {"copies": ["good", "Copies: no sign of them."]},
            "defects": [],
            "figures": {"volumes": {"synthetic": 8}, "copies": copies, "c2st_auc": {"value": 0.7}},
        }
        write_json(self.workspace.audit / "manifest.json", {**told, **changes})
        return told
