"""Where every artefact of a task lives, and how files reach the disk: run folders, manifests, atomic writes, locks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffaug.errors import DiffaugError

PLAN = "plan"  # the network of nnU-Net's plan, beside those that a trainer brings along
NNUNET_FOLDERS = {
    "nnUNet_raw": "the raw datasets (DatasetXXX_Name/imagesTr ...)",
    "nnUNet_preprocessed": "nnU-Net's plans and preprocessed cases",
    "nnUNet_results": "trained models and diffaug's run folders",
}


def nnunet_folder(variable: str) -> Path:
    """Read one of nnU-Net's three folders from its environment variable.

    Args:
        variable: `nnUNet_raw`, `nnUNet_preprocessed` or `nnUNet_results`.

    Returns:
        The folder, which may not exist yet.

    Raises:
        DiffaugError: If the variable is unset or, for `nnUNet_raw`, no such folder exists.
    """
    value = os.environ.get(variable)
    if not value:
        raise DiffaugError(
            f"{variable}: environment variable is not set, expected the folder of {NNUNET_FOLDERS[variable]}; "
            f"run: export {variable}=/path/to/{variable}"
        )
    folder = Path(value).expanduser()
    if variable == "nnUNet_raw" and not folder.is_dir():
        raise DiffaugError(f"{folder}: no such folder, expected {NNUNET_FOLDERS[variable]}; fix {variable}")
    return folder


def dataset_name(task: str | int) -> str:
    """Turn what nnU-Net's `-d` takes (`101` or `Dataset101_Breast`) into the dataset's folder name.

    Args:
        task: Number or full name.

    Returns:
        The folder name, for example `Dataset101_Breast`.

    Raises:
        DiffaugError: If no dataset, or more than one, has that number in nnU-Net's folders.
    """
    text = str(task)
    roots = [nnunet_folder("nnUNet_raw")]
    roots += [Path(os.environ[v]) for v in ("nnUNet_preprocessed", "nnUNet_results") if os.environ.get(v)]
    names = {p.name for root in roots if root.is_dir() for p in root.glob("Dataset*") if p.is_dir()}
    if text in names:
        return text
    if text.isdigit():
        matches = sorted(name for name in names if name.startswith(f"Dataset{int(text):03d}_"))
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise DiffaugError(
                f"task {text}: {len(matches)} datasets have this number ({', '.join(matches)}), "
                "expected one; give the full name"
            )
    known = ", ".join(sorted(names)) or "none"
    raise DiffaugError(f"task {text}: no such dataset in {roots[0]}, found {known}; give its number or full name")


def encoder_folder(network: str) -> str:
    """Name the folder of the encoder of a network.

    Args:
        network: A key of `diffaug.nnunet.families.NETWORKS`.

    Returns:
        Its name within the run folder.
    """
    return "encoder" if network == PLAN else f"encoder_{network}"


@dataclass(frozen=True)
class Workspace:
    """The run folder of one dataset, plans and configuration: `diffaug__<plans>__<configuration>` and its four rooms.

    Attributes:
        dataset: Folder name of the dataset, `DatasetXXX_Name`.
        plans: Name of nnU-Net's plans, without `.json`.
        configuration: Name of nnU-Net's configuration, for example `3d_fullres`.
        network: Which network is pretrained, a key of `diffaug.nnunet.families.NETWORKS`; all share one generator.
    """

    dataset: str
    plans: str = "nnUNetPlans"
    configuration: str = "3d_fullres"
    network: str = PLAN

    @property
    def raw(self) -> Path:
        """The raw dataset, read only."""
        return nnunet_folder("nnUNet_raw") / self.dataset

    @property
    def preprocessed(self) -> Path:
        """nnU-Net's folder with plans, splits and preprocessed cases; diffaug adds no case to it."""
        return nnunet_folder("nnUNet_preprocessed") / self.dataset

    @property
    def plans_file(self) -> Path:
        """nnU-Net's plans."""
        return self.preprocessed / f"{self.plans}.json"

    @property
    def run(self) -> Path:
        """The run folder that holds the four stages."""
        return nnunet_folder("nnUNet_results") / self.dataset / f"diffaug__{self.plans}__{self.configuration}"

    @property
    def generator(self) -> Path:
        """Stage `fit`: grid plan, cache, autoencoder, denoiser."""
        return self.run / "generator"

    @property
    def synthetic(self) -> Path:
        """Stage `sample`: synthetic volumes in nnU-Net's raw layout."""
        return self.run / "synthetic"

    @property
    def audit(self) -> Path:
        """Stage `audit`: report and pictures."""
        return self.run / "audit"

    @property
    def encoder(self) -> Path:
        """Stage `pretrain`: the encoder file that the nnU-Net trainer loads."""
        return self.run / encoder_folder(self.network)


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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def discard(folder: Path, keep: Sequence[str] = ()) -> None:
    """Empty a stage's folder, for `--fresh`.

    Args:
        folder: The folder; its lock stays.
        keep: Names of what else stays.
    """
    for entry in folder.iterdir():
        if entry.name not in (".lock", *keep):
            remove(entry)


def remove(entry: Path) -> None:
    """Remove a file, or a folder and all that is in it.

    Args:
        entry: Which.
    """
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of a stage's folder. The lock goes with the process, so `kill -9` leaves none behind.

    Args:
        folder: The stage's folder; made if it is missing.

    Yields:
        Nothing.

    Raises:
        DiffaugError: If another process works in the folder.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise DiffaugError(f"{folder}: another diffaug process works here; wait for it or stop it") from error
    except OSError as error:
        raise DiffaugError(f"{folder}: cannot be written ({error.strerror}); fix the path or its rights") from error
    try:
        for left in folder.rglob(".*.tmp.*"):  # by a killed process
            left.unlink()
        yield
    finally:
        lock.release()
