"""What a reader study is handed of a task: its scans, and what `sample` made."""

from __future__ import annotations

from diffaug.files import read_json
from diffaug.generator.plan import GeneratorPlan
from diffaug.reader_study.requests import MakeRequest
from diffaug.reader_study.sides import require_alike
from diffaug.reader_study.volumes import Side
from diffaug.scans.dataset import open_dataset
from diffaug.scans.folders import open_images
from diffaug.scans.windows import Window, inside
from diffaug.shapes import require_shape
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
    grid = GeneratorPlan.load(workspace.generator / "plan.json").grid
    places = {}
    for name, volume in begun["volumes"].items():
        window = Window(tuple(volume["offset"]), tuple(volume["extent"]))
        within = zip(window.offset, inside(window, grid.shape), window.extent, strict=True)
        places[name] = tuple((offset + (part.start + part.stop) / 2) / extent for offset, part, extent in within)
    sides = [
        Side("real", open_dataset(workspace.raw), request.real_count),
        Side("synthetic", open_images(workspace.synthetic, "synthetic volumes"), request.synthetic_count, places),
    ]
    return require_alike([side for side in sides if side.count], request)
