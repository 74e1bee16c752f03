"""What the stages' manifests hold from the beginning on; whoever reads one may rely on it."""

from __future__ import annotations

from typing import Any

from typing_extensions import NotRequired, TypedDict


class FitBegun(TypedDict):
    """Of `fit`, or of a generator that was imported."""

    cases: list[str]
    excluded: list[str]


class Volume(TypedDict):
    """One synthetic volume."""

    candidate: int
    offset: tuple[int, int, int]
    extent: tuple[int, int, int]


class SampleBegun(TypedDict):
    """Of `sample`."""

    generator_sha256: str
    volumes: dict[str, Volume]
    refused: list[int]
    request: dict[str, Any]


class PretrainBegun(TypedDict):
    """Of `pretrain`."""

    inputs: NotRequired[dict[str, dict[str, Any]]]
    network: NotRequired[dict[str, Any]]
    preprocessing: NotRequired[dict[str, Any]]


class AuditBegun(TypedDict):
    """Of `audit`."""

    inputs: NotRequired[dict[str, Any]]


class Copies(TypedDict):
    """What an audit has found of copies, as far as it travels."""

    found: int
    share: float
    share_of_real_scans: dict[str, Any]
    by_chance: float
    planted_found: dict[str, Any]
    certain: int


class Figures(TypedDict):
    """An audit's figures, as far as they travel."""

    volumes: dict[str, Any]
    copies: Copies
    c2st_auc: NotRequired[dict[str, Any] | None]
    c2st_textures: NotRequired[dict[str, Any] | None]


class AuditFinished(TypedDict):
    """Of `audit`, once the report is there."""

    inputs: dict[str, Any]
    verdicts: dict[str, tuple[str, str]]
    defects: list[str]
    figures: Figures


BEGUN = {"fit": FitBegun, "sample": SampleBegun, "pretrain": PretrainBegun, "audit": AuditBegun}
