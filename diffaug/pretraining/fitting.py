"""The stage `pretrain`: from a folder of images to an encoder file for the network of an nnU-Net plan."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffaug import __version__
from diffaug.engine.devices import start_fabric
from diffaug.engine.loop import read_log, train
from diffaug.engine.turning import Watch
from diffaug.errors import DiffaugError
from diffaug.generator.fitting import fit
from diffaug.generator.preparing import FitRequest
from diffaug.generator.sampling import SampleRequest, sample
from diffaug.pretraining.encoder_file import IMPORTED, load_encoder, read_encoder, save_encoder
from diffaug.pretraining.networks import build_downstream, build_network
from diffaug.pretraining.plan import BUDGETS
from diffaug.pretraining.pretexts import PRETEXTS, Pretext, Shown
from diffaug.pretraining.sources import draw, find_teacher, open_sources, preprocess, source_hashes
from diffaug.volumes.cache import VolumeCache
from diffaug.volumes.dataset import excluded_ids
from diffaug.volumes.nnunet import read_plans
from diffaug.volumes.pictures import curves, mosaic
from diffaug.volumes.windows import Window, cut
from diffaug.workspace import Workspace, discard, file_hash, fingerprint, locked, read_json, write_json

HELD_OUT = 0.1  # share of the volumes that only measure
HELD_OUT_VOLUMES = 8
SHOWN = 2  # of them at once, as many as the smallest batch of a budget
SHAPES = 300  # volumes of random structures, where they are asked for
MARGIN = 1.3  # edge of what is read for a rotated or scaled patch, over the patch's own


@dataclass(frozen=True)
class PretrainRequest:
    """What was asked of `pretrain`.

    Attributes:
        images: Any of `synthetic`, `real`, `shapes`, or folders.
        pretext: A key of `PRETEXTS`.
        budget: A key of `BUDGETS`.
        exclude: `--exclude` rules.
        more_images: Further folders of real scans.
        seed: Of everything random.
        steps: How long; None for the budget's own number.
    """

    images: tuple[str, ...] = ("synthetic",)
    pretext: str = "denoise"
    budget: str = "gpu-24g"
    exclude: tuple[str, ...] = ("fold:0",)
    more_images: tuple[str, ...] = ()
    seed: int = 0
    steps: int | None = None


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
    ) -> None:
        self.networks = {"network": network}
        self.pretext = pretext
        self.patch_size = tuple(patch_size)
        self.spacing = spacing
        order = np.random.default_rng(seed).permutation(len(volumes))
        count = min(HELD_OUT_VOLUMES, round(HELD_OUT * len(volumes)))
        held_out = [volumes[i] for i in order[:count]] or list(volumes[:1])
        self.volumes = [volumes[i] for i in order[count:]] or list(volumes)
        self.held_out = torch.stack([self._middle(*volume) for volume in held_out])
        # the rotations and scalings of nnU-Net's own augmentation, so that fine-tuning brings nothing unheard of
        spatial = SpatialTransform(
            self.patch_size,
            patch_center_dist_from_border=0,
            random_crop=False,
            p_elastic_deform=0,
            p_rotation=0.2,
            rotation=(-np.pi / 6, np.pi / 6),
            p_scaling=0.2,
            scaling=(0.7, 1.4),
            p_synchronize_scaling_across_axes=1,
        )
        self.augment = ComposeTransforms([spatial, MirrorTransform(allowed_axes=(0, 1, 2))])

    def _middle(self, cache: VolumeCache, case: str) -> Tensor:
        volume = cache[case]
        offset = tuple((n - p) // 2 for n, p in zip(volume.shape[1:], self.patch_size, strict=True))
        return torch.from_numpy(cut(volume, Window(offset, volume.shape[1:]), self.patch_size, "constant"))

    def example(self, generator: np.random.Generator) -> Tensor:
        """Draw an augmented patch of a random volume.

        Args:
            generator: Source of randomness.

        Returns:
            `(C, *patch size)`.
        """
        cache, case = self.volumes[generator.integers(len(self.volumes))]
        volume = cache[case]
        region = [int(np.ceil(p * MARGIN)) for p in self.patch_size]
        offset = []
        for size, patch, edge in zip(volume.shape[1:], self.patch_size, region, strict=True):
            # the patch itself lies inside the volume wherever it can; only the margin may stick out
            low, high = sorted((0, size - patch))
            offset.append(int(generator.integers(low, high + 1)) - (edge - patch) // 2)
        image = torch.from_numpy(cut(volume, Window(tuple(offset), volume.shape[1:]), region, "constant"))
        seed = int(generator.integers(2**32))  # batchgeneratorsv2 draws from the global generators
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        return self.augment(image=image)["image"].contiguous()

    def optimizers(self, learning_rate: float) -> dict[str, Optimizer]:
        """Make the optimiser.

        Args:
            learning_rate: At its peak.

        Returns:
            The optimiser of the network.
        """
        return {"network": AdamW(self.networks["network"].parameters(), learning_rate, weight_decay=1e-2)}

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
            solved = (self.pretext.solve(network, some.to(device)) for some in self.held_out.split(SHOWN))
            parts = [Shown(*(each.cpu() for each in part)) for part in solved]
        network.train()
        loss = torch.stack([len(part.seen) * part.loss for part in parts]).sum() / len(self.held_out)
        return Shown(loss, *(torch.cat(volumes) for volumes in zip(*(part[1:] for part in parts), strict=True)))

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


def pretrain(
    workspace: Workspace,
    request: PretrainRequest | None = None,
    *,
    upstream: tuple[FitRequest, SampleRequest] | None = None,
    device: str = "auto",
    fresh: bool = False,
) -> Path:
    """Pretrain the network of a task's nnU-Net plan, or go on; makes whatever is missing upstream first.

    Args:
        workspace: The task's workspace.
        request: What is wanted; None for the defaults.
        upstream: How to fit and sample where that has not been begun yet.
        device: `auto`, `cpu` or `cuda`.
        fresh: Whether to discard an encoder that is there.

    Returns:
        The encoder file.
    """
    request = request or PretrainRequest()
    if request.pretext not in PRETEXTS or request.budget not in BUDGETS:
        raise DiffaugError(
            f"pretrain: found pretext '{request.pretext}' and budget '{request.budget}', expected one of "
            f"{', '.join(PRETEXTS)} and one of {', '.join(BUDGETS)}; mend the options"
        )
    pretext = PRETEXTS[request.pretext]
    if not request.images or (pretext.taught and "shapes" in request.images):
        raise DiffaugError(
            f"pretrain: found images '{' '.join(request.images)}' for pretext '{request.pretext}', expected some, and no "
            "shapes where a generator teaches; mend the options"
        )
    if request.steps is not None and request.steps < 1:
        raise DiffaugError(f"--pretext-steps: found {request.steps}, expected a positive number; mend the option")
    plans, configuration = read_plans(workspace)
    fabric = start_fabric(device)
    folder = workspace.encoder
    target = folder / "encoder.pt"
    with locked(folder) if fabric.is_global_zero else contextlib.nullcontext():
        if fresh and fabric.is_global_zero:
            discard(folder)
        fabric.barrier()  # no process may find what is about to go
        if _finished(folder, request):
            fabric.print(f"pretrain: {target} is there already")
            return target
        extra = [Path(folder) for folder in request.more_images]
        excluded = excluded_ids(workspace, request.exclude, extra)
        if "synthetic" in request.images:
            _run_upstream(workspace, upstream, device)
        sources = open_sources(workspace, request.images, extra, excluded)
        inputs = {source.name: source_hashes(source) for source in sources}
        dataset_json = read_json(workspace.raw / "dataset.json", "restore it")
        channels = len(dataset_json["channel_names"])
        torch.manual_seed(request.seed)
        network = build_network(configuration, channels, pretext.outputs(channels))
        volumes: list[tuple[VolumeCache, str]] = []
        with fabric.rank_zero_first():
            for source in sources:
                key = fingerprint([source.name, inputs[source.name], configuration.configuration, pretext.taught])
                teacher = cache(partial(find_teacher, source, fabric.device)) if pretext.taught else None
                made, cases = preprocess(source, plans, configuration, dataset_json, folder / "cache" / key, teacher)
                volumes += [(made, case) for case in cases]
                teacher = None  # its networks leave the memory before the training begins
        if "shapes" in request.images:
            with fabric.rank_zero_first():
                made, cases = draw(SHAPES, channels, configuration.patch_size, folder / "cache", request.seed)
            volumes += [(made, case) for case in cases]
        training = replace(BUDGETS[request.budget], seed=request.seed)
        if request.steps is not None:
            training = replace(training, steps=request.steps)
        provenance = {
            "case_ids": sorted({case for source in sources for case in source.seen}),
            "excluded": sorted(excluded),
            "volumes": len(volumes),
            "steps": training.steps,
            **{key: getattr(request, key) for key in ("images", "pretext", "budget", "seed")},
            "version": __version__,
        }
        _require_loadable(network, workspace, configuration, plans, dataset_json, provenance)
        objective = PretextObjective(
            network, pretext, volumes, configuration.patch_size, configuration.spacing, request.seed
        )
        identity = [asdict(request), inputs, configuration.configuration]
        train(objective, objective.example, training, fabric=fabric, folder=folder, name="pretext", identity=identity)
        if fabric.is_global_zero:
            _finish(workspace, request, configuration, network, provenance, inputs)
        fabric.barrier()
    return target


def _require_loadable(
    network: nn.Module,
    workspace: Workspace,
    configuration: ConfigurationManager,
    plans: PlansManager,
    dataset_json: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Load a dummy of the file into the downstream network: a mismatch costs a second now, not a day later."""
    downstream = build_downstream(configuration, plans, dataset_json)
    with tempfile.TemporaryDirectory() as folder:
        dummy = Path(folder) / "encoder.pt"
        save_encoder(
            dummy,
            network,
            name=workspace.configuration,
            configuration=configuration.configuration,
            provenance=provenance,
        )
        load_encoder(downstream, read_encoder(dummy), configuration=configuration.configuration)


