"""How good a few-label model's labels of the unlabelled pool are, and what averaging mirrored predictions adds to them.

    python -m benchmarks.scarce_labels run --data phantom --arms real --labelled 10 20 --seeds 2
    python -m benchmarks.tried.self_training.quality --labelled 10 20 --seeds 2

Teachers are the models that the first command leaves. The pool is phantoms of the other site, whose true masks are known.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_dice

from benchmarks.measuring import machine, write_report
from benchmarks.scarce.arms import ARMS
from benchmarks.scarce.data import PHANTOM, PHANTOM_SHAPE
from benchmarks.scarce.oracle import true_mask
from benchmarks.tried.self_training.labelling import SURE, likeliest, load_model
from diffaug.files import read_json
from diffaug.nnunet.plans import read_plans
from diffaug.nnunet.predictor import make_predictor
from diffaug.pretraining.preprocessing import preprocess
from diffaug.pretraining.sources import folder_source
from diffaug.workspace import nnunet_folder

ARM = ARMS["real"]


def measure(labelled: int, seed: int, volumes: int, folder: Path) -> list[dict[str, object]]:
    """Label some of the pool with the model of a cell, with and without mirrored predictions.

    Args:
        labelled: Number of labelled cases of the teacher.
        seed: Of the teacher.
        volumes: How many to label.
        folder: For preprocessed volumes.

    Returns:
        Two rows of the table.
    """
    workspace = ARM.workspace(PHANTOM)
    plans, configuration = read_plans(workspace)
    dataset_json = read_json(workspace.raw / "dataset.json", "restore it")
    source = folder_source(workspace, nnunet_folder("nnUNet_raw") / PHANTOM.pool, set())
    cache, cases = preprocess(source, plans, configuration, dataset_json, folder)
    fold = PHANTOM.fold(labelled, seed)
    run = f"{ARM.trainer}__{workspace.plans}__{workspace.configuration}/fold_{fold}/checkpoint_final.pth"
    checkpoint = nnunet_folder("nnUNet_results") / workspace.dataset / run
    cpu = torch.device("cpu")
    network = load_model(checkpoint, plans, configuration, dataset_json, cpu)
    predictor = make_predictor(network, plans, configuration, dataset_json, device=cpu)
    predictor.allowed_mirroring_axes = (0, 1, 2)
    found: dict[bool, list[tuple[float, ...]]] = {False: [], True: []}
    for case in cases[:: len(cases) // volumes][:volumes]:
        volume = torch.from_numpy(np.array(cache[case], np.float32))
        truth = true_mask(case, plans, PHANTOM_SHAPE, tuple(volume.shape[1:]))[0].numpy() > 0.5
        for mirrored, rows in found.items():
            predictor.use_mirroring = mirrored
            start = time.perf_counter()
            logits = predictor.predict_logits_from_preprocessed_data(volume)
            seconds = time.perf_counter() - start
            organ, sure = logits.argmax(0).numpy() > 0, likeliest(logits) < len(logits)
            rows.append((_dice(organ[sure], truth[sure]), _dice(organ, truth), 1 - sure.mean(), seconds))
    table = []
    for mirrored, rows in found.items():
        in_sure, everywhere, unsure, seconds = np.mean(rows, axis=0)
        table.append(
            {
                "labels": labelled,
                "seed": seed,
                "mirrored": "yes" if mirrored else "no",
                "Dice where sure": f"{in_sure:.4f}",
                "Dice everywhere": f"{everywhere:.4f}",
                "unsure voxels": f"{unsure:.1%}",
                "seconds a volume": f"{seconds:.2f}",
            }
        )
    return table


def _dice(found: np.ndarray, truth: np.ndarray) -> float:
    mine, theirs = (torch.from_numpy(mask)[None, None] for mask in (found, truth))
    return float(compute_dice(mine, theirs))


def main() -> None:
    """Measure all teachers and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", type=int, nargs="+", default=[10], metavar="N", help="(%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--volumes", type=int, default=60, help="of the pool (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/tried/results/pseudo_labels.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for labelled in arguments.labelled
            for seed in range(arguments.seeds)
            for row in measure(labelled, seed, arguments.volumes, Path(folder))
        ]
    command = f"`{' '.join(['python', '-m', 'benchmarks.tried.self_training.quality', *sys.argv[1:]])}`"
    text = (
        f"{arguments.volumes} phantoms of site A, labelled by models of arm `{ARM.name}` that were trained on cases of "
        f"site B. Sure: the likeliest label has a probability of at least {SURE}."
    )
    section = {"text": text, "rows": rows, "figures": {}}
    write_report(arguments.out, "Pseudo-labels", {"command": command, **machine()}, {"Teachers": section})
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
