"""What an audit needs to know of the real scans: their copies again, and a feature space. Made once and kept."""

from __future__ import annotations

from pathlib import Path

from lightning_fabric import Fabric

from diffaug.audit.feature_space import FeatureSpace
from diffaug.audit.fit_feature_space import fit_feature_space
from diffaug.audit.inputs import AuditInputs
from diffaug.copies.calibrating import make_detector
from diffaug.copies.detector import CopyDetector
from diffaug.errors import DiffaugError


def adopt_detector(inputs: AuditInputs, file: Path, fabric: Fabric) -> CopyDetector:
    """Load the copy detector, or make it where there is none.

    Args:
        inputs: The volumes.
        file: Where it lies, or shall lie.
        fabric: Where to compute.

    Returns:
        The detector.

    Raises:
        DiffaugError: If the file belongs to other scans.
    """
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        make_detector(
            inputs.scans.__getitem__,
            inputs.training,
            inputs.unseen,
            shape=inputs.grid.shape,
            mirror=inputs.grid.mirror,
            field_of_view=inputs.grid.field_of_view,
            device=fabric.device,
        ).save(file)
    detector = CopyDetector.load(file, inputs.scans.__getitem__, fabric.device)
    if detector.cases != inputs.training:
        raise DiffaugError(
            f"{file}: knows {len(detector.cases)} scans, not the {len(inputs.training)} that the generator was trained on; "
            "fit anew with --fresh"
        )
    return detector


def adopt_feature_space(inputs: AuditInputs, folder: Path, fabric: Fabric) -> FeatureSpace:
    """Load the encoder of the real scans, or fit it where there is none, going on where a stopped fit left off.

    Args:
        inputs: The volumes.
        folder: Where it lies, or shall lie.
        fabric: Where to compute.

    Returns:
        The encoder.
    """
    file = folder / "encoder.safetensors"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        fit_feature_space(
            inputs.scans.__getitem__,
            inputs.training,
            shape=inputs.grid.shape,
            mirror=inputs.grid.mirror,
            fabric=fabric,
            folder=folder,
        ).save(file)
        (folder / "encoder.state.pt").unlink(missing_ok=True)  # what a stopped fit goes on from has done its duty
    return FeatureSpace.load(file).to(fabric.device)
