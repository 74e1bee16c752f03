"""What `fit` does before any network is trained: agree on the request, measure the scans, plan, resample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diffaug import __version__
from diffaug.errors import DiffaugError
from diffaug.generator.plan import GeneratorPlan, make_plan
from diffaug.generator.sites import read_sites
from diffaug.volumes.cache import VolumeCache
from diffaug.volumes.dataset import RawDataset, excluded_ids, open_dataset
from diffaug.volumes.grid import Reading, read_off, to_canonical
from diffaug.volumes.nnunet import read_plans
from diffaug.workspace import Workspace, file_hash, fingerprint, read_json, write_json


@dataclass(frozen=True)
class FitRequest:
    """What was asked of `fit`; a second run must ask the same, or discard the first with `--fresh`.

    Attributes:
        budget: A key of `diffaug.generator.plan.BUDGETS`.
        field_of_view: `auto`, `whole` or `patch`.
        images: Extra folders of images.
        exclude: `--exclude` rules.
        seed: Of everything random.
        sites: File that tells which site each case comes from; None takes `sites.csv` of the raw dataset, if it is there.
    """

    budget: str = "gpu-24g"
    field_of_view: str = "auto"
    images: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ("fold:0",)
    seed: int = 0
    sites: str | None = None

    @staticmethod
    def from_dict(content: dict[str, Any]) -> FitRequest:
        """Rebuild a request from a manifest.

        Args:
            content: What `asdict` gave, read from JSON.

        Returns:
            The request.
        """
        return FitRequest(**{**content, "images": tuple(content["images"]), "exclude": tuple(content["exclude"])})


def agree(workspace: Workspace, request: FitRequest | None) -> tuple[dict[str, Any], RawDataset]:
    """Compare what is asked now with what was asked before, and list the scans.

    Args:
        workspace: The task's workspace.
        request: What is wanted; None takes whatever was asked before, or the defaults.

    Returns:
        The manifest and the dataset.

    Raises:
        DiffaugError: If request or scans are no longer those it was begun with.
    """
    file = workspace.generator / "manifest.json"
    before = read_json(file, "run: diffaug fit --fresh") if file.is_file() else None
    if before is not None:
        asked = FitRequest.from_dict(before["request"])
        if request is not None and request != asked:
            changed = [k for k, v in asdict(asked).items() if asdict(request)[k] != v]
            raise DiffaugError(
                f"{file}: this generator was begun with other options ({', '.join(changed)}), expected the same; repeat "
                "them, or discard it with --fresh"
            )
        request = asked
    request = request or FitRequest()
    extra = [Path(folder) for folder in request.images]
    excluded = excluded_ids(workspace, request.exclude, extra)
    dataset = open_dataset(workspace.raw, extra=extra, exclude=excluded)
    cases = [case.id for case in dataset.cases]
    if before is None:
        begun = {"stage": "fit", "finished": False, "version": __version__, "request": asdict(request)}
        return {**begun, "cases": cases, "excluded": sorted(excluded)}, dataset
    if before["cases"] != cases:
        raise DiffaugError(
            f"{file}: the scans of {workspace.dataset} are no longer those it was begun with ({len(before['cases'])} then, "
            f"{len(cases)} now); restore them, or fit anew with --fresh"
        )
    return before, dataset


def measure_scans(dataset: RawDataset, folder: Path) -> dict[str, Reading]:
    """Measure every scan once; this also finds every broken file before anything long begins.

    Args:
        dataset: The scans.
        folder: The generator's folder, which keeps the readings.

    Returns:
        Id of each case and its reading.
    """
    file = folder / "readings.json"
    if not file.is_file():
        entries = {}
        for case in tqdm(dataset.cases, "reading scans", unit="scan", ascii=True):
            reading = read_off(case.id, dataset.read(case), dataset.channels)
            entries[case.id] = {**asdict(reading), "sha256": [file_hash(path) for path in case.files]}
        write_json(file, entries)
    stored = read_json(file, "delete it and run diffaug fit again")
    return {case: _reading(entry) for case, entry in stored.items()}


def _reading(entry: dict[str, Any]) -> Reading:
    return Reading(
        case=entry["case"],
        size=tuple(entry["size"]),
        spacing=tuple(entry["spacing"]),
        orientation=entry["orientation"],
        ranges=tuple((low, high) for low, high in entry["ranges"]),
        mean=tuple(entry["mean"]),
        std=tuple(entry["std"]),
    )


def find_sites(workspace: Workspace, request: FitRequest, manifest: dict[str, Any]) -> dict[str, str]:
    """Read where the scans come from, if that is known and the plan does not yet say it.

    Args:
        workspace: The task's workspace.
        request: What is wanted.
        manifest: Of the fit.

    Returns:
        Site of each case that the file names.
    """
    beside = workspace.raw / "sites.csv"
    if (workspace.generator / "plan.json").is_file() or (request.sites is None and not beside.is_file()):
        return {}
    return read_sites(Path(request.sites or beside), manifest["cases"], manifest["excluded"])


def plan_task(
    workspace: Workspace,
    request: FitRequest,
    dataset: RawDataset,
    readings: dict[str, Reading],
    sites: Mapping[str, str],
) -> GeneratorPlan:
    """Read the plan, or make it where there is none.

    Args:
        workspace: The task's workspace.
        request: What is wanted.
        dataset: The scans.
        readings: Id of each case and its reading.
        sites: Site of each case where it is known.

    Returns:
        The plan, as a person may have edited it.

    Raises:
        DiffaugError: If the plan is broken or names cases that are not there.
    """
    file = workspace.generator / "plan.json"
    if not file.is_file():
        spacing, patch_size = _nnunet_geometry(workspace)
        plan = make_plan(
            list(readings.values()),
            dataset.channels,
            budget=request.budget,
            field_of_view=request.field_of_view,
            spacing=spacing,
            patch_size=patch_size,
            site_of=sites,
            seed=request.seed,
        )
        plan.save(file)
    plan = GeneratorPlan.load(file)
    if unknown := {*plan.cases, *plan.held_out, *plan.conditions.site_of} - readings.keys():
        raise DiffaugError(
            f"{file}: found the unknown case {min(unknown)}, expected ids of the dataset; mend the lists"
        )
    return plan


def _nnunet_geometry(workspace: Workspace) -> tuple[list[float] | None, list[int] | None]:
    """Take spacing and patch size from the nnU-Net plan, if there is one, in the files' axis order."""
    if not workspace.plans_file.is_file():
        return None, None  # an unlabelled dataset has no plan
    plans, configuration = read_plans(workspace)
    back = plans.transpose_backward
    return [float(configuration.spacing[i]) for i in back], [int(configuration.patch_size[i]) for i in back]


def fill_cache(dataset: RawDataset, plan: GeneratorPlan, readings: dict[str, Reading], folder: Path) -> VolumeCache:
    """Resample the plan's scans to its grid, once.

    Args:
        dataset: The scans.
        plan: The plan.
        readings: Id of each case and its reading.
        folder: The generator's folder, which keeps the cache.

    Returns:
        The cache.
    """
    # an edited grid gets a cache of its own
    cache = VolumeCache(folder / "cache" / fingerprint([plan.grid.spacing, plan.grid.orientation]))
    cases = {case.id: case for case in dataset.cases}
    wanted = tqdm([*plan.cases, *plan.held_out], "resampling scans", unit="scan", ascii=True)
    cache.fill(wanted, lambda case: to_canonical(dataset.read(cases[case]), readings[case], plan.grid)[0])
    return cache


def open_cache(workspace: Workspace, plan: GeneratorPlan) -> VolumeCache:
    """Open the scans as fitting resampled them; what is no longer there is resampled again.

    Args:
        workspace: The task's workspace.
        plan: The generator's plan.

    Returns:
        The cache, with all of the plan's scans.
    """
    _, dataset = agree(workspace, None)
    return fill_cache(dataset, plan, measure_scans(dataset, workspace.generator), workspace.generator)
