"""A seeded procedural breast MRI with a whole-breast mask, and a dataset of them in nnU-Net's raw layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from diffaug.errors import DiffaugError
from diffaug.files import read_json, write_json
from diffaug.images import write_image
from diffaug.phantom.anatomy import build
from diffaug.phantom.drawing import draw_parameters
from diffaug.phantom.parameters import PhantomParameters
from diffaug.phantom.scanner import measure
from diffaug.phantom.sites import SITES, find_site

__all__ = [
    "SITES",
    "PhantomParameters",
    "case_parameters",
    "default_spacing",
    "draw_parameters",
    "render",
    "write_dataset",
]

SETTINGS_FILE = "phantom.json"
# Raise it whenever the same seed gives another phantom, so that no dataset is continued with other anatomy.
VERSION = 1


def render(
    parameters: PhantomParameters,
    shape: tuple[int, int, int] = (32, 48, 64),
    *,
    spacing: tuple[float, float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Render one phantom. The anatomy does not depend on the grid; the noise does.

    Args:
        parameters: Everything random about it.
        shape: Voxels along Z, Y, X.
        spacing: Voxel size along Z, Y, X in mm; by default the parameters' field of view over `shape`.

    Returns:
        The image, float32 (Z, Y, X) in scanner units, and the mask of both breasts, uint8 (Z, Y, X).
    """
    spacing = spacing or default_spacing(parameters, shape)
    anatomy = build(parameters, shape=shape, spacing=spacing)
    return measure(parameters, anatomy, spacing=spacing), anatomy.mask


def default_spacing(parameters: PhantomParameters, shape: tuple[int, int, int]) -> tuple[float, float, float]:
    """Say which voxel size covers the scan's field of view.

    Args:
        parameters: The phantom.
        shape: Voxels along Z, Y, X.

    Returns:
        Voxel size along Z, Y, X in mm.
    """
    z, y, x = (extent / n for extent, n in zip(parameters.scan.field_of_view, shape, strict=True))
    return z, y, x


def case_parameters(seed: int, site: str, index: int, *, test: bool = False) -> PhantomParameters:
    """Draw the parameters of one case of a dataset: they depend on nothing but these four.

    Args:
        seed: Seed of the dataset.
        site: `A` or `B`.
        index: Number of the case, from 0.
        test: Whether it is a test case; those are numbered on their own.

    Returns:
        The parameters.

    Raises:
        DiffaugError: If there is no such site.
    """
    return draw_parameters(np.random.default_rng([seed, find_site(site).code, int(test), index]), site)


def write_dataset(
    out: Path,
    *,
    task: int,
    cases: int,
    seed: int = 0,
    site: str = "A",
    shape: tuple[int, int, int] = (32, 48, 64),
    labelled: int | None = None,
    test: int = 0,
) -> Path:
    """Write a dataset of phantoms in nnU-Net's raw layout. Run again, it goes on where it stopped.

    Args:
        out: The folder of raw datasets, usually `$nnUNet_raw`.
        task: Number of the dataset, 1 to 999.
        cases: Cases to train with, labelled or not.
        seed: Seed of the dataset.
        site: `A` or `B`.
        shape: Voxels along Z, Y, X.
        labelled: The first so many cases go to `imagesTr` and `labelsTr`, the others without labels to `imagesUn`;
            by default all are labelled.
        test: Further cases for `imagesTs` and `labelsTs`.

    Returns:
        The dataset's folder, `<out>/Dataset<task>_BreastPhantom<site>`.

    Raises:
        DiffaugError: If a number makes no sense, or if another dataset is in the way.
    """
    out = Path(out)
    labelled = cases if labelled is None else labelled
    _check(task=task, cases=cases, site=site, shape=shape, labelled=labelled, test=test, seed=seed)
    folder = out / f"Dataset{task:03d}_BreastPhantom{site}"
    asked = {"seed": seed, "site": site, "cases": cases, "labelled": labelled, "test": test, "shape": list(shape)}
    _claim(folder, {"phantom": VERSION, **asked})
    for index in range(cases + test):
        of_test = index >= cases
        number = index - cases if of_test else index
        name = f"phantom{site}{'_test' * of_test}_{number + 1:04d}"
        images, labels = ("imagesTs", "labelsTs") if of_test else ("imagesTr", "labelsTr")
        masked = of_test or index < labelled
        _write_case(
            case_parameters(seed, site, number, test=of_test),
            shape,
            folder / (images if masked else "imagesUn") / f"{name}_0000.nii.gz",
            folder / labels / f"{name}.nii.gz" if masked else None,
        )
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "breast": 1},
        "numTraining": labelled,
        "file_ending": ".nii.gz",
        "name": folder.name,
        "description": f"Procedural breast MRI phantoms, site {site}, seed {seed}: no person's data",
    }
    if not (folder / "dataset.json").exists():
        write_json(folder / "dataset.json", description)
    return folder


