"""Pretraining of the network of an nnU-Net plan: what is trained, and what is written of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffaug.nnunet.augmentation import SpatialAugmentation
from diffaug.nnunet.networks import build_downstream
from diffaug.nnunet.plans import ConfigurationManager, PlansManager
from diffaug.nnunet.weights.format import ENCODER, read_encoder, save_encoder
from diffaug.nnunet.weights.transfer import load_encoder
from diffaug.pretraining.pretexts import Pretext, Shown
from diffaug.scans.cache import VolumeCache
from diffaug.scans.pictures import curves, mosaic
from diffaug.scans.windows import Window, cut
from diffaug.training.log import read_log
from diffaug.training.overfitting import Watch
from diffaug.workspace import Workspace

HELD_OUT_SHARE = 0.1  # share of the volumes that only measure
HELD_OUT_VOLUMES = 8
SHOWN_AT_ONCE = 2  # of them at once, as many as the smallest batch of a budget


class PretextObjective:
    """Trains the network of an nnU-Net plan on a pretext."""

    averaged: str | None = None
    watch: Watch | None = None

    def __init__(
        self,
        network: nn.Module,
        pretext: Pretext,
        volumes: Sequence[tuple[VolumeCache, str]],
        patch_size: Sequence[int],
        spacing: Sequence[float],
        seed: int,
        weight_decay: float = 1e-2,
    ) -> None:
        self.weight_decay = weight_decay
        self.networks = {"network": network}
        if pretext.helper is not None:
            self.networks["helper"] = pretext.helper
        self.pretext = pretext
        self.patch_size = tuple(patch_size)
        self.spacing = spacing
        order = np.random.default_rng(seed).permutation(len(volumes))
        count = min(HELD_OUT_VOLUMES, round(HELD_OUT_SHARE * len(volumes)))
        held_out = [volumes[i] for i in order[:count]] or list(volumes[:1])
        self.volumes = [volumes[i] for i in order[count:]] or list(volumes)
        self.held_out = torch.stack([self._middle(*volume) for volume in held_out])
        self.augment = SpatialAugmentation(self.patch_size)

    def _middle(self, cache: VolumeCache, case: str) -> Tensor:
        volume = cache[case]
        offset = tuple((n - p) // 2 for n, p in zip(volume.shape[1:], self.patch_size, strict=True))
        return torch.from_numpy(cut(volume, Window(offset, volume.shape[1:]), self.patch_size, "constant"))

    def example(self, rng: np.random.Generator) -> Tensor:
        """Draw an augmented patch of a random volume.

        Args:
            rng: Source of randomness.

        Returns:
            `(C, *patch size)`.
        """
        cache, case = self.volumes[rng.integers(len(self.volumes))]
        volume = cache[case]
        region = self.augment.region
        offset = []
        for size, patch, edge in zip(volume.shape[1:], self.patch_size, region, strict=True):
            # the patch itself lies inside the volume wherever it can; only the margin may stick out
            low, high = sorted((0, size - patch))
            offset.append(int(rng.integers(low, high + 1)) - (edge - patch) // 2)
        image = torch.from_numpy(cut(volume, Window(tuple(offset), volume.shape[1:]), region, "constant"))
        return self.augment(image, int(rng.integers(2**32)))

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimiser.

        Args:
            learning_rate: At its peak.

        Returns:
            The optimiser of the network, and of the pretext's helper.
        """
        parameters = [parameter for network in self.networks.values() for parameter in network.parameters()]
        return {"network": AdamW(parameters, learning_rate, weight_decay=self.weight_decay)}

    def losses(self, batch: Tensor, progress: float) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the pretext's loss.

        Args:
            batch: `(B, C, Z, Y, X)`.
            progress: Share of the training that is done.

        Yields:
            Optimiser, loss, figures.
        """
        yield "network", self.pretext.solve(self.networks["network"], batch).loss, {}

    @torch.no_grad()
    def _on_held_out(self) -> Shown:
        network = self.networks["network"]
        device = next(network.parameters()).device
        network.eval()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            # few at a time: all of them, and in single precision, may need more memory than a step of the training
            solved = (self.pretext.solve(network, some.to(device)) for some in self.held_out.split(SHOWN_AT_ONCE))
            parts = [Shown(*(each.cpu() for each in part)) for part in solved]
        network.train()
        loss = torch.stack([len(part.seen) * part.loss for part in parts]).sum() / len(self.held_out)
        return Shown(loss, *(torch.cat(volumes) for volumes in zip(*(part[1:] for part in parts), strict=True)))

    def styles(self) -> dict[str, Any] | None:
        """Tell what restyles scans as those look that were trained on; None where the pretext has not learnt it."""
        return self.pretext.styles(self._middle(*volume) for volume in self.volumes)

    def validate(self, average: nn.Module | None) -> dict[str, float]:
        """Measure held-out volumes, with fixed noise or masks.

        Args:
            average: Not used.

        Returns:
            The loss.
        """
        self.shown = self._on_held_out()
        return {"held_out": float(self.shown.loss)}

    def preview(self, file: Path, average: nn.Module | None) -> None:
        """Draw what the last validation has shown, what the network made of it, and the truth.

        Args:
            file: The PNG.
            average: Not used.
        """
        rows = {"seen": self.shown.seen, "predicted": self.shown.predicted, "truth": self.shown.truth}
        drawn = {title: [v[0] for v in volumes[:4].float().cpu().numpy()] for title, volumes in rows.items()}
        low, high = np.percentile(drawn["truth"], (0.5, 99.5))
        mosaic(drawn, file, spacing=self.spacing, limits=(float(low), float(high)))


def require_loadable(
    network: nn.Module,
    workspace: Workspace,
    configuration: ConfigurationManager,
    plans: PlansManager,
    dataset_json: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Load a dummy of the file into the downstream network: a mismatch costs a second now, not a day later.

    Args:
        network: The network to be pretrained.
        workspace: The task's workspace.
        configuration: nnU-Net's configuration.
        plans: nnU-Net's plans.
        dataset_json: The task's `dataset.json`.
        provenance: Of the file.

    Raises:
        DiffaugError: If it does not fit.
    """
    downstream = build_downstream(configuration, plans, dataset_json, network=workspace.network)
    with tempfile.TemporaryDirectory() as folder:
        dummy = Path(folder) / "encoder.pt"
        save_encoder(
            dummy,
            network,
            name=workspace.configuration,
            configuration=configuration.configuration,
            provenance=provenance,
            kind=workspace.network,
        )
        stored = read_encoder(dummy)
        load_encoder(downstream, stored, configuration=configuration.configuration, kind=workspace.network)


def write_result(
    workspace: Workspace,
    configuration: ConfigurationManager,
    objective: PretextObjective,
    provenance: dict[str, Any],
) -> dict[str, float]:
    """Write the encoder file and the curves.

    Args:
        workspace: The task's workspace.
        configuration: nnU-Net's configuration.
        objective: After the training.
        provenance: Of the file.

    Returns:
        The last figures.
    """
    folder = workspace.encoder
    save_encoder(
        folder / ENCODER,
        objective.networks["network"],
        name=workspace.configuration,
        configuration=configuration.configuration,
        provenance=provenance,
        kind=workspace.network,
        styles=objective.styles(),
    )
    lines = [line for line in read_log(folder / "log.jsonl") if line["fit"] == "pretext"]
    drawn = {
        key: ([line["step"] for line in lines if key in line], [line[key] for line in lines if key in line])
        for key in ("network_loss", "held_out")
    }
    curves(drawn, folder / "pretext_curves.png", title=f"pretext: {provenance['pretext']}", x="step")
    return {key: values[-1] for key, (_, values) in drawn.items()}
