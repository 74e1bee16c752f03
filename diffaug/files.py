"""How files reach the disk: whole or not at all, hashed, locked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffaug.errors import DiffaugError, Notice

LOCK = ".lock"  # in a stage's folder; who holds it writes into it who that is
# what Lustre and NFS answer where they are mounted without locks
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the place of `path` only once it is whole and on disk.

    Args:
        path: The file to be made. A file of that name stays as it was until the new one is complete.

    Yields:
        The temporary path, with the same suffixes as `path`.

    Raises:
        DiffaugError: If the disk is full or the folder cannot be written.
    """
    temporary = path.parent / f".{os.getpid()}.tmp.{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:  # Windows syncs nothing that is open for reading alone
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:
        # torch and SimpleITK turn a failed write into a RuntimeError of their own: look at the disk, not at the type.
        if _disk_is_full(temporary, error):
            raise DiffaugError(
                f"{path}: the disk is full, so nothing was written there; free space and run the same command again, "
                "it goes on where it stopped"
            ) from error
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise DiffaugError(f"{path}: cannot be written ({error.strerror or error}); fix the folder's rights") from (
                error
            )
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _disk_is_full(temporary: Path, error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:  # NumPy's short write has no number
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, DiffaugError):
        return False
    try:
        with temporary.open("ab") as file:
            file.write(bytes(1 << 20))  # quotas do not show in the file system's figures
            file.flush()
    except OSError:
        return True
    return False


def write_json(path: Path, content: Any) -> None:
    """Write JSON that a person can read and edit, atomically.

    Args:
        path: The file.
        content: Anything `json` can write.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_json(path: Path, fix: str) -> Any:
    """Read JSON, or say in one line what to do.

    Args:
        path: The file.
        fix: What the user should do when it is missing or broken.

    Returns:
        The content.

    Raises:
        DiffaugError: If the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DiffaugError(f"{path}: no such file; {fix}") from error
    except (RecursionError, ValueError) as error:  # not JSON, not UTF-8, nested too deep, numbers too long
        raise DiffaugError(f"{path}: not valid JSON ({error}); {fix}") from error


def fingerprint(content: Any) -> str:
    """Hash settings or inputs, so that a stage knows whether a finished result still belongs to them.

    Args:
        content: Anything `json` can write.

    Returns:
        Sixteen hexadecimal digits of the SHA-256.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Hash a file's content.

    Args:
        path: The file.

    Returns:
        Sixteen hexadecimal digits of the SHA-256.

    Raises:
        DiffaugError: If it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DiffaugError(
            f"{path}: cannot be read ({error.strerror}), expected a file; restore it, mend its rights or remove it"
        ) from error
    return digest.hexdigest()[:16]


def discard(folder: Path, keep: Sequence[str] = ()) -> None:
    """Empty a stage's folder, for `--fresh`.

    Args:
        folder: The folder; its lock stays.
        keep: Names of what else stays.
    """
    for entry in folder.iterdir():
        if entry.name not in (LOCK, *keep):
            remove(entry)


@contextmanager
def emptied(folder: Path, file: Path) -> Iterator[Path]:
    """Empty a stage's folder for a file from elsewhere, which may lie in that folder itself.

    Args:
        folder: The folder; its lock stays.
        file: The file.

    Yields:
        A copy of the file, outside.
    """
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copyfile(file, Path(place) / file.name))
        discard(folder)
        yield copy


def remove(entry: Path) -> None:
    """Remove a file, or a folder and all that is in it.

    Args:
        entry: Which.
    """
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _owner(file: Path) -> str:
    try:
        own = json.loads(file.read_text())
        return f" (process {own['process']} on {own['host']} since {own['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of a stage's folder. The lock goes with the process, so `kill -9` leaves none behind.

    Args:
        folder: The stage's folder; made if it is missing.

    Yields:
        Nothing.

    Raises:
        DiffaugError: If another process works in the folder; it is named. On a file system without locks there is a
            warning.
    """
    file = folder / LOCK
    lock = FileLock(file, timeout=0, fallback_to_soft=False)  # a soft lock would outlive a killed process
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        own = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.write_text(json.dumps(own))
    except Timeout as error:
        raise DiffaugError(
            f"{folder}: another diffaug process works here{_owner(file)}; wait for it or stop it, or delete {file} if it is "
            "gone"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise DiffaugError(f"{folder}: cannot be written ({error.strerror}); fix the path or its rights") from error
        warnings.warn(
            f"{folder}: this file system has no locks ({error.strerror}); see to it that no second process works here",
            Notice,
            stacklevel=3,
        )
    try:
        for left in folder.rglob(".[0-9]*.tmp.*"):  # by a killed process
            left.unlink()
        yield
    finally:
        lock.release()
