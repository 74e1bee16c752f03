"""A reader study whose sides differ in all that readers must not see: spacing, orientation, size, units, names."""

import base64
import re
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from blobs import blob, write_image
from diffaug.reader_study.making import make
from diffaug.reader_study.requests import MakeRequest
from diffaug.reader_study.sides import of_folders

REAL, SYNTHETIC = ("patient_anna", "patient_bert", "patient_cleo", "patient_dora"), ("made_0", "made_1", "made_2")
QUESTIONS = ("appearance", "slices", "anatomy", "guess")


def marked(seed: int) -> np.ndarray:
    """A body with a bright spot on the patient's left, behind, near the feet: (Z, Y, X) of LPS."""
    voxels = blob(seed)
    voxels[3:7, 15:20, 15:19] = 3000
    return voxels


def write_sides(root: Path) -> MakeRequest:
    for seed, case in enumerate(REAL):
        write_image(root / "real" / f"{case}.nii.gz", marked(seed))
    (root / "synthetic").mkdir()
    for seed, case in enumerate(SYNTHETIC):
        image = sitk.GetImageFromArray(marked(seed + 10)[:, :, 1:] / 1000)
        image.SetSpacing((1.5, 1.5, 2.0))
        sitk.WriteImage(sitk.DICOMOrient(image, "SAR"), str(root / "synthetic" / f"{case}.nii.gz"))
    folders = {"real": root / "real", "synthetic": root / "synthetic", "out": root / "study"}
    return MakeRequest(**folders, real_count=3, synthetic_count=3, seed=7)


def write_study(request: MakeRequest, *, fresh: bool = False) -> Path:
    return make(request, "", lambda: of_folders(request), fresh=fresh)


def volumes(request: MakeRequest) -> dict[int, tuple[Path, nibabel.Nifti1Image]]:
    """Of each volume the file, and what the page makes of it."""
    found = {}
    for file in (request.out / "volumes").iterdir():
        number, data = re.fullmatch(r'receiveVolume\( *(\d+), "([^"]+)"\);\n', file.read_text()).groups()
        found[int(number)] = (file, nibabel.Nifti1Image.from_bytes(base64.b64decode(data)))
    return dict(sorted(found.items()))
