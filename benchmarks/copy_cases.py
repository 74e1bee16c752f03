"""Copy the images and labels of listed cases out of a raw dataset, for `nnUNetv2_predict` and its evaluation.

python benchmarks/copy_cases.py --from $nnUNet_raw/Dataset004_Hippocampus --list scarce_split.json:test --to work/test
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path


def main() -> None:
    """Copy the cases of the command line into `images` and `labels`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="raw dataset")
    parser.add_argument("--list", required=True, metavar="FILE:KEY", help="JSON with a list of ids")
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    file, _, key = arguments.list.rpartition(":")
    cases = json.loads(Path(file).read_text())[key]
    for kind, names in (("images", "imagesTr/{}_*"), ("labels", "labelsTr/{}.*")):
        folder = arguments.to / kind
        folder.mkdir(parents=True, exist_ok=True)
        for case in cases:
            for path in arguments.source.glob(names.format(case)):
                shutil.copy(path, folder)
    print(f"{arguments.to}: {len(cases)} cases")


if __name__ == "__main__":
    main()
