"""Where instances lie: files in folders, and members of archives, which are never unpacked to where they say."""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from diffaug.errors import DiffaugError

MOST_MEMBER = 2**33  # bytes of an archive's member: more is no instance
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# what reading a damaged, encrypted or vanished file may raise
DAMAGED = (
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True)
class Source:
    """One file, or one member of an archive.

    Attributes:
        file: The file, or the archive.
        member: Name in the archive; empty for a file.
    """

    file: Path
    member: str = ""

    def __str__(self) -> str:
        """Name it for a message, on one line whatever it is called."""
        name = f"{self.file}:{self.member}" if self.member else str(self.file)
        return printable(name)


def printable(text: str) -> str:
    """Make a stranger's text fit for a line on a screen.

    Args:
        text: The text.

    Returns:
        The same without line breaks and control characters.
    """
    return "".join(each if each.isprintable() else "?" for each in text)


def first_line(error: Exception) -> str:
    """Tell an error in one line.

    Args:
        error: The error.

    Returns:
        Its first line, or its name.
    """
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0][:120])


def list_sources(paths: tuple[Path, ...]) -> list[Source]:
    """List what folders and archives hold.

    Args:
        paths: Folders, archives, or single files.

    Returns:
        Every file and member, sorted.

    Raises:
        DiffaugError: If a path is missing, holds no file, or is an archive that cannot be read.
    """
    found: list[Source] = []
    for path in paths:
        if not path.exists():
            raise DiffaugError(f"{path}: no such file or folder, expected DICOM studies; fix the path")
        files = sorted(_files(path)) if path.is_dir() else [path]
        if not files:
            raise DiffaugError(f"{path}: found no files, expected DICOM studies; fix the path")
        for file in files:
            found += [Source(file, member) for member in _members(file)] or [Source(file)]
    return list(dict.fromkeys(found))


def _files(folder: Path) -> Iterator[Path]:
    """Walk a folder, through links too but never in a circle, and say what cannot be opened."""

    def told(error: OSError) -> None:
        print(f"import-dicom: {printable(str(error.filename))}: not looked at ({error.strerror})", flush=True)

    seen: set[tuple[int, int]] = set()
    for where, folders, names in os.walk(folder, followlinks=True, onerror=told):
        state = Path(where).stat()
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        yield from (path for name in names if (path := Path(where, name)).is_file())


def opened(sources: list[Source]) -> Iterator[tuple[Source, BinaryIO]]:
    """Open each source in turn, an archive once for all of its members.

    Args:
        sources: What to open, members of one archive side by side.

    Yields:
        Each source and its content, which is closed when the next one is asked for. What cannot be opened is left out.
    """
    by_file: dict[Path, list[Source]] = {}
    for source in sources:
        by_file.setdefault(source.file, []).append(source)
    for file, members in by_file.items():
        try:
            if not members[0].member:
                with file.open("rb") as content:
                    yield members[0], content
            elif zipfile.is_zipfile(file):
                yield from _from_zip(file, members)
            else:
                yield from _from_tar(file, {source.member: source for source in members})
        except DAMAGED as error:
            print(f"import-dicom: {Source(file)}: cannot be read to its end ({first_line(error)})", flush=True)


def _from_zip(file: Path, members: list[Source]) -> Iterator[tuple[Source, BinaryIO]]:
    with zipfile.ZipFile(file) as archive:
        for source in members:
            try:
                with archive.open(source.member) as content:
                    yield source, content  # type: ignore[misc]
            except (RuntimeError, NotImplementedError) as error:  # encrypted, or packed in a way of its own
                print(f"import-dicom: {source}: not looked at ({first_line(error)})", flush=True)


def _from_tar(file: Path, wanted: dict[str, Source]) -> Iterator[tuple[Source, BinaryIO]]:
    with tarfile.open(file) as archive:  # in the archive's order: a compressed one has no other
        for member in archive:
            if (source := wanted.pop(member.name, None)) is not None:
                if (content := archive.extractfile(member)) is not None:
                    yield source, content  # type: ignore[misc]
                if not wanted:
                    return


def _members(file: Path) -> list[str]:
    """Names of an archive's files; none where the file is no archive."""
    name = file.name.lower()
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(file) as archive:
                return sorted(m.filename for m in archive.infolist() if not m.is_dir() and m.file_size < MOST_MEMBER)
        if name.endswith(TARS):
            with tarfile.open(file) as archive:
                return sorted({m.name for m in archive if m.isfile() and m.size < MOST_MEMBER})
    except DAMAGED as error:
        raise DiffaugError(
            f"{Source(file)}: cannot be read ({first_line(error)}), expected a whole archive; copy it again"
        ) from error
    return []
