"""Peak memory of one quantisation, in a process of its own; `speed.py` calls it once per contender.

    python -m benchmarks.quantise_memory medicaldiffusion --medicaldiffusion PATH

32,768 positions of 8 channels, as all four latents of the paper have, against 16,384 codes. Linux only.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import torch

from benchmarks.medicaldiffusion_shims import load_medicaldiffusion
from diffaug.generator.codebook import Codebook

LATENT = (1, 8, 32, 32, 32)
CODES = 16384


def memory(field: str) -> int:
    """Read this process's memory.

    Args:
        field: `VmRSS` for now, `VmHWM` for the most since the last reset.

    Returns:
        Bytes.
    """
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def main() -> None:
    """Quantise once and print peak memory and seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=("diffaug", "medicaldiffusion"))
    parser.add_argument("--medicaldiffusion", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    latent = torch.randn(LATENT)
    if arguments.contender == "diffaug":
        codebook = Codebook(CODES, LATENT[1]).eval()
        codebook.codes.normal_()
        quantise = codebook.quantise
    else:
        library = load_medicaldiffusion(arguments.medicaldiffusion)
        quantise = library.Codebook(CODES, LATENT[1]).eval()
    with torch.no_grad():
        quantise(latent[..., :1])  # what is made once, such as thread pools, belongs to the start
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak (proc(5))
        before = memory("VmRSS")
        start = time.perf_counter()
        quantise(latent)
        seconds = time.perf_counter() - start
    print(json.dumps({"bytes": memory("VmHWM") - before, "seconds": seconds}))


if __name__ == "__main__":
    main()
