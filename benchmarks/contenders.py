"""Three latent diffusion models of one size: diffaug's, medicaldiffusion's and MONAI's, each run by its own code."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import LatentDiffusionInferer
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler
from torch import Tensor, nn

from benchmarks.assembled import assemble
from benchmarks.medicaldiffusion_shims import make_diffusion, make_vqgan
from diffaug.budgets import BUDGETS
from diffaug.errors import DiffaugError
from diffaug.generator.plan import GeneratorPlan
from diffaug.generator.samplers import SAMPLERS
from diffaug.stages.requests import SampleRequest

SHAPE = (32, 64, 64)  # voxels of a volume
CELLS = (8, 16, 16)  # of its latent
CHANNELS = 8  # of its latent
PARAMETERS = 3_019_944  # of medicaldiffusion's U-Net at this latent
TOLERANCE = 0.05
BATCH = 4  # volumes of a training step


def count_parameters(network: nn.Module) -> int:
    """Count what is trained.

    Args:
        network: The network.

    Returns:
        The number of parameters.
    """
    return sum(parameter.numel() for parameter in network.parameters())


def match_widths(
    make: Callable[[tuple[int, ...]], nn.Module],
    proportions: Sequence[int],
    *,
    parameters: int = PARAMETERS,
    tolerance: float = TOLERANCE,
) -> tuple[int, ...]:
    """Find widths near given proportions with which a network has as many parameters as another one.

    Args:
        make: Builds the network from its widths.
        proportions: Widths that it has at another size.
        parameters: How many parameters it shall have.
        tolerance: Relative.

    Returns:
        Width of each level, multiples of 8 and the last one of 32 (the attention's heads).

    Raises:
        DiffaugError: If no widths fit.
    """
    ladders = [range(8, 129, 8)] * (len(proportions) - 1) + [range(32, 257, 32)]
    wanted = np.log(np.array(proportions) / proportions[0])

    def distance(widths: tuple[int, ...]) -> float:
        shape = np.log(np.array(widths) / widths[0]) - wanted
        return float(np.abs(shape - shape.mean()).sum())

    rising = [widths for widths in itertools.product(*ladders) if list(widths) == sorted(widths)]
    for widths in sorted(rising, key=distance):
        with torch.device("meta"):
            found = count_parameters(make(widths))
        if abs(found - parameters) <= tolerance * parameters:
            return widths
    raise DiffaugError(f"widths: found none with {parameters} parameters, expected some; fix the proportions")


def resize_plan(plan: GeneratorPlan) -> GeneratorPlan:
    """Give a plan the benchmark's latent and number of parameters.

    Args:
        plan: A plan of whole scans of `SHAPE`.

    Returns:
        The plan.

    Raises:
        DiffaugError: If its latent has another shape.
    """
    autoencoder = {**plan.autoencoder, "latent_channels": CHANNELS}
    denoiser = {**plan.denoiser, "latent_channels": CHANNELS}
    plan = replace(plan, autoencoder=autoencoder, denoiser=denoiser)
    if plan.latent_shape != CELLS:
        raise DiffaugError(f"plan: found a latent of {plan.latent_shape} cells, expected {CELLS}; fix the scans' size")

    def make(widths: tuple[int, ...]) -> nn.Module:
        return replace(plan, denoiser={**denoiser, "channels": list(widths)}).make_denoiser()

    widths = match_widths(make, BUDGETS["cpu-small"].denoiser["channels"])
    return replace(plan, denoiser={**denoiser, "channels": list(widths)})


class Ours:
    """diffaug: its generator with its default sampler, and its objective on cached latents."""

    name = "diffaug"

    def __init__(self, folder: Path) -> None:
        assembled = assemble(folder, SHAPE, resize_plan)
        self.generator = assembled.generator
        self.objective, self.training = assembled.fits["denoiser"]
        self.sampler = SampleRequest().sampler
        self.steps = SAMPLERS[self.sampler].steps
        self.denoiser_parameters = count_parameters(self.objective.networks["denoiser"])
        self.autoencoder_parameters = count_parameters(self.generator.autoencoder)

    def sample(self, count: int) -> Tensor:
        """Sample volumes.

        Args:
            count: How many at once.

        Returns:
            `(count, 1, Z, Y, X)`.
        """
        return self.generator.synthesise(0, range(count), sampler=self.sampler, steps=self.steps)[0]


class MedicalDiffusion:
    """FirasGit/medicaldiffusion: its U-Net, DDPM, VQ-GAN and trainer."""

    name = "medicaldiffusion"

    def __init__(self, library: SimpleNamespace, folder: Path) -> None:
        vqgan = make_vqgan(library, discriminator_start=10_000)
        self.diffusion = make_diffusion(library, vqgan, CELLS)
        self.steps = self.diffusion.num_timesteps
        self.denoiser_parameters = count_parameters(self.diffusion.denoise_fn)
        coder = (vqgan.encoder, vqgan.decoder, vqgan.pre_vq_conv, vqgan.post_vq_conv)
        self.autoencoder_parameters = sum(map(count_parameters, coder))
        self.trainer = library.Trainer(
            self.diffusion,
            cfg=None,
            dataset=[{"data": volume} for volume in torch.rand(20, 1, *SHAPE) * 2 - 1],
            train_batch_size=BATCH,
            train_num_steps=0,
            gradient_accumulate_every=1,
            save_and_sample_every=10**9,
            results_folder=folder,
            num_workers=0,
        )

    def sample(self, count: int, steps: int) -> Tensor:
        """Sample volumes.

        Args:
            count: How many at once.
            steps: How many of its steps; the others are left out.

        Returns:
            `(count, 1, Z, Y, X)`.
        """
        self.diffusion.num_timesteps = steps
        with silenced():
            made = self.diffusion.sample(batch_size=count)
        self.diffusion.num_timesteps = self.steps
        return made

    def decode(self, count: int) -> Tensor:
        """Quantise and decode latents, as its sampling ends.

        Args:
            count: How many at once.

        Returns:
            `(count, 1, Z, Y, X)`.
        """
        with torch.inference_mode():
            return self.diffusion.vqgan.decode(torch.randn(count, CHANNELS, *CELLS), quantize=True)

    def train_step(self) -> None:
        """Let its trainer make one more step."""
        self.trainer.train_num_steps += 1
        with silenced():
            self.trainer.train()


class Monai:
    """MONAI's latent diffusion, as its 3D tutorial uses it: the stage-1 model encodes in every training step."""

    name = "MONAI"

    def __init__(self) -> None:
        self.network = DiffusionModelUNet(channels=match_widths(self._make, (32, 64, 64)), **self._settings(3))
        self.coder = AutoencoderKL(  # the tutorial's, with as many channels in the latent as the others
            spatial_dims=3,
            channels=(32, 64, 64),
            latent_channels=CHANNELS,
            num_res_blocks=1,
            norm_num_groups=16,
            attention_levels=(False, False, False),
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        ).eval()
        schedule: dict[str, Any] = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195}
        self.schedulers = {
            "DDPM": DDPMScheduler(num_train_timesteps=1000, **schedule),
            "DDIM": DDIMScheduler(num_train_timesteps=1000, clip_sample=False, **schedule),
            "RFlow": RFlowScheduler(num_train_timesteps=1000),
        }
        self.optimizer = torch.optim.Adam(self.network.parameters(), 1e-4)
        self.images = torch.rand(BATCH, 1, *SHAPE)
        self.denoiser_parameters = count_parameters(self.network)
        self.autoencoder_parameters = count_parameters(self.coder)

    @staticmethod
    def _settings(levels: int) -> dict[str, Any]:
        return {
            "spatial_dims": 3,
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "num_res_blocks": 1,
            "norm_num_groups": 8,
            "attention_levels": (False,) * (levels - 1) + (True,),
            "num_head_channels": 32,
        }

    def _make(self, widths: tuple[int, ...]) -> nn.Module:
        return DiffusionModelUNet(channels=widths, **self._settings(len(widths)))

    def decode(self, count: int) -> Tensor:
        """Decode latents, as its sampling ends.

        Args:
            count: How many at once.

        Returns:
            `(count, 1, Z, Y, X)`.
        """
        with torch.no_grad():
            return self.coder.decode_stage_2_outputs(torch.randn(count, CHANNELS, *CELLS))

    def sample(self, count: int, scheduler: str, steps: int) -> Tensor:
        """Sample volumes.

        Args:
            count: How many at once.
            scheduler: A key of `schedulers`.
            steps: How many.

        Returns:
            `(count, 1, Z, Y, X)`.
        """
        chosen = self.schedulers[scheduler]
        chosen.set_timesteps(num_inference_steps=steps)
        self.network.eval()
        made = LatentDiffusionInferer(chosen, scale_factor=1.0).sample(
            torch.randn(count, CHANNELS, *CELLS), self.coder, self.network, chosen, verbose=False
        )
        self.network.train()
        return made

    def train_step(self) -> None:
        """Encode, predict the noise, step."""
        scheduler = self.schedulers["DDPM"]
        noise = torch.randn(BATCH, CHANNELS, *CELLS)
        when = torch.randint(0, scheduler.num_train_timesteps, (BATCH,))
        self.optimizer.zero_grad(set_to_none=True)
        predicted = LatentDiffusionInferer(scheduler, scale_factor=1.0)(
            inputs=self.images,
            autoencoder_model=self.coder,
            diffusion_model=self.network,
            noise=noise,
            timesteps=when,
        )
        F.mse_loss(predicted, noise).backward()
        self.optimizer.step()


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keep a contender's progress out of the report's way.

    Yields:
        Nothing.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
