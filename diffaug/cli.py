"""The door: `diffaug VERB`, its options made from what the verb may be asked, its errors in one line."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import shtab

from diffaug import __version__
from diffaug.errors import DiffaugError, Notice
from diffaug.options import add_options, read_options
from diffaug.stopping import Stopped, listening
from diffaug.verbs import VERBS, Verb

# Before torch is loaded: waiting threads sleep instead of spinning. On a machine that does anything else at the same
# time, spinning ones make every step several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `diffaug`.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        0, or 2 for something the user can fix, or 130 after Ctrl-C, or 128 and the number of a signal that told to stop.
    """
    arguments = build_parser().parse_args(argv)
    warnings.formatwarning = _in_one_line
    try:
        with listening():  # while an error is told, too: torchrun ends the others as soon as one has failed
            return _run(arguments)
    except Stopped as stopped:
        print(f"diffaug: stopped by {stopped}; the same command goes on from the last checkpoint", file=sys.stderr)
        return 128 + stopped.number  # what shells and schedulers expect of a process that a signal ended
    except KeyboardInterrupt:
        print("diffaug: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    verb: Verb = arguments.verb
    try:
        verb.run(*(read_options(kind, arguments, only) for kind, only in _kinds(verb)))
    except Exception as error:
        message = _one_line(error)
        if message is None or arguments.debug:
            raise
        print(f"diffaug: {message}", file=sys.stderr)
        return 2
    return 0


_as_usual = warnings.formatwarning


def _in_one_line(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
    return f"note: {message}\n" if issubclass(category, Notice) else _as_usual(message, category, *where, **line)


def _one_line(error: Exception) -> str | None:
    """Tell in one line what the user can fix, or None for a fault of the program."""
    if isinstance(error, DiffaugError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'a temporary file'}: the disk is full; free space and run the same command again"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: cannot be used ({error.strerror}); mend the path or its rights"
    if os.environ.get("WORLD_SIZE", "1") != "1" and (
        "gloo" in str(error) or type(error).__module__ == "torch.distributed"
    ):
        return (
            "another process of this run has ended, see what it says; the same command goes on from the last checkpoint"
        )
    if type(error).__name__ == "OutOfMemoryError":
        return (
            f"the GPU's memory is full ({error}); lower batch_size in the generator's plan.json, pretrain a configuration of "
            "a smaller patch_size, or begin anew with a smaller --budget"
        )
    return None


def build_parser() -> argparse.ArgumentParser:
    """Describe all verbs and their options.

    Returns:
        The parser; what it parses has the chosen `verb`.
    """
    parser = argparse.ArgumentParser(
        prog="diffaug",
        description="Unlabelled scans in, a pretrained nnU-Net out. Every verb goes on where it stopped.",
    )
    shtab.add_argument_to(parser, "--print-completion", help="print what a shell needs to complete commands")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the versions that results depend on")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    groups: dict[str, Any] = {}
    for name, verb in VERBS.items():
        group, _, own = name.rpartition(" ")
        if group and group not in groups:
            parts = [each for each in VERBS if each.startswith(f"{group} ")]
            about = f"{', '.join(part.removeprefix(f'{group} ') for part in parts)}: {VERBS[parts[0]].about}"
            groups[group] = verbs.add_parser(group, help=about, description=about).add_subparsers(
                title="verbs", required=True, metavar="VERB"
            )
        made = groups.get(group, verbs).add_parser(
            own,
            help=verb.about,
            description=verb.about,
            epilog=f"example:\n  {verb.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for kind, only in _kinds(verb):
            add_options(made, kind, only)
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        made.set_defaults(verb=verb)
        for action in made._actions:
            if action.type is Path:
                action.complete = shtab.DIRECTORY if action.metavar == "FOLDER" else shtab.FILE  # type: ignore[attr-defined]
    return parser


class _Version(argparse.Action):
    """Tells versions from packages' metadata: looked up here alone, for `doctor` must run where a package is missing."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        others = ", ".join(f"{name} {version(name)}" for name in ("nnunetv2", "torch"))
        print(f"diffaug {__version__} ({others})")
        parser.exit()


def _kinds(verb: Verb) -> list[tuple[type, tuple[str, ...]]]:
    """Give the classes of a verb's options, each with the only fields that count, if not all do."""
    return [(each[0], each[1:]) if isinstance(each, tuple) else (each, ()) for each in verb.options]
