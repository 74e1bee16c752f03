"""What an audit may be asked to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffaug.options import option


@dataclass(frozen=True)
class FoldersRequest:
    """What was asked of an audit of folders.

    Attributes:
        real: The scans that the generator was trained on.
        synthetic: The volumes it made.
        unseen: Real scans that it never saw, if there are any.
    """

    real: Path
    synthetic: Path
    unseen: Path | None = None


@dataclass(frozen=True)
class Extras:
    """What a user may add to an audit.

    Attributes:
        weights: File of a published network, a further feature space: MedicalNet's or RadImageNet's; may be repeated.
        nnunet_model: Folder of a trained nnU-Net, to look at organs.
    """

    weights: tuple[Path, ...] = option((), metavar="FILE")
    nnunet_model: Path | None = option(None, metavar="FOLDER")
