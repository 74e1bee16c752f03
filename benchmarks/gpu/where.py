"""Part 1: the machine, the versions, what cannot be imported, and which state of the code this is."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
from pathlib import Path

import torch

import diffaug
from benchmarks.gpu.context import Context
from benchmarks.measuring import machine

ROOT = Path(__file__).parents[2]
NEEDED = [
    *("SimpleITK", "nibabel", "monai", "lightning_fabric", "safetensors", "skimage", "filelock", "matplotlib"),
    *("nnunetv2", "batchgenerators", "batchgeneratorsv2", "dynamic_network_architectures", "acvl_utils"),
    *("diffaug.cli", "nnunet_plugin.trainers"),
]


def run(context: Context) -> None:
    """Look around.

    Args:
        context: The part's surroundings.
    """
    missing = {}
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken package raises is the finding
            missing[name] = f"{type(error).__name__}: {error}"
    figures = {**machine(), "diffaug": diffaug.__version__, "cannot import": missing, **state_of_the_code()}
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        figures |= {
            "GPU memory, GB": round(found.total_memory / 2**30, 1),
            "compute capability": f"{found.major}.{found.minor}",
            "CUDA": torch.version.cuda,
            "GPUs": torch.cuda.device_count(),
        }
    context.record(**figures)


def state_of_the_code() -> dict[str, str]:
    """Tell which code this is: the commit where git knows it, and a hash of all sources, which travels without git.

    Returns:
        `commit`, with a + where files differ from it, and `sources`.
    """
    digest = hashlib.sha256()
    for folder in ("benchmarks", "diffaug", "nnunet_plugin"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return {"commit": _commit(), "sources": digest.hexdigest()[:16]}


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "benchmarks", "diffaug", "nnunet_plugin")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
