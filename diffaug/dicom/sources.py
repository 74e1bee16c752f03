"""Where instances lie: files in folders, and members of archives, which are never unpacked to where they say."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from diffaug.errors import DiffaugError

MOST_MEMBER = 2**33  # bytes of an archive's member: more is no instance


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
        """Name it for a message."""
        return f"{self.file}:{self.member}" if self.member else str(self.file)


def list_sources(paths: tuple[Path, ...]) -> list[Source]:
    """List what folders and archives hold.

    Args:
        paths: Folders, archives, or single files.

    Returns:
        Every file and member, sorted.

    Raises:
        DiffaugError: If a path is missing or holds no file.
    """
    found: list[Source] = []
    for path in paths:
        if not path.exists():
            raise DiffaugError(f"{path}: no such file or folder, expected DICOM studies; fix the path")
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        if not files:
            raise DiffaugError(f"{path}: found no files, expected DICOM studies; fix the path")
        for file in files:
            found += [Source(file, member) for member in _members(file)] or [Source(file)]
    return list(dict.fromkeys(found))


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
                with zipfile.ZipFile(file) as archive:
                    for source in members:
                        with archive.open(source.member) as content:
                            yield source, content  # type: ignore[misc]
            else:
                names = {source.member: source for source in members}
                with tarfile.open(file) as archive:  # in the archive's order: a compressed one has no other
                    for member in archive:
                        if member.name in names and (found := archive.extractfile(member)) is not None:
                            yield names[member.name], found  # type: ignore[misc]
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, tarfile.TarError) as error:
            print(f"import-dicom: {file} cannot be read to its end ({error})", flush=True)


def _members(file: Path) -> list[str]:
    """Names of an archive's files; none where the file is no archive."""
    name = file.name.lower()
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(file) as archive:
                return sorted(m.filename for m in archive.infolist() if not m.is_dir() and m.file_size < MOST_MEMBER)
        if name.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
            with tarfile.open(file) as archive:
                return sorted(m.name for m in archive if m.isfile() and m.size < MOST_MEMBER)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DiffaugError(f"{file}: cannot be read ({error}), expected a whole archive; copy it again") from error
    return []