def _check(
    *, task: int, cases: int, site: str, shape: tuple[int, int, int], labelled: int, test: int, seed: int
) -> None:
    find_site(site)
    if not 1 <= task <= 999:
        raise DiffaugError(f"task {task}: not a dataset number, expected 1 to 999; give another --task")
    if cases < 1 or not 0 <= labelled <= cases or test < 0 or seed < 0:
        raise DiffaugError(
            f"cases {cases}, labelled {labelled}, test {test}, seed {seed}: expected cases of 1 or more, "
            "labelled from 0 to cases, test and seed of 0 or more; fix the number"
        )
    if len(shape) != 3 or min(shape) < 8:
        raise DiffaugError(f"shape {tuple(shape)}: expected three numbers (Z, Y, X) of 8 or more; fix the shape")


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make sure that the folder is new or was begun with the same settings."""
    number = folder.name.split("_")[0]
    others = sorted(p.name for p in folder.parent.glob(f"{number}_*") if p.is_dir() and p != folder)
    if others:
        raise DiffaugError(
            f"{folder.parent / others[0]}: already has this number, expected none but {folder.name}; "
            "give another --task or remove that folder"
        )
    file = folder / SETTINGS_FILE
    if not file.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise DiffaugError(
                f"{folder}: holds another dataset (no {SETTINGS_FILE} in it), expected an empty or missing folder; "
                "give another --task or remove that folder"
            )
        write_json(file, settings)
        return
    found = read_json(file, "give another --task or remove that folder")
    if found != settings:
        differs = [key for key in sorted(settings.keys() | found.keys()) if found.get(key) != settings.get(key)]
        raise DiffaugError(
            f"{file}: found {', '.join(f'{k} {found.get(k)}' for k in differs)}, "
            f"expected {', '.join(f'{k} {settings.get(k)}' for k in differs)}; "
            "give another --task or remove that folder"
        )


def _write_case(
    parameters: PhantomParameters, shape: tuple[int, int, int], image_file: Path, mask_file: Path | None
) -> None:
    if image_file.exists() and (mask_file is None or mask_file.exists()):
        return
    image, mask = render(parameters, shape)
    # Scanners store whole numbers; so many fit into 16 bits that none is clipped in practice.
    whole = np.clip(np.rint(image), 0, np.iinfo(np.int16).max).astype(np.int16)
    for values, file in ((whole, image_file), (mask, mask_file)):
        if file is not None:
            _write_volume(values, parameters, file)


def _write_volume(values: np.ndarray, parameters: PhantomParameters, file: Path) -> None:
    spacing = default_spacing(parameters, (values.shape[0], values.shape[1], values.shape[2]))
    volume = sitk.GetImageFromArray(values)
    volume.SetSpacing(spacing[::-1])
    scan = parameters.scan
    # The table's isocentre lies in the chest: patients are never centred on the first voxel.
    corner = [-(n - 1) / 2 * step for n, step in zip(values.shape, spacing, strict=True)]
    volume.SetOrigin((corner[2] - scan.shift[1], corner[1] + scan.front / 4, corner[0] - scan.shift[0]))
    write_image(volume, file)
