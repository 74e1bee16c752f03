"""nnU-Net's `dataset.json`: what it must say, and what people write there instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffaug.errors import DiffaugError
from diffaug.files import read_json


def read_dataset_json(folder: Path, *, labels: bool = False) -> dict[str, Any]:
    """Read a raw dataset's `dataset.json`, and look for all that would stop nnU-Net or diffaug hours later.

    Args:
        folder: The raw dataset's folder.
        labels: Whether it must name labels, too; images alone need none.

    Returns:
        Its content.

    Raises:
        DiffaugError: If it is missing, or a person has written something else than nnU-Net reads.
    """
    file = folder / "dataset.json"
    info = read_json(file, "expected nnU-Net's raw layout with a dataset.json; write one")
    for found, expected in _slips(info, labels):
        raise DiffaugError(f"{file}: found {found}, expected {expected}; fix the file")
    return dict(info)


def channels_and_ending(info: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """Take what is needed to find images.

    Args:
        info: Content of a `dataset.json` that `read_dataset_json` gave.

    Returns:
        Channel names in order, and the file ending.
    """
    channels = info["channel_names"]
    return tuple(channels[key] for key in sorted(channels, key=int)), info["file_ending"]


def _slips(info: Any, labels: bool) -> Iterator[tuple[str, str]]:
    if not isinstance(info, dict):
        yield f"a {type(info).__name__}", "an object with channel_names, labels and file_ending"
        return
    yield from _slips_in_channels(info)
    ending = info.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith("."):
        yield f"file_ending {ending!r}", 'one with its dot, such as ".nii.gz"'
    if info.get("labels"):
        yield from _slips_in_labels(info["labels"], info.get("regions_class_order"))
    elif labels:
        yield f"labels {info.get('labels')!r}", 'names and numbers, such as {"background": 0, "tumour": 1}'
    entries = info.get("dataset") or {}
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("images"), list) and isinstance(entry.get("label", ""), str)
        for entry in entries.values()
    ):
        yield "a dataset entry of another kind", 'by case {"images": [files], "label": file}'


def _slips_in_channels(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    channels = info.get("channel_names")
    wanted = 'numbers from "0" on as keys and names as values, such as {"0": "T1"}'
    if channels is None and "modality" in info:
        yield "no channel_names but nnU-Net v1's modality", f"channel_names, {wanted}"
    elif not isinstance(channels, dict) or not channels:
        yield f"channel_names {channels!r}", wanted
    elif sorted(channels) != sorted(map(str, range(len(channels)))):
        yield f"channel_names with the keys {', '.join(map(str, channels))}", wanted
    elif not all(isinstance(name, str) for name in channels.values()):
        yield f"channel_names {channels!r}", wanted


def _slips_in_labels(labels: Any, order: Any) -> Iterator[tuple[str, str]]:
    wanted = 'names as keys and numbers as values, such as {"background": 0, "tumour": 1}'
    if not isinstance(labels, dict):
        yield f"labels {labels!r}", wanted
        return
    if all(str(key).isdigit() for key in labels):
        yield f"labels with the keys {', '.join(map(str, labels))}, as in nnU-Net v1", wanted
        return
    regions = [value for value in labels.values() if isinstance(value, list)]
    numbers = [n for value in labels.values() for n in (value if isinstance(value, list) else [value])]
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        yield f"labels {labels!r}", wanted
    elif labels.get("background") != 0:
        yield f"labels without background 0 ({', '.join(map(str, labels))})", wanted
    elif set(numbers) != set(range(max(numbers) + 1)):
        yield f"labels with the numbers {', '.join(map(str, sorted(set(numbers))))}", "consecutive ones from 0 on"
    elif regions and (not isinstance(order, list) or not order):
        yield "labels with regions and no regions_class_order", "regions_class_order, a number for each region"
