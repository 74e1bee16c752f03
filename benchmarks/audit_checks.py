"""Does the audit say what is wrong? Six synthetic sets with known defects, made from the hippocampus scans, and its verdicts.

    python -m benchmarks.audit_checks --dataset $nnUNet_raw/Dataset004_Hippocampus --samples SYNTHETIC/imagesTr --work work

Real scans are halved by patient (consecutive ids 2k-1 and 2k); ids in the list `test` of scarce_split.json are in nothing.
Every audit is `diffaug audit --real first_half --synthetic SET`. All share one --out, so the copy detector is fitted once.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from benchmarks.measuring import keep_figures
from diffaug.cli import main as diffaug
from diffaug.copies.changes import COPY_KINDS, change
from diffaug.files import write_json

PLANTED = 0.1  # share of the second half that is replaced by copies of scans of the first
SIGMA = 1.0  # of the blur, in voxels
EXPECTED = {
    "real half": "no defect",
    "planted copies": "copies of training scans",
    "our samples": "",
    "noise": "noisy",
    "blurred": "blurred",
    "one volume repeated": "one volume repeated",
}
SEED = 0


def halves(dataset: Path) -> tuple[list[Path], list[Path]]:
    """Halve the scans by patient.

    Args:
        dataset: The raw dataset, with `scarce_split.json`.

    Returns:
        Files of the first and of the second half.
    """
    pool = json.loads((dataset / "scarce_split.json").read_text())["pool"]
    patients: dict[int, list[str]] = {}
    for case in sorted(pool):
        patients.setdefault((int(case.rpartition("_")[2]) + 1) // 2, []).append(case)
    order = np.random.default_rng(SEED).permutation(sorted(patients))
    found = [[case for patient in order[i::2] for case in patients[int(patient)]] for i in range(2)]
    first, second = ([dataset / "imagesTr" / f"{case}_0000.nii.gz" for case in sorted(half)] for half in found)
    return first, second


def copied(files: list[Path], folder: Path) -> Path:
    """Copy files into a folder.

    Args:
        files: The files.
        folder: Where to.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy2(file, folder / file.name)  # with its time, so that a second run finds the audit finished
    return folder


