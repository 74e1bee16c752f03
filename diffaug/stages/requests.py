"""What may be asked of each stage, and what a manifest remembers of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from diffaug.budgets import BUDGETS, DEFAULT, PAPER
from diffaug.errors import DiffaugError
from diffaug.generator.condition import Condition
from diffaug.generator.samplers import SAMPLERS
from diffaug.options import option, seed_number
from diffaug.pretraining.images import named
from diffaug.shapes import require_shape

Request = TypeVar("Request", "FitRequest", "SampleRequest", "PretrainRequest")


def _resolved(folders: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(Path(folder).resolve()) for folder in folders)


@dataclass(frozen=True)
class FitRequest:
    """What was asked of `fit`; a second run must ask the same, or discard the first with `--fresh`.

    Attributes:
        budget: The machine at hand.
        field_of_view: Whole scans or patches of them: whole, patch or auto.
        more_images: Folder of further unlabelled images; may be repeated.
        exclude: Cases that must not be seen: fold:N, labelled, FILE[:KEY] or none; may be repeated.
        seed: Of everything random.
        sites: Table with the columns case and site; the dataset's sites.csv where it is there and no other is named.
        like: paper fits the networks of "Medical Diffusion", a VQ-GAN and a denoiser (sample with --sampler ddpm).
    """

    budget: str = option(DEFAULT, choices=BUDGETS)
    field_of_view: str = option("auto", choices=("auto", "whole", "patch"))
    more_images: tuple[str, ...] = option((), read=_resolved, metavar="FOLDER")
    exclude: tuple[str, ...] = option(("fold:0",), metavar="RULE")
    seed: int = option(0, type=seed_number)
    sites: str | None = option(None, read=lambda file: str(Path(file).resolve()), metavar="FILE")
    like: str | None = option(None, choices=[PAPER])


@dataclass(frozen=True)
class SampleRequest:
    """What was asked of `sample`. A longer set with equal other options begins with the volumes of the shorter one.

    Attributes:
        count: Number of volumes.
        seed: Of everything random.
        sampler: How.
        steps: Number of steps of the sampler; its own where none is named.
        condition: What all volumes shall be alike in, site=NAME or spacing=Z,Y,X in mm; may be repeated; what is not named
            varies as it does among the training scans.
        guidance: Weight of the conditions; above 1 exaggerates what they change.
        refine: Whether volumes get what the autoencoder loses, or stay as smooth as it makes them.
        keep_copies: For research: whether volumes too like a training scan stay in the set.
    """

    count: int = option(200, short="-n")
    seed: int = option(0, type=seed_number)
    sampler: str = option(
        "dpmpp", listed={name: f"{each.about}, {each.steps} steps" for name, each in SAMPLERS.items()}
    )
    steps: int | None = None
    condition: Condition = option(Condition(), read=Condition.parse, metavar="KEY=VALUE")
    guidance: float = 1.0
    refine: bool = True
    keep_copies: bool = False


@dataclass(frozen=True)
class PretrainRequest:
    """What was asked of `pretrain`.

    Attributes:
        images: What to pretrain on, any of: synthetic, real, a FOLDER.
        pretext: The task that needs no labels: denoise, mae, anatomy or, with the generator as teacher, clusters; where none
            is named, the one that helped the network's kind most.
        budget: The machine at hand.
        exclude: Cases that must not be seen: fold:N, labelled, FILE[:KEY] or none; may be repeated.
        more_images: Folder of further unlabelled images; may be repeated.
        seed: Of everything random.
        pretext_steps: Length of the pretraining; the budget's own where none is named.
    """

    images: tuple[str, ...] = option(("synthetic",), read=named, action="store", nargs="+")
    pretext: str | None = None
    budget: str = option(DEFAULT, choices=BUDGETS)
    exclude: tuple[str, ...] = option(("fold:0",), metavar="RULE")
    more_images: tuple[str, ...] = option((), read=_resolved, metavar="FOLDER")
    seed: int = option(0, type=seed_number)
    pretext_steps: int | None = None


def remembered(kind: type[Request], manifest: Mapping[str, Any], file: Path) -> Request:
    """Rebuild a request from a manifest.

    Args:
        kind: The request's class.
        manifest: The manifest.
        file: Where it was read, for the message.

    Returns:
        The request.

    Raises:
        DiffaugError: If the manifest holds none that this version knows.
    """
    anew = "discard what is there with --fresh, or use the version that made it"
    require_shape(manifest.get("request"), kind, file, anew)
    try:
        content: dict[str, Any] = dict(manifest["request"])
        content = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
        if "condition" in content:
            content["condition"] = Condition.from_dict(content["condition"])
        return kind(**content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DiffaugError(
            f"{file}: holds no request that this version of diffaug knows ({error}), expected its options; {anew}"
        ) from error


def differing(before: Any, now: Any) -> list[str]:
    """Name the options in which two requests of one kind differ.

    Args:
        before: The request that something was begun with.
        now: The request now.

    Returns:
        For each such option its name, what it was and what it is.
    """
    return [
        f"{field.name} was {_text(getattr(before, field.name))} and is {_text(getattr(now, field.name))}"
        for field in fields(before)
        if getattr(before, field.name) != getattr(now, field.name)
    ]


def _text(value: Any) -> str:
    if isinstance(value, Condition):
        value = value.known() or None
    if isinstance(value, tuple):
        value = " ".join(map(str, value)) or None
    return "none" if value is None else str(value)


def as_json(request: Any) -> dict[str, Any]:
    """Write a request as a manifest holds it, lists in place of tuples.

    Args:
        request: The request; None where there is nothing to ask.

    Returns:
        Plain values.
    """
    if request is None:
        return {}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(request).items()}
