"""A generator leaves for another hospital, or comes from one: what is checked on either side."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from diffaug import __version__
from diffaug.errors import DiffaugError, times
from diffaug.files import atomic_path, emptied, file_hash, locked, read_json, write_json
from diffaug.generator.model import Generator
from diffaug.generator.preparing import nnunet_geometry
from diffaug.generator.travelling import ORIGIN, travelling
from diffaug.nnunet.dataset_json import channels_and_ending, read_dataset_json
from diffaug.scans.dataset import list_cases, open_dataset
from diffaug.shapes import require_shape
from diffaug.stages.fit import FOREIGN, GENERATOR
from diffaug.stages.manifests import AuditFinished
from diffaug.stages.stage import MANIFEST
from diffaug.workspace import Workspace

COARSER = 2.0  # a generator's voxels this many times as long as the task's cannot teach its detail: worth a word


def export_generator(workspace: Workspace, out: Path, *, origin: str, licence: str) -> Path:
    """Copy the generator for another hospital, without anything that points at a scan.

    Args:
        workspace: The task's workspace.
        out: The file to write, `.safetensors`.
        origin: What its scans are, in the sender's words.
        licence: On what terms it is given away: a text, or the name of a file that holds it.

    Returns:
        The file.

    Raises:
        DiffaugError: If there is no generator, it was never audited, its volumes hold copies, or the file is there.
    """
    if out.exists() or out.suffix != ".safetensors":
        found = "is there already" if out.exists() else f"ends in '{out.suffix}'"
        raise DiffaugError(f"--generator {out}: {found}, expected a new file that ends in .safetensors; give another")
    if not origin.strip() or not licence.strip():
        raise DiffaugError(
            "export: found no --origin or no --licence, expected both in words: who gets the file must know what its scans "
            "are, and what may be done with it"
        )
    file = workspace.generator / GENERATOR
    generator = Generator.load(file)
    if ORIGIN in generator.provenance:
        raise DiffaugError(
            f"{file}: came from elsewhere itself, expected one fitted here; pass on the file you were given"
        )
    told = {
        "scans": len(generator.plan.cases),
        "of": origin.strip(),
        "licence": _text(licence),
        "version": __version__,
        "exported": datetime.now(timezone.utc).date().isoformat(),
        "audit": _audited(workspace, file),
    }
    travelling(generator, told).save(out)
    return out


def _text(licence: str) -> str:
    file = Path(licence)
    try:
        return file.read_text(encoding="utf-8").strip() if len(licence) < 256 and file.is_file() else licence.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DiffaugError(
            f"--licence {licence}: cannot be read as text ({error}), expected UTF-8; fix the file"
        ) from error


def _audited(workspace: Workspace, generator: Path) -> dict[str, Any]:
    """Summarise the audit of a generator's volumes: no generator travels without, and none that copies."""
    file = workspace.audit / MANIFEST
    advice = f"run: {workspace.command('audit')}"
    report = read_json(file, advice) if file.is_file() else {}
    if not isinstance(report, dict) or not report.get("finished"):
        raise DiffaugError(f"{file}: found no finished audit, expected one: no generator travels unaudited; {advice}")
    require_shape(report, AuditFinished, file, f"{advice} --fresh")
    if report["inputs"].get("generator_sha256") != file_hash(generator):
        raise DiffaugError(f"{file}: is of another generator than {generator}, expected one of this; {advice}")
    return _summary(report, file)


def _summary(report: dict[str, Any], file: Path) -> dict[str, Any]:
    """Take from an audit's manifest what travels; copies end it."""
    copies = report["figures"]["copies"]
    verdict, sentence = report["verdicts"].get("copies", ("bad", "it has no verdict on them"))
    if verdict == "bad" or copies["certain"]:
        raise DiffaugError(
            f"{file}: found copies of training scans ({sentence}), expected none in what leaves the house; fit on more "
            "scans, or for fewer steps, and audit again"
        )
    return {
        "summary": " ".join(head for _, head in report["verdicts"].values()),
        "defects": report["defects"],
        "volumes": report["figures"]["volumes"].get("synthetic"),
        "c2st_auc": report["figures"].get("c2st_auc"),
        "c2st_textures": report["figures"].get("c2st_textures"),
        "copies": {key: copies[key] for key in ("found", "share", "share_of_real_scans", "by_chance", "planted_found")},
        "date": datetime.fromtimestamp(file.stat().st_mtime, timezone.utc).date().isoformat(),
    }


