"""What torch, MONAI and matplotlib expect of a machine and a container does not always have; completed before they load."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path


def complete() -> None:
    """Give a user whom the machine does not know (`docker run --user 1234`) a name and a home."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        os.environ["LOGNAME"] = f"user{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()
