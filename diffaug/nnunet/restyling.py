"""Restyling: scans painted anew, their anatomy in the appearance of other scans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffaug.errors import DiffaugError
from diffaug.nnunet.families import network_of
from diffaug.nnunet.weights.format import EncoderFile
from diffaug.nnunet.weights.transfer import load_encoder

MAPS = 16  # soft tissue maps that an anatomy is told in
CODE = 12  # numbers that an appearance is told in: too few to hold a scan
STYLE_WIDTH, PAINTER_WIDTH, HIDDEN = 16, 32, 64


class StyleEncoder(nn.Module):
    """Tell how a scan looks, in a few numbers; where things lie cannot be told in them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, STYLE_WIDTH, 2 * STYLE_WIDTH)
        layers: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv3d(before, after, 3, stride=2, padding=1), nn.LeakyReLU()]
        layers += [nn.Conv3d(widths[-1], widths[-1], 3, padding=1), nn.LeakyReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * widths[-1], CODE)

    def forward(self, volumes: Tensor) -> Tensor:
        """Tell the appearance.

        Args:
            volumes: Normalised, `(B, C, Z, Y, X)`.

        Returns:
            Codes, `(B, CODE)`.
        """
        features = self.body(volumes).flatten(2)
        return self.head(torch.cat([features.mean(2), features.amax(2)], 1))  # type: ignore[no-any-return]


class Painter(nn.Module):
    """Paint tissue maps in an appearance: voxel by voxel, so that all anatomy must be in the maps.

    The code scales and shifts two hidden layers (FiLM, arXiv 1709.07871).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(MAPS, PAINTER_WIDTH, 1)
        self.second = nn.Conv3d(PAINTER_WIDTH, PAINTER_WIDTH, 1)
        self.last = nn.Conv3d(PAINTER_WIDTH, channels, 1)
        self.film = nn.Sequential(nn.Linear(CODE, HIDDEN), nn.LeakyReLU(), nn.Linear(HIDDEN, 4 * PAINTER_WIDTH))

    def forward(self, maps: Tensor, codes: Tensor) -> Tensor:
        """Paint.

        Args:
            maps: Shares of tissues, `(B, MAPS, Z, Y, X)`.
            codes: Appearances, `(B, CODE)`.

        Returns:
            Volumes `(B, C, Z, Y, X)`.
        """
        scale, shift, scale_2, shift_2 = self.film(codes)[:, :, None, None, None].chunk(4, 1)
        hidden = F.leaky_relu(self.first(maps) * (1 + scale) + shift)
        hidden = F.leaky_relu(self.second(hidden) * (1 + scale_2) + shift_2)
        return self.last(hidden)  # type: ignore[no-any-return]


class Restyler:
    """Paints some of the volumes of a batch anew, in appearances of the scans that the encoder was pretrained on.

    Args:
        network: Makes tissue maps; is frozen.
        painter: Paints them; is frozen.
        codes: Appearances `(N, CODE)`.
        share: How many of the volumes are restyled, 0 to 1.
    """

    def __init__(self, network: nn.Module, painter: Painter, codes: Tensor, share: float) -> None:
        self.network, self.painter = network.eval().requires_grad_(False), painter.eval().requires_grad_(False)
        self.codes, self.share = codes, share

    @classmethod
    def read(
        cls, encoder: EncoderFile, configuration: Mapping[str, Any], kind: str, share: float, device: torch.device
    ) -> Restyler:
        """Build the restyler that an encoder file holds.

        Args:
            encoder: The file.
            configuration: Of nnU-Net's plans, with its inheritance resolved.
            kind: A key of `diffaug.nnunet.families.NETWORKS`.
            share: How many of the volumes are restyled, 0 to 1.
            device: Where to paint.

        Returns:
            The restyler.

        Raises:
            DiffaugError: If the file holds none, or one of another network.
        """
        styles = encoder.styles
        if styles is None:
            raise DiffaugError(
                f"{encoder.path}: holds no appearances, expected those of the pretext anatomy; pretrain with --pretext "
                'anatomy, or leave "restyle" out of the plan\'s diffaug block'
            )
        anew = "make the file again with: diffaug pretrain --pretext anatomy --fresh"
        try:
            channels = styles["painter"]["last.weight"].shape[0]
            network, painter = network_of(configuration, kind).build(channels, MAPS), Painter(channels)
            load_encoder(network, encoder, configuration=configuration, kind=kind)
            painter.load_state_dict(styles["painter"])
            found, codes = network.load_state_dict(styles["head"], strict=False), styles["codes"]
            part = network_of(configuration, kind).family.part
            strange = [*found.unexpected_keys, *(name for name in found.missing_keys if part(name) == "head")]
            if strange or codes.ndim != 2 or codes.shape[1] != CODE or not codes.isfinite().all():
                raise ValueError(strange[0] if strange else f"codes {tuple(codes.shape)}")
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise DiffaugError(
                f"{encoder.path}: its appearances do not fit the network ({str(error).splitlines()[0]}), expected those of "
                f"this network; {anew}"
            ) from error
        return cls(network.to(device), painter.to(device), codes.to(device), share)

    @torch.no_grad()
    def __call__(self, volumes: Tensor) -> Tensor:
        """Restyle.

        Args:
            volumes: Normalised, `(B, C, Z, Y, X)`.

        Returns:
            As many; those that were not drawn are the same.
        """
        chosen = torch.rand(len(volumes), device=volumes.device) < self.share
        if not chosen.any():
            return volumes
        patches = volumes[chosen].float()
        # as the pretext had it: the network sees each patch with mean 0 and variance 1, the painter paints as scans are
        mean, spread = patches.mean((2, 3, 4), keepdim=True), patches.std((2, 3, 4), keepdim=True).clamp_min(1e-6)
        maps = self.network((patches - mean) / spread).float().softmax(1)
        places = torch.randint(len(self.codes), (len(patches),), device=volumes.device)
        restyled = volumes.clone()
        restyled[chosen] = self.painter(maps, self.codes[places]).to(volumes.dtype)
        return restyled
