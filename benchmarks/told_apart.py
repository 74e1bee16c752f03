"""Are the classifier two-sample tests silent where there is nothing to tell, and do they speak where there is?

    python -m benchmarks.told_apart --work FOLDER --set phantom REAL SYNTHETIC --set hippocampus REAL SYNTHETIC \
        --set hearts REAL SYNTHETIC

REAL and SYNTHETIC are folders of images. Real scans are cut into thirds by patient, ten times. Of each split the second third
stands for the synthetic volumes: it must not be told from the first by more than the third one is (the floor). In the first
split synthetic volumes, slightly blurred scans and scans with a block of another scan take the second third's place, and must
be told apart: by the network or by the discriminant of textures. Killed, it goes on when run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measuring import table
from benchmarks.scarce.data import DATA_SETS
from diffaug.audit.apartness import MOST, at_least_chance, tell_apart
from diffaug.audit.discriminant import tell_textures_apart, texture_statistics
from diffaug.audit.figures import Compared, Figure, area_figure
from diffaug.audit.folders import from_folders, open_folders
from diffaug.audit.inputs import AuditInputs
from diffaug.audit.requests import FoldersRequest
from diffaug.audit.spoiling import blurred, patched, strangers
from diffaug.errors import DiffaugError
from diffaug.patients import by_patient
from diffaug.training.devices import start_fabric

Volumes = list[np.ndarray]


def thirds(cases: Sequence[str], patient: Callable[[str], Hashable], seed: int) -> list[list[str]]:
    """Cut scans into thirds of one size, no patient in two of them.

    Args:
        cases: Ids of the scans.
        patient: Tells whose a scan is.
        seed: Of the split.

    Returns:
        Three lists of ids.
    """
    patients = list(by_patient(cases, patient).values())
    order = np.random.default_rng(seed).permutation(len(patients))
    parts = [[case for i in order[start::3] for case in patients[i]] for start in range(3)]
    return [part[: min(MOST, *map(len, parts))] for part in parts]


def checks(
    inputs: AuditInputs, patient: Callable[[str], object], seed: int, work: Path
) -> Iterator[tuple[str, Compared]]:
    """Hold the second third, and in the first split what is known to differ, against the first third.

    Args:
        inputs: Real scans and synthetic volumes.
        patient: Tells whose a scan is.
        seed: Of the split.
        work: Where a stopped check goes on from.

    Yields:
        What stood in the second third's place, and its area beside the floor.
    """
    fabric, mirror = start_fabric("cpu"), inputs.grid.mirror
    split = thirds(inputs.training, patient, seed)
    first, second, third = ([inputs.real(case) for case in part] for part in split)
    whose = [[str(patient(case)) for case in part] for part in split]

    def apart(name: str, volumes: Volumes, owners: Sequence[str]) -> list[np.ndarray]:
        sets, patients = [first, volumes], [whose[0], owners]
        return tell_apart(sets, patients, mirror=mirror, seed=seed, fabric=fabric, folder=work / str(seed), name=name)

    textures = texture_statistics(first)

    def textured(volumes: Volumes, owners: Sequence[str]) -> Figure:
        return area_figure(tell_textures_apart((textures, texture_statistics(volumes)), (whose[0], owners), seed), seed)

    floor = at_least_chance(area_figure(apart("floor", third, whose[2]), seed))
    floor_of_textures = at_least_chance(textured(third, whose[2]))
    others: dict[str, Callable[[], tuple[Volumes, Sequence[str]]]] = {"scans": lambda: (second, whose[1])}
    if seed == 0:
        rng = np.random.default_rng(seed)
        names = [inputs.names[i] for i in rng.permutation(len(inputs.names))[: len(first)]]
        others |= {
            "synthetic volumes": lambda: ([inputs.synthetic(name) for name in names], names),
            "scans, slightly blurred": lambda: ([blurred(volume) for volume in second], whose[1]),
            "scans, a block of another in them": lambda: (
                [patched(v, other, rng) for v, other in zip(second, strangers(second), strict=True)],
                whose[1],
            ),
        }
    for name, make in others.items():
        made = make()
        yield name, Compared(area_figure(apart(name, *made), seed), floor, higher_is_better=False)
        yield f"{name}: textures", Compared(textured(*made), floor_of_textures, higher_is_better=False)


def main() -> int:
    """Run the checks of the command line and write the table.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where resampled volumes and finished checks go")
    parser.add_argument("--set", nargs=3, action="append", required=True, metavar=("NAME", "REAL", "SYNTHETIC"))
    parser.add_argument("--splits", type=int, default=10, help="(%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "told_apart.md", help="the table"
    )
    arguments = parser.parse_args()
    rows = []
    try:
        for name, real, synthetic in arguments.set:
            request = FoldersRequest(Path(real), Path(synthetic))
            rows += rows_of(name, request, arguments.splits, arguments.work / name)
    except DiffaugError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.out.write_text(f"# Told apart?\n\n```\n{__doc__}```\n\n{table(rows)}\n")
    return 0


def rows_of(name: str, request: FoldersRequest, splits: int, work: Path) -> list[dict[str, object]]:
    """Check one data set.

    Args:
        name: Of the data set.
        request: Its folders.
        splits: How often the scans are cut into thirds.
        work: Where resampled volumes and finished checks go.

    Returns:
        A row of the table for each thing that stood in the second third's place.
    """
    inputs = from_folders(request, open_folders(request), work, "cpu")
    patient = DATA_SETS[name].patient if name in DATA_SETS else str
    found: dict[str, list[Compared]] = {}
    for seed in range(splits):
        for what, compared in checks(inputs, patient, seed, work):
            found.setdefault(what, []).append(compared)
            print(f"{name}, split {seed}, {what}: {compared.text()}", flush=True)
    rows: list[dict[str, object]] = []
    for what, some in found.items():
        areas = [compared.figure.value for compared in some]
        rows.append(
            {
                "data": name,
                "against scans": what,
                "volumes": some[0].figure.n,
                "area": f"{np.mean(areas):.3f} ({min(areas):.3f} to {max(areas):.3f})",
                "floor": f"{np.mean([c.floor.value for c in some]):.3f}",
                "not told apart": f"{sum(c.verdict == 'at the floor' for c in some)} of {len(some)}",
                "told apart": f"{sum(c.verdict == 'off' for c in some)} of {len(some)}",
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
