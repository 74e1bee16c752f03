"""Which volumes of a study are taken: `--series KEY=VALUE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from diffaug.dicom.stacks import Stack
from diffaug.errors import DiffaugError

KEYS = ("description", "type", "modality", "plane", "phase")
# image types of what a scanner or a workstation has made of other images; `type` takes them all the same
DERIVED = ("SECONDARY", "LOCALIZER", "SCREEN SAVE", "PROJECTION IMAGE", "MPR", "MIP")
PLANES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Rules:
    """What a volume must be.

    Attributes:
        wanted: By key the values of which one must hold.
    """

    wanted: dict[str, tuple[str, ...]]

    @staticmethod
    def parse(rules: Sequence[str]) -> Rules:
        """Read rules.

        Args:
            rules: Each KEY=VALUE; of one key, any may hold.

        Returns:
            The rules.

        Raises:
            DiffaugError: If one is none.
        """
        wanted: dict[str, tuple[str, ...]] = {}
        for rule in rules:
            key, equals, value = rule.partition("=")
            if not equals or key not in KEYS or not value:
                raise DiffaugError(
                    f"--series: found {rule!r}, expected KEY=VALUE, with one of {', '.join(KEYS)}; fix the option"
                )
            if key == "plane" and value not in PLANES or key == "phase" and not value.isdigit():
                expected = f"one of {', '.join(PLANES)}" if key == "plane" else "0, 1, ..."
                raise DiffaugError(f"--series: found {rule!r}, expected {expected}; fix the option")
            wanted[key] = (*wanted.get(key, ()), value)
        return Rules(wanted)

    def choose(self, stacks: Sequence[Stack]) -> dict[int, str]:
        """Choose among all volumes.

        Args:
            stacks: The volumes.

        Returns:
            By place in `stacks` of those that are not taken, why.
        """
        why = {number: reason for number, stack in enumerate(stacks) if (reason := self._other(stack))}
        if phases := self.wanted.get("phase"):
            together: list[list[int]] = []
            for number, stack in enumerate(stacks):
                if number not in why:
                    mates = next((each for each in together if stacks[each[0]].lies_with(stack)), None)
                    if mates is None:
                        together.append(mates := [])
                    mates.append(number)
            for numbers in together:
                for phase, number in enumerate(sorted(numbers, key=lambda number: stacks[number].time)):
                    if str(phase) not in phases:
                        why[number] = f"is phase {phase} of {len(numbers)}"
        return why

    def _other(self, stack: Stack) -> str:
        header = stack.header
        kind = header.image_type.upper().split("/")
        if "type" not in self.wanted and (derived := next((word for word in DERIVED if word in kind), "")):
            return f"is {derived.lower()} by its image type"
        texts = {"description": header.description, "type": header.image_type, "modality": header.modality}
        for key, text in texts.items():
            patterns = self.wanted.get(key)
            if patterns and not any(
                fnmatchcase(text.casefold(), pattern.casefold().replace("[", "[[]")) for pattern in patterns
            ):
                return f"has another {key}"
        if self.wanted.get("plane") and stack.plane not in self.wanted["plane"]:
            return f"is {stack.plane}"
        return ""
