"""A stage's life, written once: open and lock its folder, agree with what was begun there, go on, finish.

Everything that may be wrong is looked for between opening and agreeing. So `--fresh` beside a slip discards nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffaug import __version__
from diffaug.errors import DiffaugError
from diffaug.files import discard, locked, read_json, write_json
from diffaug.shapes import require_shape
from diffaug.stages.manifests import BEGUN
from diffaug.stages.requests import Request, as_json, differing, remembered

MANIFEST = "manifest.json"


@dataclass
class Stage:
    """A stage's folder while a process works in it.

    Attributes:
        name: The verb.
        folder: The folder.
        fresh: Whether what is there is to be discarded.
        active: Whether this is the one process that writes; the others of torchrun read.
        before: The manifest that was found; None where nothing was begun, or it is to be discarded.
        manifest: The manifest from `agree` on.
    """

    name: str
    folder: Path
    fresh: bool
    active: bool
    before: dict[str, Any] | None
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The manifest."""
        return self.folder / MANIFEST

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return bool((self.manifest or self.before or {}).get("finished"))

    def request(self, kind: type[Request], asked: Request | None, *, free: Sequence[str] = ()) -> Request:
        """Settle what is wanted: what is asked, which must be what the stage was begun with.

        Args:
            kind: The request's class.
            asked: What is asked now; None for whatever was asked before, or the defaults.
            free: Options that may differ.

        Returns:
            The request.

        Raises:
            DiffaugError: If options differ; each is named.
        """
        if self.before is None:
            return asked or kind()
        before = remembered(kind, self.before, self.file)
        if asked is None:
            return before
        changed = [text for text in differing(before, asked) if text.partition(" ")[0] not in free]
        if changed:
            raise DiffaugError(
                f"{self.file}: begun with other options ({'; '.join(changed)}), expected the same; repeat them, or discard "
                f"what is there: diffaug {self.name} --fresh"
            )
        return asked

    def agree(self, request: Any, *, keep: Sequence[str] = (), **told: Any) -> None:
        """Begin, or go on. With `--fresh` this is where what was there goes: all checks are behind.

        Args:
            request: The settled request.
            keep: Names of what is not discarded, for it is of now.
            **told: What else the manifest says from the beginning on.
        """
        if self.active and self.fresh:
            discard(self.folder, keep)
        begun = {"stage": self.name, "version": __version__, **told, **(self.before or {})}
        if begun["version"] != __version__ and self.active:
            print(f"{self.name}: begun by diffaug {begun['version']}, goes on with {__version__}", flush=True)
        self.manifest = {**begun, "request": as_json(request), "finished": False}

    def save(self, **told: Any) -> None:
        """Write the manifest.

        Args:
            **told: What is new in it.
        """
        self.manifest |= told
        if self.active:
            write_json(self.file, self.manifest)

    def finish(self, **told: Any) -> None:
        """Write down that nothing is left to do.

        Args:
            **told: What is new in the manifest.
        """
        self.save(**told, finished=True)

    def refuse(self, changed: Sequence[str]) -> None:
        """Refuse to mix what was begun with inputs that are no longer the same.

        Args:
            changed: What has changed, in words; empty if nothing has.

        Raises:
            DiffaugError: If anything has.
        """
        if changed:
            raise DiffaugError(
                f"{self.file}: what this was made from has changed since ({'; '.join(changed)}), expected the same; restore "
                f"it, or make it anew: diffaug {self.name} --fresh"
            )


@contextmanager
def open_stage(name: str, folder: Path, *, fresh: bool, active: bool = True) -> Iterator[Stage]:
    """Open a stage's folder and keep other processes out of it.

    Args:
        name: The verb.
        folder: The folder.
        fresh: Whether what is there is to be discarded, once all is checked.
        active: Whether this is the one process that writes.

    Yields:
        The stage.

    Raises:
        DiffaugError: If another process works there, or the manifest is broken.
    """
    with locked(folder) if active else nullcontext():
        file = folder / MANIFEST
        before = None
        if file.is_file() and not fresh:
            before = read_json(file, f"discard what is there: diffaug {name} --fresh")
            if not isinstance(before, dict) or before.get("stage") != name:
                raise DiffaugError(f"{file}: no manifest of {name}, expected one; discard it: diffaug {name} --fresh")
            require_shape(before, BEGUN[name], file, f"restore it, or discard what is there: diffaug {name} --fresh")
        yield Stage(name, folder, fresh, active, before)
