"""The stage `audit`: how good, how varied and how private synthetic volumes are, in one report, whoever made them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from diffaug import __version__
from diffaug.audit.detecting import adopt_detector, adopt_encoder
from diffaug.audit.drawing import draw
from diffaug.audit.fidelity import reconstruct
from diffaug.audit.findings import Findings
from diffaug.audit.folders import FoldersRequest, from_folders, open_folders
from diffaug.audit.listing import identity
from diffaug.audit.material import Material, from_task
from diffaug.audit.measuring import Extras, measure
from diffaug.audit.report import render
from diffaug.audit.verdicts import conclude, defects
from diffaug.engine.devices import start_fabric
from diffaug.errors import DiffaugError
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.fitting import COPIES
from diffaug.generator.model import Generator
from diffaug.generator.sampling import sample
from diffaug.workspace import Workspace, atomic_path, discard, file_hash, fingerprint, locked, read_json, write_json


def audit(workspace: Workspace, extras: Extras | None = None, *, device: str = "auto", fresh: bool = False) -> Path:
    """Audit the synthetic volumes of a task; fits and samples first where that is missing.

    Args:
        workspace: The task's workspace.
        extras: What the user added.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard an audit that is there.

    Returns:
        The report, one HTML file that needs nothing beside it. It shows real scans: treat it as patient data.

    Raises:
        DiffaugError: If generator or volumes are broken, or another process works here.
    """
    extras = extras or Extras()
    _require(extras)
    volumes = sample(workspace, device=device)
    manifest = read_json(volumes / "manifest.json", "run: diffaug sample")
    model = workspace.generator / "generator.safetensors"
    inputs = {
        "generator_sha256": file_hash(model),
        "sample_manifest_sha256": file_hash(volumes / "manifest.json"),
        "copy_test_sha256": file_hash(workspace.generator / COPIES),
    }

    def gathered() -> tuple[Material, Path, Path, Autoencoder | None]:
        generator = Generator.load(model).to(start_fabric(device).device)
        plan = generator.plan
        if extras.nnunet_model is not None and plan.grid.field_of_view == "patch":
            raise DiffaugError(
                f"--nnunet-model {extras.nnunet_model}: this generator makes windows that cut organs, expected one of whole "
                "scans; leave the option out"
            )
        material = from_task(workspace, plan, manifest["volumes"])
        work = _work(workspace.audit, inputs["generator_sha256"])
        return material, workspace.generator / COPIES, work, generator.autoencoder

    return _audit(workspace.audit, inputs | {"sampling": manifest["request"]}, gathered, extras, device, fresh)


def audit_folders(
    request: FoldersRequest, out: Path, extras: Extras | None = None, *, device: str = "auto", fresh: bool = False
) -> Path:
    """Audit the volumes of any generator, from folders of files.

    Args:
        request: The folders.
        out: Where report, pictures and everything in between go.
        extras: What the user added.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard an audit that is there.

    Returns:
        The report, as `audit` gives it.
    """
    extras = extras or Extras()
    _require(extras)
    found = open_folders(request)
    inputs: dict[str, Any] = {
        name: {"folder": str(folder), "volumes": len(dataset.cases), "state": fingerprint(identity(dataset))}
        for name, folder in (("real", request.real), ("synthetic", request.synthetic), ("unseen", request.unseen))
        if folder is not None and (dataset := found[name])
    }
    kind = start_fabric(device).device.type
    # another set of synthetic volumes against the same scans needs no other grid and no other detector
    of_scans = [kind, *(v["state"] for name, v in inputs.items() if name != "synthetic")]

    def gathered() -> tuple[Material, Path, Path, None]:
        work = _work(out, fingerprint(of_scans))
        return from_folders(request, found, work, kind), work / COPIES, work, None

    return _audit(out, inputs, gathered, extras, device, fresh)


def _work(folder: Path, key: str) -> Path:
    return folder / "work" / key


def _require(extras: Extras) -> None:
    """Find what is missing before anything long begins."""
    for file in extras.weights:
        if not file.is_file():
            raise DiffaugError(f"--weights {file}: no such file, expected a network's weights; mend the path")
    if extras.nnunet_model is not None and not extras.nnunet_model.is_dir():
        raise DiffaugError(
            f"--nnunet-model {extras.nnunet_model}: no such folder, expected a trained model; mend the path"
        )


def _audit(
    folder: Path,
    inputs: dict[str, Any],
    gather: Callable[[], tuple[Material, Path, Path, Autoencoder | None]],
    extras: Extras,
    device: str,
    fresh: bool,
) -> Path:
    """Measure, conclude and report; what is finished is not redone."""
    with locked(folder):
        if fresh:
            discard(folder)
        report, file = folder / "report.html", folder / "manifest.json"
        inputs = inputs | {
            "weights": [file_hash(p) for p in extras.weights],
            "nnunet_model": _named(extras.nnunet_model),
        }
        if file.is_file() and report.is_file():
            before = read_json(file, "run: diffaug audit --fresh")
            if before.get("finished") and before.get("inputs") == inputs:
                print(f"audit: {report} is there already")
                return report
        begun = {"stage": "audit", "finished": False, "version": __version__, "inputs": inputs}
        write_json(file, begun)
        fabric = start_fabric(device)
        material, kept, work, autoencoder = gather()
        detector = adopt_detector(material, kept, fabric)
        encoder = adopt_encoder(material, work, fabric)
        findings = measure(
            material,
            detector,
            encoder,
            extras=extras,
            autoencoder=autoencoder,
            inputs=inputs,
            device=fabric.device,
        )
        verdicts = conclude(findings)
        _write_table(findings, folder / "copies.csv")
        draw(findings, material, partial(reconstruct, autoencoder) if autoencoder else None, folder)
        with atomic_path(report) as temporary:
            temporary.write_text(render(findings, verdicts, folder), encoding="utf-8")
        told = {"defects": defects(verdicts), "verdicts": {v.subject: [v.kind, v.head] for v in verdicts}}
        write_json(file, {**begun, "finished": True, **told, "figures": findings.figures()})
    return report


def _named(model: Path | None) -> str | None:
    return str(model.resolve()) if model else None


def _write_table(findings: Findings, file: Path) -> None:
    """Write the verdict on every synthetic volume, for people who filter their set."""
    with atomic_path(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["synthetic", "nearest_training_scan", "similarity", "ratio", "copy"])
        for near in findings.copies.synthetic:
            writer.writerow([near.name, near.case, f"{near.similarity:.4f}", f"{near.ratio:.4f}", near.copy])
