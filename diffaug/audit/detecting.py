"""The copy detector that an audit judges by: the generator's own, or one fitted to the real scans here."""

from __future__ import annotations

from pathlib import Path

from lightning_fabric import Fabric

from diffaug.audit.material import Material
from diffaug.copies.detector import CopyDetector
from diffaug.copies.fitting import fit_detector
from diffaug.engine.loop import Training
from diffaug.errors import DiffaugError

TRAINING: Training | None = None  # of the detector: what suits the device


def adopt_detector(material: Material, file: Path, fabric: Fabric) -> tuple[CopyDetector, CopyDetector]:
    """Load the copy detector, or fit it where there is none, going on where a stopped fit left off.

    Args:
        material: The volumes.
        file: Where it lies, or shall lie.
        fabric: Where to compute.

    Returns:
        The detector with all training scans, and the one that was calibrated: where no scans are known that the generator
        never saw, that one lacks those of the training scans that set its threshold.

    Raises:
        DiffaugError: If the file belongs to other scans.
    """
    known = [case for case in material.training if case not in set(material.calibration)]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        fit_detector(
            material.scans.__getitem__,
            known,
            material.calibration,
            shape=material.grid.shape,
            mirror=material.mirror,
            field_of_view=material.grid.field_of_view,
            training=TRAINING,
            fabric=fabric,
            folder=file.parent,
        ).save(file)
        (file.parent / "copies.state.pt").unlink(missing_ok=True)  # what a stopped fit goes on from has done its duty
    calibrated = CopyDetector.load(file).to(fabric.device)
    if set(calibrated.cases) != set(known):
        raise DiffaugError(
            f"{file}: knows {len(calibrated.cases)} scans, expected the {len(known)} that the generator was trained on; fit "
            "anew with --fresh"
        )
    rest = [case for case in material.training if case not in set(known)]
    return (calibrated.with_cases(material.scans.__getitem__, rest) if rest else calibrated), calibrated
