"""The one exception a user may cause: it carries one line that says what was found, expected and to do."""

from collections.abc import Iterable, Sequence
from numbers import Integral


class Notice(UserWarning):
    """What a user should know and need not do anything about; the command line shows it in one line."""


class DiffaugError(RuntimeError):
    """Something the user can fix. Its message is one line: the file, what was found, what was expected, what to do.

    The command line prints the message alone and exits with code 2; `--debug` adds the traceback.
    """


def first_of(names: Sequence[str], count: int = 3) -> str:
    """List as many names as a one-line message bears.

    Args:
        names: All of them.
        count: How many are shown.

    Returns:
        The first, and dots where there are more.
    """
    return ", ".join(names[:count]) + (" ..." if len(names) > count else "")


def times(values: Iterable[float]) -> str:
    """Write a size or a spacing for people.

    Args:
        values: Along each axis.

    Returns:
        As `12 x 64 x 64`, or `2.5 x 0.8 x 0.8`.
    """
    return " x ".join(str(value) if isinstance(value, Integral) else f"{value:.3g}" for value in values)