def written(files: list[Path], folder: Path, make: Callable[[int, np.ndarray], np.ndarray], prefix: str = "") -> Path:
    """Write changed volumes with the geometry of the files they come from, each once.

    Args:
        files: The files.
        folder: Where to.
        make: Number and voxels `(Z, Y, X)` in [-1, 1] of a volume to the new voxels.
        prefix: Of the new names.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        target = folder / f"{prefix}{number:03d}_0000.nii.gz"
        if not target.is_file():
            image = sitk.ReadImage(str(file))
            voxels = sitk.GetArrayFromImage(image).astype(np.float32)
            low, high = (float(v) for v in np.percentile(voxels, (0.1, 99.9)))
            made = make(number, np.clip((voxels - low) / (high - low), 0, 1) * 2 - 1)
            new = sitk.GetImageFromArray(((made + 1) / 2 * (high - low) + low).astype(np.float32))
            new.CopyInformation(image)
            sitk.WriteImage(new, str(target))
    return folder


def make_sets(dataset: Path, samples: Path, work: Path) -> tuple[Path, dict[str, Path]]:
    """Write the real half and the six sets.

    Args:
        dataset: The raw dataset.
        samples: Volumes of a fitted generator.
        work: Where to.

    Returns:
        The folder of real scans, and the sets by name.
    """
    first, second = halves(dataset)
    rng = np.random.default_rng(SEED)
    count = round(PLANTED * len(second))
    sources = [first[i] for i in rng.permutation(len(first))[:count]]

    def changed(number: int, voxels: np.ndarray) -> np.ndarray:
        kind = COPY_KINDS[number % len(COPY_KINDS)]
        return change(kind, voxels[None], np.random.default_rng((SEED, number)), mirror=2)[0]

    planted = copied(second[count:], work / "sets" / "planted_copies")
    written(sources, planted, changed, "planted_")
    write_json(
        work / "planted.json", {f"planted_{i:03d}": s.name.removesuffix("_0000.nii.gz") for i, s in enumerate(sources)}
    )
    return copied(first, work / "first_half"), {
        "real half": copied(second, work / "sets" / "real_half"),
        "planted copies": planted,
        "our samples": samples,
        "noise": written(
            second, work / "sets" / "noise", lambda i, v: np.random.default_rng((SEED, i)).normal(0, 0.3, v.shape)
        ),
        "blurred": written(second, work / "sets" / "blurred", lambda i, v: gaussian_filter(v, SIGMA)),
        "one volume repeated": written([second[0]] * len(second), work / "sets" / "repeated", lambda i, v: v),
    }


def look(name: str, out: Path, planted: dict[str, str]) -> dict[str, object]:
    """Read what an audit said.

    Args:
        name: Of the set.
        out: The audit's folder.
        planted: Name of each planted copy and the scan it was made from.

    Returns:
        A row of the table.
    """
    manifest = json.loads((out / "manifest.json").read_text())
    rows = list(csv.DictReader((out / "copies.csv").open()))
    called = {row["synthetic"]: row["nearest_training_scan"] for row in rows if row["copy"] == "True"}
    true = planted if name == "planted copies" else {}
    found = sum(called.get(copy) == source for copy, source in true.items())
    figures = manifest["figures"]
    distances = figures["distances"]["self-supervised encoder"] | figures["textures"]
    made, real = (figures[f"ms_ssim_{what}"]["value"] for what in ("synthetic", "real"))
    return {
        "set": name,
        "volumes": len(rows),
        "expected": EXPECTED[name],
        "said": "; ".join(manifest["defects"]) or "no defect",
        "planted found": f"{found} of {len(true)}" if true else "",
        "false alarms": f"{sum(copy not in true for copy in called)} of {len(rows) - len(true)}",
        **{
            figure: f"{c['figure']['value']:.3g} (floor {c['floor']['value']:.3g}): {c['verdict']}"
            for figure, c in distances.items()
        },
        "fineness, dB": f"{figures['fineness_db']['value']:.1f}",
        "MS-SSIM": f"{made:.3f} (real {real:.3f})",
    }


def main() -> None:
    """Run the audits of the command line and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="Dataset004_Hippocampus")
    parser.add_argument("--samples", type=Path, required=True, help="synthetic volumes of a fitted generator")
    parser.add_argument("--work", type=Path, required=True, help="where volumes and audits go")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    real, sets = make_sets(arguments.dataset, arguments.samples, arguments.work)
    planted = json.loads((arguments.work / "planted.json").read_text())
    out, rows = arguments.work / "audit", []
    for name, folder in sets.items():
        print(f"\n== {name}", flush=True)
        if code := diffaug(["audit", "--real", str(real), "--synthetic", str(folder), "--out", str(out)]):
            raise SystemExit(code)
        kept = arguments.work / "reports" / name.replace(" ", "_")
        shutil.copytree(out, kept, ignore=shutil.ignore_patterns("work", ".lock"), dirs_exist_ok=True)
        rows.append(look(name, kept, planted))
        print(rows[-1], flush=True)
    head = "".join(f"| {key} " for key in rows[0]) + "|\n" + "|---" * len(rows[0]) + "|\n"
    table = "".join("".join(f"| {value} " for value in row.values()) + "|\n" for row in rows)
    arguments.results.mkdir(parents=True, exist_ok=True)
    text = f"# What the audit says of sets with known defects\n\n```\n{__doc__}```\n\n{head}{table}"
    (arguments.results / "audit_checks.md").write_text(text)
    keep_figures(arguments.results / "audit_checks.md", rows)
    print(f"\n{text}")


if __name__ == "__main__":
    main()
