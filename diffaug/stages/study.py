"""What a reader study is handed of a task: its scans, and what `sample` made."""

from __future__ import annotations

from dataclasses import replace

from diffaug.files import read_json
from diffaug.generator.model import Generator
from diffaug.reader_study.requests import MakeRequest
from diffaug.reader_study.sides import require_alike
from diffaug.reader_study.volumes import Side
from diffaug.scans.dataset import RawDataset, open_dataset
from diffaug.scans.folders import open_images
from diffaug.scans.windows import Window, inside
from diffaug.shapes import require_shape
from diffaug.stages.fit import FOREIGN, GENERATOR, fitted_scans
from diffaug.stages.manifests import SampleBegun
from diffaug.stages.stage import MANIFEST
from diffaug.workspace import Workspace


def sides_of_task(workspace: Workspace, request: MakeRequest) -> list[Side]:
    """Take a task's scans and what `sample` made.

    Args:
        workspace: The task's workspace.
        request: What was asked.

    Returns:
        Both sides. Where the generator makes pieces of scans, real volumes are cut where such pieces lie.

    Raises:
        DiffaugError: If there are no synthetic volumes, or no such channel.
    """
    manifest = workspace.synthetic / MANIFEST
    begun = read_json(manifest, f"make synthetic volumes first: {workspace.command('sample')}")
    require_shape(begun, SampleBegun, manifest, "make the set anew: diffaug sample --fresh")
    grid = Generator.load(workspace.generator / GENERATOR).plan.grid
    places = {}
    for name, volume in begun["volumes"].items():
        window = Window(tuple(volume["offset"]), tuple(volume["extent"]))
        within = zip(window.offset, inside(window, grid.shape), window.extent, strict=True)
        places[name] = tuple((offset + (part.start + part.stop) / 2) / extent for offset, part, extent in within)
    sides = []
    if request.real_count:  # of a generator from elsewhere there may be no scans here
        sides.append(Side("real", _real(workspace), request.real_count))
    if request.synthetic_count:
        volumes = open_images(workspace.synthetic, "synthetic volumes")
        sides.append(Side("synthetic", volumes, request.synthetic_count, places))
    return require_alike(sides, request)


def _real(workspace: Workspace) -> RawDataset:
    """List the scans that the generator was fitted on; the task's own where that happened elsewhere."""
    manifest = read_json(workspace.generator / MANIFEST, "run: diffaug fit --fresh")
    if FOREIGN in manifest:
        return open_dataset(workspace.raw)
    dataset = fitted_scans(workspace)  # with what has come since
    return replace(dataset, cases=tuple(case for case in dataset.cases if case.id in manifest["cases"]))