def _finished(folder: Path, request: PretrainRequest) -> bool:
    if (folder / IMPORTED).is_file():
        raise DiffaugError(
            f"{folder / 'encoder.pt'}: was imported, expected none or one of diffaug pretrain; discard it with --fresh"
        )
    file = folder / "manifest.json"
    if not file.is_file():
        return False
    before = read_json(file, "run: diffaug pretrain --fresh")["request"]
    now = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(request).items()}
    if before != now:
        changed = [k for k in now if before.get(k) != now[k]]
        raise DiffaugError(
            f"{file}: this encoder was made with other options ({', '.join(changed)}), expected the same; repeat them, or "
            "discard it with --fresh"
        )
    return (folder / "encoder.pt").is_file()


def _run_upstream(workspace: Workspace, upstream: tuple[FitRequest, SampleRequest] | None, device: str) -> None:
    """Make what is missing upstream; what has been begun goes on as it was begun."""
    begun = (workspace.generator / "manifest.json").is_file()
    fit(workspace, None if begun or upstream is None else upstream[0], device=device)
    begun = (workspace.synthetic / "manifest.json").is_file()
    sample(workspace, None if begun or upstream is None else upstream[1], device=device)


def _finish(
    workspace: Workspace,
    request: PretrainRequest,
    configuration: ConfigurationManager,
    network: nn.Module,
    provenance: dict[str, Any],
    inputs: dict[str, Any],
) -> None:
    folder = workspace.encoder
    target = folder / "encoder.pt"
    save_encoder(
        target, network, name=workspace.configuration, configuration=configuration.configuration, provenance=provenance
    )
    lines = [line for line in read_log(folder / "log.jsonl") if line["fit"] == "pretext"]
    drawn = {
        key: ([line["step"] for line in lines if key in line], [line[key] for line in lines if key in line])
        for key in ("network_loss", "held_out")
    }
    curves(drawn, folder / "pretext_curves.png", title=f"pretext: {request.pretext}", x="step")
    manifest = {
        "stage": "pretrain",
        "finished": True,
        "request": asdict(request),
        "inputs": inputs,
        "figures": {"held_out": drawn["held_out"][1][-1], "network_loss": drawn["network_loss"][1][-1]},
        "encoder_sha256": file_hash(target),
        **provenance,
    }
    write_json(folder / "manifest.json", manifest)
    (folder / "pretext.state.pt").unlink(missing_ok=True)
