"""The fitted generator: one self-describing file, and what can be done with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from pydantic import PositiveInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import NotRequired, TypedDict

from diffaug import __version__
from diffaug.errors import DiffaugError
from diffaug.files import atomic_path
from diffaug.generator import samplers
from diffaug.generator.autoencoder import Autoencoder
from diffaug.generator.condition import Condition
from diffaug.generator.denoiser import Denoiser
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.refiner import Refiner
from diffaug.scans.windows import Window, centred, coordinates, scattered
from diffaug.shapes import require_shape
from diffaug.training.devices import start_fabric

Format = Literal["diffaug generator 5"]  # counts up where a file of today cannot be read as one of yesterday


class Seen(TypedDict):
    """What a generator's file says of its scans."""

    seen: list[str]


class Told(TypedDict):
    """What a generator's file says beside its weights."""

    format: Format
    plan: dict[str, Any]
    extents: list[tuple[PositiveInt, PositiveInt, PositiveInt]]
    conditions: NotRequired[list[Condition]]
    provenance: Seen


@dataclass
class Generator:
    """Autoencoder and denoiser with what belongs to them.

    Attributes:
        plan: How it was made.
        autoencoder: The autoencoder.
        denoiser: The denoiser, with averaged weights.
        mean: Of the training latents, per channel.
        std: Of the training latents, one for all channels, see `DenoiserObjective`.
        extents: Voxels (Z, Y, X) on the canonical grid of every training scan: synthetic ones are as large.
        conditions: What is known of every training scan, in the same order: synthetic ones are alike.
        refiner: Draws what the autoencoder takes from every scan; None leaves volumes as smooth as that makes them.
        provenance: Ids it has seen, hashes, versions.
    """

    plan: GeneratorPlan
    autoencoder: Autoencoder
    denoiser: Denoiser
    mean: Tensor
    std: Tensor
    extents: list[tuple[int, ...]]
    conditions: list[Condition]
    refiner: Refiner | None
    provenance: dict[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> Generator:
        """Move to a device and prepare for use.

        Args:
            device: Where.

        Returns:
            Itself.
        """
        for network in self._networks().values():
            network.to(device, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def _networks(self) -> dict[str, nn.Module]:
        found = {"autoencoder": self.autoencoder, "denoiser": self.denoiser, "refiner": self.refiner}
        return {name: network for name, network in found.items() if network is not None}

    @torch.no_grad()
    def synthesise(
        self,
        seed: int,
        numbers: Sequence[int],
        *,
        sampler: str,
        steps: int | None,
        wanted: Condition | None = None,
        guidance: float = 1.0,
        refine: bool = True,
    ) -> tuple[Tensor, list[Window], list[Condition]]:
        """Make synthetic volumes; the one with a given seed and number is always the same.

        Each takes extent and conditions from a random training scan, so a set mirrors the training scans. Where a site is
        wanted, that scan comes from there.

        Args:
            seed: The set's seed.
            numbers: Which volumes of the set.
            sampler: A key of `samplers.SAMPLERS`.
            steps: Number of steps; None for the sampler's own.
            wanted: Conditions that all volumes shall have.
            guidance: Weight of the conditions, see `samplers.guided`.
            refine: Whether volumes get what the autoencoder takes from scans, if there is a refiner.

        Returns:
            Volumes `(B, C, Z, Y, X)` in [-1, 1] on the CPU, the window of each (where in a scan it lies) and its
            conditions.
        """
        drawn = [self._draw(seed, number, wanted or Condition()) for number in numbers]
        windows, conditions = [window for window, _, _ in drawn], [condition for _, condition, _ in drawn]
        generators = [generator for _, _, generator in drawn]
        cells, channels = self.plan.latent_shape, self.plan.autoencoder["latent_channels"]
        start = torch.stack([torch.randn((channels, *cells), generator=g) for g in generators]).to(self.mean)
        positions = coordinates(windows, self.plan.grid.shape, cells).to(self.mean)
        condition_values = self.plan.conditions.values(conditions, self.plan.grid).to(self.mean)

        def conditional(x: Tensor, sigma: float) -> Tensor:
            return self.denoiser(x, torch.full((len(x),), sigma, device=x.device), positions, condition_values)

        def unconditional(x: Tensor, sigma: float) -> Tensor:
            return self.denoiser(x, torch.full((len(x),), sigma, device=x.device), positions)

        def noise() -> Tensor:
            return torch.stack([torch.randn(start.shape[1:], generator=g) for g in generators]).to(start)

        denoise = samplers.guided(conditional, unconditional, guidance)
        with start_fabric(start.device.type).autocast():
            latent = samplers.run_sampler(sampler, steps, denoise, start, noise)
        volumes, lost = self.autoencoder.decode_and_estimate(latent * self.std + self.mean)
        if refine and self.refiner is not None:
            white = torch.stack([torch.randn(volumes.shape[1:], generator=g) for g in generators]).to(volumes)
            chance = torch.stack([torch.rand((), generator=g) for g in generators]).to(volumes.device)
            with start_fabric(start.device.type).autocast():
                volumes = self.refiner.refine(volumes, lost, white, chance)
        return volumes.cpu(), windows, conditions

    def _draw(self, seed: int, number: int, wanted: Condition) -> tuple[Window, Condition, torch.Generator]:
        """Draw what a volume shall be like, after a random training scan."""
        rng, shape = np.random.default_rng((seed, number)), self.plan.grid.shape
        like = [n for n, known in enumerate(self.conditions) if wanted.site in (None, known.site)]
        model = like[rng.integers(len(like))]
        whole, extent = self.plan.grid.field_of_view == "whole", self.extents[model]
        window = centred(extent, shape) if whole else scattered(extent, shape, 0, rng)
        condition = replace(self.conditions[model], **wanted.known())
        return window, condition, torch.Generator().manual_seed(int(rng.integers(2**62)))

    def save(self, file: Path) -> None:
        """Write the one file that holds the generator.

        Args:
            file: Ends in `.safetensors`.
        """
        tensors = {"latent_mean": self.mean, "latent_std": self.std}
        for name, network in self._networks().items():
            tensors |= {f"{name}.{k}": v for k, v in network.state_dict().items()}
        about = {
            "format": get_args(Format)[0],
            "version": __version__,
            "plan": asdict(self.plan),
            "extents": self.extents,
            "conditions": [condition.known() for condition in self.conditions],
            "provenance": self.provenance,
        }
        with atomic_path(file) as temporary:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, temporary, {"diffaug": json.dumps(about)})

    def _require_sense(self, tensors: dict[str, Tensor]) -> None:
        """Find what would only fail, or mislead, when volumes are made."""
        latent = self.plan.autoencoder["latent_channels"]
        rules = {
            "all numbers are finite": all(bool(t.isfinite().all()) for t in tensors.values()),
            "latent_mean and latent_std fit the latent": self.mean.shape == (1, latent, 1, 1, 1)
            and self.std.numel() == 1,
            "the refiner's scale is positive": self.refiner is None or bool((self.refiner.scale > 0).all()),
            "there are as many conditions as extents": 0 < len(self.extents) == len(self.conditions),
        }
        for rule, kept in rules.items():
            if not kept:
                raise ValueError(f"expected that {rule}")

    @staticmethod
    def load(file: Path) -> Generator:
        """Read a generator file. Nothing in it is executed.

        Args:
            file: The file.

        Returns:
            The generator, on the CPU.

        Raises:
            DiffaugError: If the file is missing, broken, or something else.
        """
        if not file.is_file():
            raise DiffaugError(f"{file}: no such file, expected a fitted generator; run: diffaug fit")
        try:
            with safe_open(file, framework="pt") as content:
                about = json.loads((content.metadata() or {})["diffaug"])
                tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 (not a dict)
            require_shape(about, Told, file, "ask for it anew, or run: diffaug fit --fresh")
            plan = GeneratorPlan.from_dict(about["plan"], file)
            extents = [tuple(extent) for extent in about["extents"]]
            conditions = [Condition.from_dict(entry) for entry in about.get("conditions", [{}] * len(extents))]
            mean, std = tensors["latent_mean"], tensors["latent_std"]
            autoencoder, denoiser, refiner = Autoencoder(**plan.autoencoder), plan.make_denoiser(), plan.make_refiner()
            generator = Generator(
                plan, autoencoder, denoiser, mean, std, extents, conditions, refiner, about["provenance"]
            )
            for name, network in generator._networks().items():
                own = f"{name}."
                network.load_state_dict({k.removeprefix(own): v for k, v in tensors.items() if k.startswith(own)})
            generator._require_sense(tensors)
            return generator
        except DiffaugError:
            raise
        except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, OSError) as error:
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DiffaugError(
                f"{file}: not a whole generator file ({what}), expected one that diffaug fit wrote; "
                "run: diffaug fit --fresh"
            ) from error
