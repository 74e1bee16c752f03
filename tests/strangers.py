"""Files as strangers may send them: truncated, flipped, of other kinds, with sizes and paths that nobody should believe."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 3, 2**40, 10**30, 0.5, -1e300, float("nan"), float("inf"), "", "x", "../../escaped", "/etc/passwd",
    "\x00", "<script>alert(1)</script>", [], [1], [[]], {}, {"x": 1}, ["../../escaped"] * 3, [2**40] * 3, [-1] * 3,
)  # fmt: skip


def places(content: Any, here: tuple = ()) -> Iterator[tuple]:
    """Where something can be changed in nested dictionaries and lists."""
    yield here
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield from places(value, (*here, key))


def changed(content: Any, rng: np.random.Generator) -> Any:
    """Change, drop, double or rename one thing, or a few."""
    content = copy.deepcopy(content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 5]))):
        every = list(places(content))
        *where, last = every[rng.integers(1, len(every))] if len(every) > 1 else (None,)
        value = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
        if last is None:
            return value
        parent = content
        for key in where:
            parent = parent[key]
        how = rng.integers(6)
        if how == 0:
            del parent[last]
        elif how == 1 and isinstance(parent, dict):
            parent[str(value)] = parent.pop(last)
        elif how == 2 and isinstance(parent[last], list):
            parent[last] = parent[last] * 2
        else:
            parent[last] = value
    return content


def spoilt(whole: bytes, rng: np.random.Generator) -> bytes:
    """Cut, flip, repeat or overwrite bytes."""
    how, data = rng.integers(6), bytearray(whole)
    if how == 0:
        return whole[: rng.integers(len(whole))]
    if how == 1:
        return bytes(rng.integers(256, size=int(rng.integers(1, 4000)), dtype=np.uint8))
    if how == 2:
        return whole + whole
    start = 200 if how == 3 and len(data) > 400 else len(data)  # where headers are
    for place in rng.integers(min(start, len(data)), size=int(rng.choice([1, 3, 30]))):
        data[place] = rng.integers(256) if how == 4 else data[place] ^ (1 << int(rng.integers(8)))
    if how == 5:
        data[:8] = b"\xff\xff\xff\xff\xff\xff\xff\x7f"  # a huge size in a header
    return bytes(data)


def spoil_bytes(file: Path, rng: np.random.Generator) -> None:
    file.write_bytes(spoilt(file.read_bytes(), rng))


def spoil_json(file: Path, rng: np.random.Generator) -> None:
    if rng.integers(4) == 0:
        spoil_bytes(file, rng)
    else:
        file.write_text(json.dumps(changed(json.loads(file.read_text()), rng)))


def _another(tensor: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    makers: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: tensor[:0] if tensor.ndim else tensor[None],
        lambda: tensor[None],
        lambda: tensor.double().mul(float("nan")),
        lambda: tensor.to(torch.int32),
        lambda: torch.zeros(3),
    )
    return makers[rng.integers(len(makers))]().contiguous()


def spoil_safetensors(file: Path, rng: np.random.Generator) -> None:
    how = rng.integers(4)
    if how == 0:
        spoil_bytes(file, rng)
        return
    with safe_open(file, framework="pt") as content:
        about = json.loads(content.metadata()["diffaug"])
        tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    if how == 1:
        key = sorted(tensors)[rng.integers(len(tensors))]
        tensors[key] = _another(tensors[key], rng)
    elif how == 2 and rng.integers(2):
        del tensors[sorted(tensors)[rng.integers(len(tensors))]]
    else:
        about = changed(about, rng)
    save_file(tensors, file, {"diffaug": json.dumps(about)})


def spoil_torch(file: Path, rng: np.random.Generator) -> None:
    if rng.integers(3) == 0:
        spoil_bytes(file, rng)
        return
    content = torch.load(file, weights_only=True)
    if rng.integers(3) == 0:
        inside = content.get("network_weights", content)
        key = sorted(inside)[rng.integers(len(inside))]
        if isinstance(inside[key], torch.Tensor):
            inside[key] = _another(inside[key], rng)
            torch.save(content, file)
            return
    torch.save(changed(content, rng), file)
