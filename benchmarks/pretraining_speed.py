"""How close pretraining comes to the bare network: loader, augmentation, pretext and loop against nothing but the network.

    python -m benchmarks.pretraining_speed --threads 1

The network is that of the scarce-label benchmark's phantoms. Volumes hold random structures; those of pretexts with a
teacher hold random features, too, read and turned with the volume as in earnest. Steps of the bare network run in between.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import machine, write_report
from benchmarks.shapes import draw_shapes
from benchmarks.step_profile import bare_step, profile_fit
from diffaug.budgets import BUDGETS
from diffaug.nnunet.families import network_of
from diffaug.pretraining.fitting import PretextObjective
from diffaug.pretraining.pretexts import PRETEXTS, pretext_for
from diffaug.scans.cache import VolumeCache

PATCH = (48, 24, 32)
VOLUMES = 24
STAGES = (8, 16, 32, 64)
CLASS = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
ARCHITECTURE = {
    "n_stages": len(STAGES),
    "features_per_stage": list(STAGES),
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * len(STAGES),
    "strides": [[1, 1, 1], *[[2, 2, 2]] * (len(STAGES) - 1)],
    "n_conv_per_stage": [1] * len(STAGES),
    "n_conv_per_stage_decoder": [1] * (len(STAGES) - 1),
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}


def measure(name: str, steps: int, folder: Path) -> dict[str, object]:
    """Profile one pretext.

    Args:
        name: A key of `PRETEXTS`.
        steps: How many.
        folder: For its files.

    Returns:
        A row of the table.
    """
    needed = ["conv_op", "norm_op", "nonlin"]
    architecture = {"network_class_name": CLASS, "arch_kwargs": ARCHITECTURE, "_kw_requires_import": needed}
    planned = network_of({"patch_size": PATCH, "architecture": architecture})
    pretext = pretext_for(name, planned, 1)
    cache = VolumeCache(folder / "volumes")
    cases = [f"volume_{number}" for number in range(VOLUMES)]

    def make(case: str) -> np.ndarray:
        rng = np.random.default_rng(int(case.rpartition("_")[2]))
        volume = draw_shapes(rng, PATCH)
        return np.concatenate([volume[None], rng.standard_normal((pretext.taught, *PATCH))])

    cache.fill(cases, make)
    torch.manual_seed(0)
    network = planned.build(1, pretext.outputs(1))
    objective = PretextObjective(network, pretext, [(cache, case) for case in cases], PATCH, (1.0, 1.0, 1.0), 0)
    whole = BUDGETS["cpu-small"].pretraining

    class _Bare:
        """The network's own work: forward to the outputs, backward from them, and the optimiser."""

        def __init__(self) -> None:
            self.networks = objective.networks
            self.optimizers = objective.optimizers

        def losses(self, batch, progress):  # noqa: ANN001, ANN202
            yield "network", self.networks["network"](batch[:, :1]).square().mean(), {}

    bare = {"bare network": bare_step(_Bare())}  # type: ignore[arg-type]
    profile = profile_fit(objective, replace(whole, steps=steps), folder, bare, every=2, whole=whole.steps)
    seconds = statistics.fmean(profile.beside["bare network"])
    shares = {part: spent / profile.steps / profile.step for part, spent in profile.parts.items()}
    rare = sum(shares[part] for part in ("validation", "preview", "checkpoint"))
    return {
        "pretext": name,
        "ms per step": 1e3 * profile.step,
        "bare network, ms": 1e3 * seconds,
        "speed of the bare network's": f"{seconds / profile.step:.0%}",
        "waiting for data": f"{shares['data']:.1%}",
        "validation, preview, checkpoint": f"{rare:.1%}",
    }


def main() -> None:
    """Measure all pretexts and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pretraining_speed.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in PRETEXTS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, arguments.steps, Path(folder)))
        command = f"`python -m benchmarks.pretraining_speed --steps {arguments.steps} --threads {arguments.threads}`"
        budget = BUDGETS["cpu-small"].pretraining
        patch = " x ".join(map(str, PATCH))
        text = f"Batches of {budget.batch_size} patches of {patch} voxels, {budget.workers} loading process."
        section = {"text": text, "rows": rows, "figures": {}}
        write_report(arguments.out, "Pretraining's speed", {"command": command, **machine()}, {"Steps": section})
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
