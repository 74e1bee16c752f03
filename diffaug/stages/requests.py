"""What may be asked of each stage, and what a manifest remembers of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from diffaug.budgets import DEFAULT
from diffaug.errors import DiffaugError
from diffaug.generator.conditions import Condition

Request = TypeVar("Request", "FitRequest", "SampleRequest", "PretrainRequest")


@dataclass(frozen=True)
class FitRequest:
    """What was asked of `fit`; a second run must ask the same, or discard the first with `--fresh`.

    Attributes:
        budget: A key of `diffaug.budgets.BUDGETS`.
        field_of_view: `auto`, `whole` or `patch`.
        images: Extra folders of images.
        exclude: `--exclude` rules.
        seed: Of everything random.
        sites: File that tells which site each case comes from; None takes `sites.csv` of the raw dataset, if it is there.
    """

    budget: str = DEFAULT
    field_of_view: str = "auto"
    images: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ("fold:0",)
    seed: int = 0
    sites: str | None = None


@dataclass(frozen=True)
class SampleRequest:
    """What was asked of `sample`. A longer set with equal other options begins with the volumes of the shorter one.

    Attributes:
        count: Number of volumes.
        seed: Of the set.
        sampler: A key of `diffaug.generator.samplers.SAMPLERS`.
        steps: Number of steps; None for the sampler's default.
        condition: What all volumes shall be alike in; what is unknown varies as it does among the training scans.
        guidance: Weight of the conditions; 1 is the plain conditional denoiser, more exaggerates what they change.
        grain: Whether volumes get the grain of scans, or stay as smooth as the autoencoder makes them.
        keep_copies: Whether volumes too like a training scan stay in the set, for research alone.
    """

    count: int = 200
    seed: int = 0
    sampler: str = "dpmpp"
    steps: int | None = None
    condition: Condition = Condition()
    guidance: float = 1.0
    grain: bool = True
    keep_copies: bool = False


@dataclass(frozen=True)
class PretrainRequest:
    """What was asked of `pretrain`.

    Attributes:
        images: Any of `synthetic`, `real`, or folders.
        pretext: A key of `diffaug.pretraining.pretexts.PRETEXTS`.
        budget: A key of `diffaug.budgets.BUDGETS`.
        exclude: `--exclude` rules.
        more_images: Further folders of real scans.
        seed: Of everything random.
        steps: How long; None for the budget's own number.
    """

    images: tuple[str, ...] = ("synthetic",)
    pretext: str = "denoise"
    budget: str = DEFAULT
    exclude: tuple[str, ...] = ("fold:0",)
    more_images: tuple[str, ...] = ()
    seed: int = 0
    steps: int | None = None


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
    try:
        content: dict[str, Any] = dict(manifest["request"])
        content = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
        if "condition" in content:
            content["condition"] = Condition.from_dict(content["condition"])
        return kind(**content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DiffaugError(
            f"{file}: holds no request that this version of diffaug knows ({error}), expected its options; discard what is "
            "there with --fresh, or use the version that made it"
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
