"""Writes a study: one folder that opens in a browser, and the key, which stays with whoever made it."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffaug.errors import DiffaugError
from diffaug.files import LOCK, atomic_path, discard, fingerprint, locked, read_json, write_json
from diffaug.outputs import require_own_folder
from diffaug.reader_study.answers import KEY_FORMAT, Key
from diffaug.reader_study.requests import MakeRequest
from diffaug.reader_study.texts import TEXTS_FILE, read_texts
from diffaug.reader_study.volumes import Frame, Pick, Side, choose, framed, nifti
from diffaug.scans.dataset import RawDataset
from diffaug.scans.readings import is_ct
from diffaug.shapes import require_shape

PAGE = "index.html"  # written last: a folder that has it is whole
STILL = 946_684_800  # seconds since 1970: every file has this time, for synthetic volumes are read faster than scans
MOST_NAME = 60  # characters of the title
PRESETS = {"lung": (-600, 1500), "soft tissue": (40, 400), "bone": (400, 1800)}  # HU, level and width


def make(request: MakeRequest, task: str, gather: Callable[[], list[Side]], *, fresh: bool) -> Path:
    """Write a study; what a killed call has written stays, if the same is asked.

    Args:
        request: What was asked.
        task: Name of the task whose volumes are shown; empty for folders.
        gather: Lists both sides.
        fresh: Whether to discard a study and a key that are there.

    Returns:
        The page.

    Raises:
        DiffaugError: If another study is there, or the key would be given away with the study.
    """
    out, key_file = request.out.resolve(), request.key_file.resolve()
    if key_file.is_relative_to(out):
        raise DiffaugError(
            f"--key {key_file}: lies in the study's folder, which readers are given, expected another place; fix the option"
        )
    texts = read_texts(request.texts)
    asked = _asked(request, task) | {"texts": fingerprint(texts)}
    # readers are given all of it, and --fresh empties it
    require_own_folder(out, "a study", (out / "volumes").is_dir(), (request.real, request.synthetic), apart=True)
    sides = gather()
    with locked(out):
        key = None if fresh else _begun(asked, key_file, out)
        if key and (out / PAGE).is_file():
            return out / PAGE
        drawn = key["drawn"] if key else (secrets.token_hex(16) if request.seed is None else str(request.seed))
        rng = np.random.default_rng(list(drawn.encode()))
        study = key["study"] if key else secrets.token_hex(6)  # drawn apart: from it nobody can work out the order
        frame, picks = choose(sides, request.channel, rng)
        volumes = {str(number): {"kind": p.kind, "case": p.case.id} for number, p in enumerate(picks, 1)}
        if key is None:
            if fresh:
                _require_key(key_file)
                discard(out)
            about = {"format": KEY_FORMAT, "study": study, "drawn": drawn, "request": asked, "frame": asdict(frame)}
            write_json(key_file, about | {"volumes": volumes})
        elif key["volumes"] != volumes:
            raise DiffaugError(
                f"{key_file}: its volumes are not those that would be chosen now, expected the folders as they were; "
                "restore them, or begin anew with --fresh"
            )
        _write_volumes(out / "volumes", {side.kind: side.dataset for side in sides}, request.channel, frame, picks)
        channel = sides[0].dataset.channels[request.channel]
        _write_page(out, texts, _shown(study, request, frame, len(picks), channel))
    (out / LOCK).unlink(missing_ok=True)  # it names this machine, and the folder is given away
    return out / PAGE


def _write_volumes(
    folder: Path, datasets: Mapping[str, RawDataset], channel: int, frame: Frame, picks: Sequence[Pick]
) -> None:
    """Write what is not there yet; numbers have one length in them, and so all files one size."""
    for number, pick in enumerate(tqdm(picks, "writing volumes", unit="volume", ascii=True), 1):
        file = folder / f"{number}.js"
        if not file.is_file():
            chance = np.random.default_rng([number, *frame.shape])
            voxels = framed(datasets[pick.kind].read(pick.case), channel, frame, pick.place, chance)
            _write(file, f'receiveVolume({number:>6}, "{base64.b64encode(nifti(voxels, frame)).decode()}");\n')


def _require_key(key_file: Path) -> None:
    """Require that what is written over is the key of a study."""
    if key_file.is_file():
        require_shape(
            read_json(key_file, "name another --key"), Key, key_file, "it is no study's key: name another --key"
        )


def _begun(asked: Mapping[str, Any], key_file: Path, out: Path) -> dict[str, Any] | None:
    """Read the key of a study that was begun, which must be the one that is asked for."""
    if not key_file.is_file():
        if (out / "volumes").is_dir() or (out / PAGE).is_file():
            raise DiffaugError(
                f"{out}: holds a study whose key is not at {key_file}, expected an empty folder; name another --out, say "
                "where its --key is, or discard it with --fresh"
            )
        return None
    key = read_json(key_file, "restore it, or begin anew with --fresh")
    require_shape(key, Key, key_file, "restore it, or begin anew with --fresh")
    for name, value in asked.items():
        if (before := key["request"].get(name)) != value:
            raise DiffaugError(
                f"{key_file}: the study was begun with {name} {before}, now it is {value}; ask for the same, name another "
                "--out, or discard it with --fresh"
            )
    return dict(key)


def _asked(request: MakeRequest, task: str) -> dict[str, Any]:
    """What was asked, as JSON has it; paths as they are from anywhere."""
    shown = {name: value for name, value in asdict(request).items() if name not in ("out", "key")}
    asked = {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in shown.items()}
    return {"task": task, **asked}


def _shown(study: str, request: MakeRequest, frame: Frame, count: int, channel: str) -> dict[str, Any]:
    """What the page knows of the study; nothing in it tells what is real."""
    low, high = frame.shown
    return {
        "id": study,
        "title": request.title[:MOST_NAME],
        "volumes": count,
        "low": low,
        "high": high,
        "presets": {name: list(limits) for name, limits in PRESETS.items()} if is_ct(channel) else {},
    }


def _write_page(out: Path, texts: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    """Write all but the volumes, the page itself last."""
    with as_file(files("diffaug.reader_study") / "page") as page:
        for file in sorted(page.iterdir()):
            if file.name not in (PAGE, TEXTS_FILE):
                with atomic_path(out / file.name) as temporary:
                    shutil.copyfile(file, temporary)
        write_json(out / TEXTS_FILE, texts)
        _write(out / "study.js", f"const STUDY = {_script(study)};\nconst TEXTS = {_script(texts)};\n")
        _write(out / PAGE, (page / PAGE).read_text(encoding="utf-8").replace("{language}", texts["language"]))
    for file in [*out.rglob("*"), out]:
        os.utime(file, (STILL, STILL))


def _script(content: Any) -> str:
    """JSON that ends no script early."""
    return json.dumps(content, indent=1).replace("</", "<\\/")


def _write(file: Path, content: str) -> None:
    with atomic_path(file) as temporary:
        temporary.write_text(content, encoding="utf-8")
