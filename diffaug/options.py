"""Command-line options made from a dataclass: names, types, defaults and help are said once, in the class.

argparse, and not tyro: options that may be repeated replace the default (`--exclude labelled` leaves no `fold:0` behind), and
an error is two lines.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")
SEEDS_END = 2**32  # what NumPy's old generators, and so nnU-Net's transforms, take


def option(
    default: Any = MISSING,
    *,
    read: Callable[[Any], Any] | None = None,
    short: str = "",
    positional: bool = False,
    listed: Mapping[str, str] | None = None,
    **how: Any,
) -> Any:
    """Declare a field whose option needs more than name, type and default.

    Args:
        default: Of the field; without one the option is required.
        read: Turns what was given into the field's value.
        short: A second name, as `-n`.
        positional: Whether it is given without a name, one or more of them.
        listed: What may be given and what each is, told in the help.
        **how: What argparse's `add_argument` shall be told beyond what follows from the type.

    Returns:
        The field.
    """
    return field(
        default=default,
        metadata={"read": read, "short": short, "positional": positional, "listed": listed or {}, "how": how},
    )


def seed_number(text: str) -> int:
    """Read a seed, the `type` of its option.

    Args:
        text: What was given.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: If it is no whole number from 0 on, or too large.
    """
    if not text.isdecimal() or int(text) >= SEEDS_END:
        raise argparse.ArgumentTypeError(
            f"found {text}, expected a whole number from 0 to {SEEDS_END - 1}; fix the option"
        )
    return int(text)


def add_options(parser: argparse.ArgumentParser, kind: type, only: Collection[str] = ()) -> None:
    """Add the options of a class to a parser; an option of that name that is there already stays.

    Args:
        parser: The parser.
        kind: A dataclass; help is what its docstring says of each attribute.
        only: Names of the fields that are options here; all by default.

    Raises:
        TypeError: If an attribute is not documented, or another class means something else by its name.
    """
    hints = get_type_hints(kind)
    about = _attributes(kind)
    there = {action.dest: action for action in parser._actions}
    for each in fields(kind):
        if only and each.name not in only:
            continue
        if not about.get(each.name):
            raise TypeError(f"{kind.__name__}.{each.name}: no help, expected it in the docstring")
        how = _from_type(hints[each.name], each.default) | each.metadata.get("how", {})
        default = None if each.default is MISSING else each.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text = about[each.name].rstrip(".").replace("%", "%%")
        if listed := each.metadata.get("listed"):
            text += ": " + "; ".join(f"{name}, {what}" for name, what in listed.items()).replace("%", "%%")
        plain = isinstance(shown, (str, int, float)) and not isinstance(shown, bool) and shown != ""
        how |= {"help": f"{text} ({shown})" if plain else text, "dest": each.name, "required": each.default is MISSING}
        if each.name in there:
            if there[each.name].help != how["help"]:
                raise TypeError(f"{kind.__name__}.{each.name}: means something else in another class of the verb")
            continue
        if each.metadata.get("positional"):
            parser.add_argument(each.name, nargs="+", type=how["type"], metavar=how["metavar"], help=how["help"])
            continue
        short = each.metadata.get("short", "")
        parser.add_argument(*([short] if short else []), f"--{each.name.replace('_', '-')}", **how)


def read_options(kind: type[Kind], arguments: argparse.Namespace, only: Collection[str] = ()) -> Kind:
    """Make an instance of a class of what was given.

    Args:
        kind: A dataclass whose options the parser has.
        arguments: What it parsed.
        only: Names of the fields that are options; the others keep their defaults.

    Returns:
        The instance.
    """
    chosen = [each for each in fields(kind) if each.name in only or not only]  # type: ignore[arg-type]
    given = {each.name: _value(each, getattr(arguments, each.name)) for each in chosen}
    return kind(**{name: value for name, value in given.items() if value is not MISSING})


def _attributes(kind: type) -> dict[str, str]:
    """Read what a docstring says of each attribute, inherited ones too, without line breaks."""
    if kind is object:
        return {}
    section = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.split(r"^    (?=\w+: )", section, flags=re.MULTILINE)[1:]
    own = {name: " ".join(text.split()) for name, _, text in (entry.partition(": ") for entry in entries)}
    return _attributes(kind.__mro__[1]) | own


def _value(each: Field[Any], given: Any) -> Any:
    """Give the field's value, or nothing where the option was not used."""
    if given is None:
        return MISSING
    value = tuple(given) if isinstance(given, list) else given
    read = each.metadata.get("read")
    return read(value) if read is not None else value


def _from_type(hint: Any, default: Any) -> dict[str, Any]:
    """Tell argparse what follows from a field's type."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (each for each in get_args(hint) if each is not NoneType)
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction if default else "store_true", "default": None}
    if get_origin(hint) is tuple:
        inner, *rest = get_args(hint)
        return {"type": inner, "action": "append"} if rest == [...] else {"type": inner, "nargs": 1 + len(rest)}
    return {"type": hint, "default": None} if hint in (int, float, str, Path) else {"action": "append"}