def import_generator(workspace: Workspace, file: Path, *, fresh: bool = False) -> Path:
    """Take a generator from elsewhere as the task's own; the task need have no scans.

    Args:
        workspace: The task's workspace.
        file: The file; nothing in it is executed.
        fresh: Whether to discard a generator that is there.

    Returns:
        Where the other verbs find it.

    Raises:
        DiffaugError: If it is no generator that was exported, makes other images than the task's, or another is there.
    """
    generator, hashed = Generator.load(file), file_hash(file)
    origin = _origin(generator, file)
    _require_same_channels(generator, workspace, file)
    target = workspace.generator / GENERATOR
    with locked(workspace.generator):
        if (workspace.generator / MANIFEST).is_file() and not fresh:
            if target.is_file() and file_hash(target) == hashed:
                return target
            raise DiffaugError(
                f"{workspace.generator / MANIFEST}: another generator is there already, expected none; discard it: diffaug "
                "import --generator --fresh"
            )
        with emptied(workspace.generator, file) as copy, atomic_path(target) as temporary:
            shutil.copyfile(copy, temporary)
        told = {"stage": "fit", "version": __version__, FOREIGN: origin, "generator_sha256": hashed}
        write_json(workspace.generator / MANIFEST, {**told, "cases": [], "excluded": [], "finished": True})
    print("\n".join(f"import: {line}" for line in _about(generator, workspace, origin)), flush=True)
    return target


def _origin(generator: Generator, file: Path) -> dict[str, Any]:
    origin = generator.provenance.get(ORIGIN)
    kinds = {"of": str, "scans": int, "licence": str, "audit": dict}
    if not isinstance(origin, dict) or not all(isinstance(origin.get(key), kind) for key, kind in kinds.items()):
        raise DiffaugError(
            f"{file}: does not say where it comes from, expected a file of diffaug export --generator; ask its sender for one"
        )
    return origin


def _require_same_channels(generator: Generator, workspace: Workspace, file: Path) -> None:
    """Require the task's channels by name: the name says what the numbers mean (`CT` is in Hounsfield units)."""
    info = workspace.raw / "dataset.json"
    ours, _ = channels_and_ending(read_dataset_json(workspace.raw))
    theirs = generator.plan.channels
    if [name.casefold() for name in ours] != [name.casefold() for name in theirs]:
        raise DiffaugError(
            f"{file}: makes images of the channels {', '.join(theirs)}, expected {', '.join(ours)} as {info} names them; if "
            "they mean the same, name them alike there"
        )


def _about(generator: Generator, workspace: Workspace, origin: dict[str, Any]) -> list[str]:
    """Say in a few lines what a generator is."""
    grid, audit = generator.plan.grid, origin["audit"]
    spacing, _ = nnunet_geometry(workspace)
    lines = [
        f"a generator of {origin['of']} ({origin['scans']} scans; licence: {_short(origin['licence'])})",
        f"its volumes: {times(grid.shape)} voxels of {times(grid.spacing)} mm, {grid.orientation}"
        + (f"; this task's plan: {times(spacing)} mm" if spacing else ""),
        f"its sender's audit of {audit.get('date')}: {audit.get('summary')}",
        "it does not say which scans it has seen: where yours may be among them, ask its sender before you report a Dice",
    ]
    ours = _orientation(workspace)
    if ours not in (None, grid.orientation):
        lines.append(
            f"WARNING: its volumes are {grid.orientation}, a scan of this task {ours}: nnU-Net turns neither, so they lie "
            f"otherwise; write your scans as {grid.orientation}, or ask for another generator"
        )
    if spacing and any(own > COARSER * wanted for own, wanted in zip(grid.spacing, spacing, strict=True)):
        lines.append(
            f"WARNING: its voxels are more than {COARSER:g} times as long as this task's: it cannot teach finer detail"
        )
    return lines


def _orientation(workspace: Workspace) -> str | None:
    """Tell where x, y and z of the task's first scan run to; None where it has no scans, or nnU-Net turns all alike."""
    info = read_dataset_json(workspace.raw)
    channels, ending = channels_and_ending(info)
    folders = [workspace.raw / "imagesTr", workspace.raw / "imagesUn"]
    if not list_cases(folders, ending, len(channels), info, workspace.raw):
        return None
    try:
        dataset = open_dataset(workspace.raw, plans=workspace.plans_file)
        if "Reorient" in type(dataset.reader()).__name__:
            return None
        return dataset.read(dataset.cases[0]).geometry.orientation
    except DiffaugError:  # a broken scan is told by whoever needs it
        return None


def _short(licence: str) -> str:
    return (licence.splitlines() or ["none"])[0]
