"""The key of an import: who is who, and which volume is whose. It stays where the patients are."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from diffaug.dicom.stacks import Stack
from diffaug.errors import DiffaugError
from diffaug.files import fingerprint, read_json, write_json
from diffaug.shapes import require_shape

RESTORE_KEY = "restore it; without it nobody can be told from somebody new"
DIGITS = 5  # of a pseudonym


class Imported(TypedDict):
    """A volume."""

    patient: str
    study: str
    series: str
    description: str
    phase: int
    case: str


class KeyFile(TypedDict):
    """The key."""

    format: Literal[1]
    dataset: str
    patients: dict[str, str]
    volumes: dict[str, Imported]


class Pseudonyms:
    """Gives patients and volumes names that tell nothing; the same ones when asked again.

    A name is drawn, so that neither the order of names nor that of dates is kept. All volumes of a patient begin alike.
    """

    def __init__(self, file: Path, dataset: str) -> None:
        """Open the key.

        Args:
            file: The key; a new one if it is missing.
            dataset: Name of the dataset it is of.

        Raises:
            DiffaugError: If it is of another dataset, or broken.
        """
        self.file = file
        self.content: dict[str, Any] = {"format": 1, "dataset": dataset, "patients": {}, "volumes": {}}
        if file.is_file():
            content = read_json(file, RESTORE_KEY)
            require_shape(content, KeyFile, file, RESTORE_KEY)
            if content["dataset"] != dataset:
                raise DiffaugError(
                    f"{file}: is the key of {content['dataset']}, expected that of {dataset}; name its own"
                )
            self.content = content

    def case(self, stack: Stack) -> str:
        """Name a volume.

        Args:
            stack: The volume.

        Returns:
            Its case id, as `P04711V2`: never what nnU-Net could take for a channel.
        """
        # without an id, nobody knows whose it is: each study is a patient of its own
        patient = stack.header.patient or f"study {stack.header.study or stack.header.series}"
        uids = fingerprint([[one.uid, one.frame] for one in stack.slices])
        # whose, too: some archives give everybody the same UIDs
        volume = f"{uids}-{fingerprint([patient, stack.header.study, stack.header.series])}"
        known = self.content["volumes"].get(volume)
        if known is None:
            self._tell_twin(uids, patient)
            name = self.content["patients"].get(patient) or self._draw()
            self.content["patients"][patient] = name
            prefix = f"{name}V"
            taken = [int(case.removeprefix(prefix)) for case in self.cases if case.startswith(prefix)]
            known = {
                "patient": patient,
                "study": stack.header.study,
                "series": stack.header.series,
                "description": stack.header.description,
                "phase": stack.phase,
                "case": f"{prefix}{max(taken, default=0) + 1}",
            }
            self.content["volumes"][volume] = known
        return str(known["case"])

    def _tell_twin(self, uids: str, patient: str) -> None:
        """Say that a volume is there already, as somebody else's: that may be one person under two ids."""
        for other, told in self.content["volumes"].items():
            if other.startswith(f"{uids}-") and told["patient"] != patient:
                print(
                    f"import-dicom: note: a volume has the UIDs of {told['case']} and another patient's id: if both are one "
                    f"person, keep one; {self.file} says who",
                    flush=True,
                )

    def save(self) -> None:
        """Write the key."""
        write_json(self.file, self.content)

    @property
    def cases(self) -> set[str]:
        """All case ids that were given."""
        return {each["case"] for each in self.content["volumes"].values()}

    def _draw(self) -> str:
        taken = set(self.content["patients"].values())
        while (name := f"P{secrets.randbelow(10**DIGITS):0{DIGITS}d}") in taken:
            pass
        return name
