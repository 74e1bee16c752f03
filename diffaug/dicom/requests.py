"""What an import of DICOM may be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffaug.options import option

PLACES = ("imagesUn", "imagesTr")  # folders of a raw dataset that scans go into
EVERYWHERE = (*PLACES, "imagesTs")  # where they may lie later


@dataclass(frozen=True)
class ImportRequest:
    """Which studies are imported, and where to.

    Attributes:
        studies: Folders or archives (zip, tar) of studies, in any order.
        task: As nnU-Net's -d: 101 or Dataset101_Name; a new dataset needs its full name.
        series: What a volume must be to be taken, KEY=VALUE; may be repeated. Keys are description, type and
            modality (* stands for anything), plane (axial, coronal, sagittal) and phase (0, 1 ..., in order of time, of the
            volumes of a study that lie in one place).
        into: Which folder of the dataset; imagesTr is for scans that you will label.
        key: Where the key is written, which says who is who and stays with you; DATASET_dicom_key.json by default.
        dry_run: Whether to say what would be taken and passed over, and why, and stop.
    """

    studies: tuple[Path, ...] = option(metavar="STUDIES", positional=True)
    task: str = option()
    series: tuple[str, ...] = option((), metavar="KEY=VALUE")
    into: str = option("imagesUn", choices=PLACES)
    key: Path | None = option(None, metavar="FILE")
    dry_run: bool = False
