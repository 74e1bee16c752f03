"""Write nnU-Net's `splits_final.json` with few labelled cases, as if the rest of the pool had no labels.

    python benchmarks/scarce_split.py --task 4 --lists scarce_split.json --labelled 8 --validation 8 --seed 0

Fold 0 trains on `--labelled` cases of the pool and validates on `--validation` others; test cases are in neither. Cases
of one person (consecutive ids 2k-1 and 2k, as in the hippocampus data) stay together.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scarce.data import by_person

from diffaug.workspace import Workspace, dataset_name, write_json


def draw(pool: list[str], labelled: int, validation: int, seed: int) -> dict[str, list[str]]:
    """Draw the labelled and the validation cases.

    Args:
        pool: Ids that may be drawn; the number after the last underscore tells who they belong to.
        labelled: How many to train on.
        validation: How many to validate on.
        seed: Of the draw.

    Returns:
        nnU-Net's `train` and `val` lists.
    """
    people = by_person(sorted(pool), paired=True)
    train: list[str] = []
    val: list[str] = []
    for person in np.random.default_rng(seed).permutation(len(people)):
        cases = people[person]
        if len(train) + len(cases) <= labelled:
            train += cases
        elif len(val) + len(cases) <= validation:
            val += cases
    return {"train": sorted(train), "val": sorted(val)}


def main() -> None:
    """Write the split of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--lists", type=Path, required=True, help="JSON with the list `pool`")
    parser.add_argument("--labelled", type=int, required=True)
    parser.add_argument("--validation", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pool = json.loads(arguments.lists.read_text())["pool"]
    split = draw(pool, arguments.labelled, arguments.validation, arguments.seed)
    file = Workspace(dataset_name(arguments.task)).preprocessed / "splits_final.json"
    write_json(file, [split])
    print(f"{file}: {len(split['train'])} labelled, {len(split['val'])} for validation")


if __name__ == "__main__":
    main()
