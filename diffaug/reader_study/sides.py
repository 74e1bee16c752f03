"""The two sides of a study, from two folders; what both must have in common."""

from __future__ import annotations

from diffaug.errors import DiffaugError
from diffaug.reader_study.requests import MakeRequest
from diffaug.reader_study.volumes import Side
from diffaug.scans.folders import open_images


def of_folders(request: MakeRequest) -> list[Side]:
    """Take two folders.

    Args:
        request: What was asked.

    Returns:
        Both sides; a side that is not shown may lack its folder.

    Raises:
        DiffaugError: If a folder is missing, or the channel, or the sides differ in channels.
    """
    if min(request.real_count, request.synthetic_count) < 0:
        raise DiffaugError(
            "reader-study make: found a number below 0, expected how many volumes are shown; fix --real-count"
        )
    if request.real and request.synthetic and request.real.resolve() == request.synthetic.resolve():
        raise DiffaugError(f"--synthetic {request.synthetic}: is --real, too, expected another folder; fix the option")
    sides = []
    for kind, folder, count in (
        ("real", request.real, request.real_count),
        ("synthetic", request.synthetic, request.synthetic_count),
    ):
        if count and folder is None:
            raise DiffaugError(
                f"reader-study make: found no --{kind}, expected a folder of {count} {kind} volumes; name it, or a --task"
            )
        if count and folder is not None:
            sides.append(Side(kind, open_images(folder, f"--{kind}"), count))
    return require_alike(sides, request)


def require_alike(sides: list[Side], request: MakeRequest) -> list[Side]:
    """Require that both sides have the channel that is shown.

    Args:
        sides: The sides.
        request: What was asked.

    Returns:
        The sides.

    Raises:
        DiffaugError: If there is none, they differ in channels, or there is no such channel.
    """
    if not sides:
        raise DiffaugError("reader-study make: found no volumes asked for, expected some; raise --synthetic-count")
    channels = [len(side.dataset.channels) for side in sides]
    if len(set(channels)) > 1:
        raise DiffaugError(
            f"{sides[1].dataset.name}: found {channels[1]} channels, expected {channels[0]} as in {sides[0].dataset.name}; "
            "fix the folder"
        )
    if not 0 <= request.channel < channels[0]:
        raise DiffaugError(
            f"--channel: found {request.channel}, expected 0 to {channels[0] - 1} ({', '.join(sides[0].dataset.channels)}); "
            "fix the option"
        )
    return sides
