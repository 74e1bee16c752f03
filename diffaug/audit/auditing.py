"""The stage `audit`: how good, how varied and how private the synthetic volumes are, in one report."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffaug import __version__
from diffaug.audit.diversity import measure_diversity
from diffaug.audit.fidelity import measure_fidelity, reconstruct
from diffaug.audit.findings import Findings
from diffaug.audit.material import Material, windows_of
from diffaug.audit.memorisation import KINDS, as_query, compare, floor, nearest, plan_search, plant, planted_shift
from diffaug.audit.report import draw_similarities, render
from diffaug.engine.devices import start_fabric
from diffaug.errors import DiffaugError
from diffaug.generator.fitting import discard, open_cache
from diffaug.generator.model import Generator
from diffaug.generator.sampling import sample
from diffaug.volumes.pictures import mosaic
from diffaug.workspace import Workspace, atomic_path, file_hash, locked, read_json, write_json

SEED = 0
HELD_OUT_VIEWS = 4  # windows of each held-out scan where the field of view is `patch`
TRAINING_COMPARED = 200  # training scans compared with the others, at most
PLANTED = 8  # training scans of which copies are planted
SHOWN = 6  # volumes per row of a picture


def audit(workspace: Workspace, *, device: str = "auto", fresh: bool = False) -> Path:
    """Audit the synthetic volumes of a task; fits and samples first where that is missing.

    Args:
        workspace: The task's workspace.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard an audit that is there.

    Returns:
        The report, one HTML file that needs nothing beside it. It shows real scans: treat it as patient data.

    Raises:
        DiffaugError: If generator or volumes are broken, or another process works here.
    """
    volumes = sample(workspace, device=device)
    folder = workspace.audit
    with locked(folder):
        if fresh:
            discard(folder)
        report, file = folder / "report.html", folder / "manifest.json"
        inputs = {
            "generator_sha256": file_hash(workspace.generator / "generator.safetensors"),
            "sample_manifest_sha256": file_hash(volumes / "manifest.json"),
        }
        if file.is_file() and report.is_file():
            before = read_json(file, "run: diffaug audit --fresh")
            if before.get("finished") and before.get("inputs") == inputs:
                print(f"audit: {report} is there already")
                return report
        begun = {"stage": "audit", "finished": False, "version": __version__, "inputs": inputs}
        write_json(file, begun)
        findings = _look(workspace, inputs, start_fabric(device).device, folder)
        _write_table(findings, folder / "nearest.csv")
        with atomic_path(report) as temporary:
            temporary.write_text(render(findings, folder), encoding="utf-8")
        write_json(file, {**begun, "finished": True, "figures": findings.figures()})
    return report


def _look(workspace: Workspace, inputs: dict[str, str], device: torch.device, folder: Path) -> Findings:
    """Measure everything, and draw the pictures."""
    manifest = read_json(workspace.synthetic / "manifest.json", "run: diffaug sample")
    generator = Generator.load(workspace.generator / "generator.safetensors").to(device)
    plan = generator.plan
    if not plan.held_out:
        raise DiffaugError(
            f"{workspace.generator / 'plan.json'}: held_out is empty, expected scans that fitting never saw; move some "
            "there and fit anew with --fresh"
        )
    cache = open_cache(workspace, plan)
    material = Material(plan, cache, workspace.synthetic, windows_of(manifest["volumes"]))
    rng = np.random.default_rng(SEED)
    names, cases, held_out = material.names, list(plan.cases), list(plan.held_out)
    voxels = len(plan.channels) * int(np.prod(plan.grid.shape))

    def places(count: int) -> list[str]:
        return [names[i] for i in rng.integers(len(names), size=count)]

    def decoded(volume: np.ndarray) -> np.ndarray:
        return reconstruct(generator.autoencoder, volume)

    some = _some(cases, len(held_out), rng)
    fidelity, fidelity_training = (
        measure_fidelity(generator.autoencoder, material, ids, places(len(ids)), SEED) for ids in (held_out, some)
    )
    beside = [(case, names[i % len(names)]) for i, case in enumerate(_some(cases, len(cases), rng))]
    diversity = measure_diversity(
        lambda i: material.synthetic(names[i]), len(names), voxels, device=device, seed=SEED, what="synthetic"
    )
    diversity_real = measure_diversity(
        lambda i: material.real(*beside[i]), len(beside), voxels, device=device, seed=SEED, what="real"
    )

    search = plan_search(plan.grid)
    views = HELD_OUT_VIEWS if plan.grid.field_of_view == "patch" else 1
    unseen = [(case, like) for case in held_out for like in places(views)]
    others = [(case, like) for case, like in beside[:TRAINING_COMPARED]]
    sources = list(zip(_some(cases, PLANTED, rng), places(PLANTED), strict=False))
    planted: list[tuple[str, str, str]] = []  # kind of copy, the scan it was made from, its place
    count = len(names) + len(unseen) + len(others) + len(KINDS) * len(sources)
    with tqdm(total=count, desc="describing volumes", unit="volume", ascii=True) as bar:

        def described(volumes: Iterable[np.ndarray]) -> list[Tensor]:
            queries = []
            for volume in volumes:
                queries.append(as_query(volume, search))
                bar.update()
            return queries

        queries = described(material.synthetic(name) for name in names)
        # as smooth as synthetic volumes are: these come out of the same decoder
        queries += described(decoded(material.real(*where)) for where in unseen)
        queries += described(material.real(*where) for where in others)
        for number, (case, like) in enumerate(sources):
            volume = material.real(case, like)
            moved = material.real(case, like, planted_shift(search))
            copies = plant(volume, moved, decoded(volume), search, SEED + number)
            queries += described(copies.values())
            planted += [(kind, case, like) for kind in copies]
    where = [*names, *(like for _, like in [*unseen, *others]), *(like for _, _, like in planted)]
    scores = compare(material, torch.stack(queries), where, cases, search, device)
    labels = [*names, *(f"held-out {case}" for case, _ in unseen), *(case for case, _ in others)]
    labels += [f"planted copy of {case}" for _, case, _ in planted]
    found = nearest(scores, labels, cases)
    ends = np.cumsum([len(names), len(unseen), len(others)])
    synthetic, seen_by_none, among, of_copies = (
        list(found[a:b]) for a, b in zip([0, *ends], [*ends, None], strict=True)
    )
    findings = Findings(
        dataset=workspace.dataset,
        version=__version__,
        inputs=inputs,
        request=manifest["request"],
        plan=plan,
        fidelity=fidelity,
        fidelity_training=fidelity_training,
        diversity=diversity,
        diversity_real=diversity_real,
        search=search,
        synthetic=synthetic,
        held_out=seen_by_none,
        training=among,
        planted=[(kind, case, near) for (kind, case, _), near in zip(planted, of_copies, strict=True)],
        floor=floor(seen_by_none, SEED),
        seed=SEED,
    )
    _draw(findings, material, decoded, beside, places(SHOWN), folder)
    return findings


def _some(cases: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    return [cases[i] for i in rng.permutation(len(cases))[:count]]


def _draw(
    findings: Findings,
    material: Material,
    decoded: Callable[[np.ndarray], np.ndarray],
    beside: Sequence[tuple[str, str]],
    places: Sequence[str],
    folder: Path,
) -> None:
    """Draw the report's pictures, of the first channel."""
    grid = material.plan.grid

    def draw(rows: dict[str, list[np.ndarray]], name: str, captions: dict[str, list[str]] | None = None) -> None:
        mosaic(rows, folder / name, spacing=grid.spacing, orientation=grid.orientation, captions=captions)

    real = [material.real(case, like) for case, like in zip(material.plan.held_out[:SHOWN], places, strict=False)]
    rows = {"held-out scan": [v[0] for v in real], "reconstruction": [decoded(v)[0] for v in real]}
    draw(rows, "reconstructions.png")
    rows = {
        "real scan": [material.real(*where)[0] for where in beside[:SHOWN]],
        "synthetic": [material.synthetic(name)[0] for name in material.names[:SHOWN]],
    }
    draw(rows, "volumes.png")
    closest = sorted(findings.synthetic, key=lambda n: -n.similarity)[:SHOWN]
    scans = [material.real(near.case, near.name)[0] for near in closest]
    mirror = findings.search.mirror
    draw(
        {
            "synthetic": [material.synthetic(near.name)[0] for near in closest],
            "nearest training scan": [
                np.flip(v, mirror) if n.mirrored else v for v, n in zip(scans, closest, strict=True)
            ],
        },
        "nearest_pairs.png",
        {
            "synthetic": [near.name for near in closest],
            "nearest training scan": [
                f"{n.case}{', mirrored' if n.mirrored else ''}\nsimilarity {n.similarity:.3f}, ratio {n.ratio:.2f}"
                for n in closest
            ],
        },
    )
    draw_similarities(findings, folder / "similarities.png")


def _write_table(findings: Findings, file: Path) -> None:
    """Write every synthetic volume's nearest scan, for people who filter their set."""
    with atomic_path(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["synthetic", "nearest_training_scan", "similarity", "ratio", "mirrored", "flagged"])
        for near in findings.synthetic:
            flagged = findings.is_flagged(near)
            writer.writerow(
                [near.name, near.case, f"{near.similarity:.4f}", f"{near.ratio:.4f}", near.mirrored, flagged]
            )
