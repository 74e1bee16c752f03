"""The stage `audit`: how good, how varied and how private synthetic volumes are, in one report, whoever made them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffaug import __version__
from diffaug.audit.auditing import Audited, Report, make_report
from diffaug.audit.folders import from_folders, open_folders
from diffaug.audit.inputs import from_task
from diffaug.audit.requests import Extras, FoldersRequest
from diffaug.errors import DiffaugError
from diffaug.files import LOCK, file_hash, fingerprint, read_json, remove
from diffaug.generator.fitting import COPIES
from diffaug.generator.model import Generator
from diffaug.outputs import require_own_folder
from diffaug.scans.folders import identity
from diffaug.shapes import require_shape
from diffaug.stages.fit import fitted_scans, open_cache
from diffaug.stages.manifests import SampleBegun
from diffaug.stages.stage import MANIFEST, Stage, open_stage
from diffaug.training.devices import start_fabric
from diffaug.workspace import Workspace

WORK = "work"  # what another audit of the same scans can use again


def audit(workspace: Workspace, model: Path, volumes: Path, extras: Extras, *, device: str, fresh: bool) -> Path:
    """Audit the synthetic volumes of a task.

    Args:
        workspace: The task's workspace.
        model: The generator file.
        volumes: The folder of its volumes.
        extras: What the user added.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard an audit that is there.

    Returns:
        The report, one HTML file that needs nothing beside it. It shows real scans: treat it as patient data.
    """
    manifest = read_json(volumes / MANIFEST, "run: diffaug sample")
    require_shape(manifest, SampleBegun, volumes / MANIFEST, "make the volumes anew: diffaug sample --fresh")
    inputs = {
        "generator_sha256": file_hash(model),
        "sample_manifest_sha256": file_hash(volumes / MANIFEST),
        "copy_test_sha256": file_hash(workspace.generator / COPIES),
    }

    def gather() -> Audited:
        generator = Generator.load(model).to(start_fabric(device).device)
        plan = generator.plan
        if extras.nnunet_model is not None and plan.grid.field_of_view == "patch":
            raise DiffaugError(
                f"--nnunet-model {extras.nnunet_model}: this generator makes windows that cut organs, expected one of whole "
                "scans; leave the option out"
            )
        files = {case.id: case.files for case in fitted_scans(workspace).cases}
        volumes = from_task(workspace, plan, manifest["volumes"], open_cache(workspace, plan), files)
        work = _work(workspace.audit, inputs["generator_sha256"])
        return Audited(volumes, workspace.generator / COPIES, work, generator.autoencoder)

    return _audit(workspace.audit, inputs | {"sampling": manifest["request"]}, gather, extras, device, fresh)


def audit_folders(request: FoldersRequest, out: Path, extras: Extras, *, device: str, fresh: bool) -> Path:
    """Audit the volumes of any generator, from folders of files.

    Args:
        request: The folders.
        out: Where report, pictures and everything in between go.
        extras: What the user added.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard an audit that is there.

    Returns:
        The report, as `audit` gives it.

    Raises:
        DiffaugError: If `out` holds anything but an audit.
    """
    folders = (request.real, request.synthetic, request.unseen)
    require_own_folder(out, "an audit", _holds_audit(out), folders)  # --fresh empties it
    found = open_folders(request)
    for name, dataset in found.items():
        for inventory in dataset.inventories:
            print(f"audit: --{name} {inventory.text}", flush=True)
    inputs: dict[str, Any] = {
        name: {"folder": str(folder), "volumes": len(dataset.cases), "state": fingerprint(identity(dataset))}
        for name, folder in zip(("real", "synthetic", "unseen"), folders, strict=True)
        if folder is not None and (dataset := found[name])
    }
    kind = start_fabric(device).device.type
    # another set of synthetic volumes against the same scans needs no other grid and no other detector
    of_scans = [kind, *(v["state"] for name, v in inputs.items() if name != "synthetic")]

    def gather() -> Audited:
        work = _work(out, fingerprint(of_scans))
        return Audited(from_folders(request, found, work, kind), work / COPIES, work, None)

    return _audit(out, inputs, gather, extras, device, fresh)


def _holds_audit(folder: Path) -> bool:
    """Tell whether a folder is an audit's, be it one that was stopped before it had a manifest."""
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if MANIFEST in names:
        manifest = read_json(folder / MANIFEST, "name another --out")
        return isinstance(manifest, dict) and manifest.get("stage") == "audit"
    kept = [entry.name for entry in (folder / WORK).iterdir()] if WORK in names else []
    return names <= {LOCK, WORK} and all(re.fullmatch("[0-9a-f]{16}", name) for name in kept)


def _work(folder: Path, key: str) -> Path:
    return folder / WORK / key


def require_there(extras: Extras) -> None:
    """Find what is missing before anything long begins.

    Args:
        extras: What the user added.

    Raises:
        DiffaugError: If a file or folder is missing.
    """
    for file in extras.weights:
        if not file.is_file():
            raise DiffaugError(f"--weights {file}: no such file, expected a network's weights; fix the path")
    if extras.nnunet_model is not None and not extras.nnunet_model.is_dir():
        raise DiffaugError(
            f"--nnunet-model {extras.nnunet_model}: no such folder, expected a trained model; fix the path"
        )


def _audit(
    folder: Path, inputs: dict[str, Any], gather: Callable[[], Audited], extras: Extras, device: str, fresh: bool
) -> Path:
    """Make the report, unless it is there and of the same inputs and version: what has changed is named."""
    fabric = start_fabric(device)
    with open_stage("audit", folder, fresh=fresh, active=fabric.is_global_zero) as stage:
        model = extras.nnunet_model
        inputs = inputs | {
            "weights": [file_hash(file) for file in extras.weights],
            "nnunet_model": str(model.resolve()) if model else None,
        }
        report = folder / "report.html"
        changed = _changed(stage, inputs)
        if stage.finished and report.is_file():
            if not changed:
                print(f"audit: {report} is there already")
                return report
            print(f"audit: {', '.join(changed)} changed since the report was made; it is made anew", flush=True)
        with fabric.rank_zero_first():  # the others find what the first process has made anew
            if fresh and stage.active and (folder / WORK).is_dir():
                remove(folder / WORK)
            gathered = gather()
            stage.before = None  # what was measured of other inputs is no beginning
            stage.agree(None, keep=[WORK], inputs=inputs)
            stage.save()
        made: Report = make_report(gathered, extras, inputs, folder, report, fabric)
        stage.finish(**made)
        fabric.barrier()
    return report


def _changed(stage: Stage, inputs: dict[str, Any]) -> list[str]:
    before = stage.before or {}
    old = before.get("inputs", {})
    names = [name for name in {**old, **inputs} if old.get(name) != inputs.get(name)]
    return [*names, *(["diffaug's version"] if before.get("version") != __version__ else [])]
