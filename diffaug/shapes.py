"""What files must hold to be understood: told as types, checked before anything is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffaug.errors import DiffaugError


def require_shape(content: Any, shape: Any, file: Path | str, fix: str) -> None:
    """Require that what was read has the expected keys, and values of the expected kinds.

    Args:
        content: What was read.
        shape: Any type that pydantic knows, for example a `TypedDict`; further keys are welcome.
        file: Where it was read, for the message.
        fix: What the user should do.

    Raises:
        DiffaugError: If it has not.
    """
    from pydantic import TypeAdapter, ValidationError  # takes a while to import

    try:
        written = json.dumps(content, default=repr)
    except (RecursionError, TypeError, ValueError) as error:
        raise DiffaugError(
            f"{file}: holds what no JSON can ({error}), expected what diffaug or nnU-Net wrote; {fix}"
        ) from error
    try:
        # as JSON, where lists are tuples, and strictly, for it is the content itself that is then used
        TypeAdapter(shape).validate_json(written, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        found = "is missing" if first["type"] == "missing" else f"is {first['input']!r:.60}: {first['msg']}"
        raise DiffaugError(f"{file}: {where} {found}, expected what diffaug or nnU-Net wrote; {fix}") from error
