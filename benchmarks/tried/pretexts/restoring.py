"""Pretexts that give a scan back: from changed appearance, from visible blocks alone, or of another appearance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.errors import DiffaugError
from diffaug.nnunet.families import Network
from diffaug.pretraining.pretexts import Pretext, Shown
from diffaug.pretraining.pretexts.appearance import vary
from diffaug.pretraining.pretexts.mae import Mae


@dataclass(frozen=True)
class Reverse(Pretext):
    """Give a scan of changed appearance its own back (AMAES, arXiv 2408.00640; Models Genesis, arXiv 2004.07882)."""

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`."""
        return channels

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`; the loss is the mean squared error."""
        seen = vary(clean)
        predicted = network(seen).float()
        return Shown(F.mse_loss(predicted, clean), seen, predicted, clean)


@dataclass(frozen=True)
class Varied(Pretext):
    """Another pretext on volumes of varied appearance.

    Attributes:
        pretext: The other one.
    """

    pretext: Pretext

    def outputs(self, channels: int) -> int:
        """See `Pretext.outputs`."""
        return self.pretext.outputs(channels)

    def solve(self, network: nn.Module, clean: Tensor) -> Shown:
        """See `Pretext.solve`."""
        return self.pretext.solve(network, vary(clean))


@dataclass(frozen=True)
class SparseMae(Mae):
    """See `Mae`; hidden voxels take no part in the encoder, where otherwise they are zeros like any others."""

    def suited(self, network: Network, channels: int) -> Mae:
        """See `Mae.suited`.

        Args:
            network: Which.
            channels: C of the volumes.

        Returns:
            The pretext itself.

        Raises:
            DiffaugError: If the network has no convolutions in its encoder that can leave voxels out.
        """
        if not network.family.sparse:
            raise DiffaugError(
                f"--pretext mae-sparse: leaves hidden voxels out of convolutions, found network {network.name}, expected "
                "another pretext for it: mae hides whole tokens; fix the option"
            )
        return self

    def predict(self, network: nn.Module, seen: Tensor, masked: Tensor) -> Tensor:
        """See `Mae.predict`."""
        with sparse(network, masked):
            return super().predict(network, seen, masked)


@contextmanager
def sparse(network: nn.Module, masked: Tensor) -> Iterator[None]:
    """Have a U-Net's encoder work on visible voxels alone (SparK, arXiv 2301.03580).

    After every convolution hidden places are zero again, and norms measure visible places alone, so that large masks do
    not shift what features look like. The decoder gets, at every hidden place, the mean of the visible ones as a mask
    token; SparK learns that token, which would leave weights behind that the downstream network does not have.

    Args:
        network: With an `encoder` that gives a list of skips, as nnU-Net's U-Nets have; another is left as it is.
        masked: `(B, 1, Z, Y, X)`, 1 where hidden.

    Yields:
        Nothing.
    """
    encoder = getattr(network, "encoder", nn.Identity())
    visible: dict[tuple[int, ...], Tensor] = {}

    def seen(features: Tensor) -> Tensor:
        size = tuple(features.shape[2:])
        if size not in visible:
            visible[size] = 1 - F.interpolate(masked, size, mode="nearest-exact")
        return visible[size]

    def mean(features: Tensor) -> Tensor:
        shown = seen(features)
        return (features * shown).sum((2, 3, 4), keepdim=True) / shown.sum((2, 3, 4), keepdim=True).clamp_min(1)

    def convolved(module: nn.Module, given: Any, features: Tensor) -> Tensor:
        return features * seen(features)

    def normalised(module: nn.InstanceNorm3d, given: tuple[Tensor], features: Tensor) -> Tensor:
        before = given[0].float()
        apart = before - mean(before)
        apart = apart / (mean(apart.square()) + module.eps).sqrt()
        if module.affine:
            apart = apart * module.weight.view(1, -1, 1, 1, 1) + module.bias.view(1, -1, 1, 1, 1)
        return (apart * seen(apart)).to(features.dtype)

    def filled(module: nn.Module, given: Any, skips: list[Tensor]) -> list[Tensor]:
        return [skip + (1 - seen(skip)) * (mean(skip) - skip) for skip in skips]

    hooks = [encoder.register_forward_hook(filled)]
    for module in encoder.modules():
        if isinstance(module, nn.Conv3d):
            hooks.append(module.register_forward_hook(convolved))
        elif isinstance(module, nn.InstanceNorm3d):
            hooks.append(module.register_forward_hook(normalised))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
