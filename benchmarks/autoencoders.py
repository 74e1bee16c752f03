"""Our autoencoder against MONAI's VQVAE: equal latent, parameters, steps, batches and pieces of scans, in one run.

    python -m benchmarks.autoencoders --task 4 --configuration 3d_cpu_small --out work/autoencoders

Uses the plan and the preprocessed scans of a task that `diffaug fit --like paper` (it may be stopped once scans are read) has
prepared: MONAI's has codes, so ours has them, too. MONAI's
network is trained as MONAI's tutorial trains it (mean absolute error plus quantisation loss, Adam), once with the
tutorial's learning rate and once with ours. The table goes to `--out` as Markdown.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import VQVAE
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from diffaug.audit.figures import mean_figure
from diffaug.budgets import Training
from diffaug.generator.fit_autoencoder import AutoencoderObjective, centre_window
from diffaug.generator.plan import GeneratorPlan
from diffaug.scans.pictures import mosaic
from diffaug.scans.similarity import psnr, ssim
from diffaug.stages.fit import open_cache
from diffaug.training.devices import start_fabric
from diffaug.training.loop import train
from diffaug.training.step import Unwatched
from diffaug.workspace import Workspace, dataset_name

TUTORIAL_RATE = 1e-4
PARAMETERS = 0.1  # most that the numbers of parameters may differ


class VqvaeObjective(Unwatched):
    """MONAI's VQVAE, trained on the very pieces of scans that ours sees."""

    def __init__(self, ours: AutoencoderObjective, channels: int) -> None:
        self.ours = ours
        levels = len(ours.plan.autoencoder["strides"])
        self.network = VQVAE(
            spatial_dims=3,
            in_channels=len(ours.plan.channels),
            out_channels=len(ours.plan.channels),
            channels=(channels,) * levels,
            num_res_channels=channels,
            num_res_layers=1,
            downsample_parameters=((2, 4, 1, 1),) * levels,
            upsample_parameters=((2, 4, 1, 1, 0),) * levels,
            num_embeddings=ours.plan.autoencoder["codes"],
            embedding_dim=ours.plan.autoencoder["latent_channels"],
        )
        self.networks: dict[str, nn.Module] = {"vqvae": self.network}

    def example(self, rng: np.random.Generator) -> Tensor:
        """Draw what ours would see."""
        return self.ours.example(rng)

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the tutorial's optimiser."""
        return {"vqvae": Adam(self.network.parameters(), learning_rate)}

    def losses(self, batch: Tensor, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the tutorial's loss."""
        made, quantisation = self.network(batch)
        yield "vqvae", F.l1_loss(made, batch) + quantisation, {}

    def reconstruct(self, volumes: list[np.ndarray]) -> list[np.ndarray]:
        """Send volumes through the network."""
        self.network.eval()
        with torch.no_grad():
            return [self.network(torch.from_numpy(v)[None])[0][0].clamp(-1, 1).numpy() for v in volumes]


def parameters(network: nn.Module) -> int:
    """Count weights."""
    return sum(p.numel() for p in network.parameters())


def equal_width(ours: AutoencoderObjective) -> int:
    """Find the width at which MONAI's network has as many parameters as ours."""
    target = parameters(ours.autoencoder)
    width = min(range(8, 257, 4), key=lambda c: abs(parameters(VqvaeObjective(ours, c).network) - target))
    found = parameters(VqvaeObjective(ours, width).network)
    if abs(found / target - 1) > PARAMETERS:
        raise SystemExit(f"no width of MONAI's VQVAE has {target} parameters; the nearest has {found}")
    return width


def main() -> None:
    """Train all, measure them on the held-out scans, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--steps", type=int, help="as many as the plan says by default")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    workspace = Workspace(dataset_name(arguments.task), "nnUNetPlans", arguments.configuration)
    plan = GeneratorPlan.load(workspace.generator / "plan.json")
    if "codes" not in plan.autoencoder:
        sys.exit(f"{workspace.generator / 'plan.json'}: has no codes, expected a plan of diffaug fit --like paper")
    cache = open_cache(workspace, plan)
    arguments.out.mkdir(parents=True, exist_ok=True)
    fabric = start_fabric("cpu")
    settings = plan.autoencoder_training
    steps = arguments.steps or settings.steps

    def fitted(name: str, objective: Any, rate: float) -> Any:
        training = Training(steps=steps, batch_size=settings.batch_size, learning_rate=rate, seed=settings.seed)
        folder = arguments.out / name.replace(" ", "_")
        folder.mkdir(exist_ok=True)
        started = time.process_time()
        train(objective, objective.example, training, fabric=fabric, folder=folder, name="fit", identity=name)
        return objective, time.process_time() - started

    torch.manual_seed(settings.seed)
    ours = AutoencoderObjective(plan, cache)
    width = equal_width(ours)
    arms = {"diffaug": fitted("diffaug", ours, settings.learning_rate)}
    for name, rate in (("MONAI VQVAE", TUTORIAL_RATE), ("MONAI VQVAE, our rate", settings.learning_rate)):
        torch.manual_seed(settings.seed)
        arms[name] = fitted(name, VqvaeObjective(ours, width), rate)
    held_out = [centre_window(cache, case, plan.grid.shape) for case in plan.held_out]
    lines = [
        f"Dataset {workspace.dataset}: {len(plan.cases)} scans to fit, {len(held_out)} held out, {plan.grid.shape} voxels, "
        f"{steps} steps of {settings.batch_size} pieces of {plan.autoencoder_crop}, seed {settings.seed}.",
        "",
        "| | parameters | PSNR in dB | SSIM | CPU seconds |",
        "|---|---|---|---|---|",
    ]
    rows = {"held-out scan": [v[0] for v in held_out[:4]]}
    for name, (objective, seconds) in arms.items():
        made = objective.reconstruct(held_out)
        rows[name] = [v[0] for v in made[:4]]
        pairs = [(torch.from_numpy(a)[None], torch.from_numpy(b)[None]) for a, b in zip(made, held_out, strict=True)]
        by_psnr = mean_figure([float(psnr(*pair)) for pair in pairs], 0).text(2)
        by_ssim = mean_figure([float(ssim(*pair)) for pair in pairs], 0).text(3)
        count = parameters(next(iter(objective.networks.values())))
        lines.append(f"| {name} | {count} | {by_psnr} | {by_ssim} | {seconds:.0f} |")
    table = "\n".join(lines)
    (arguments.out / "autoencoders.md").write_text(table + "\n")
    mosaic(rows, arguments.out / "autoencoders.png", spacing=plan.grid.spacing, orientation=plan.grid.orientation)
    print(table)


if __name__ == "__main__":
    main()
