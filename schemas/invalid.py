"""Describes what pydantic found wrong with settings, in one line and without the values."""

from __future__ import annotations

import re
from collections.abc import Callable

from pydantic import ValidationError

_SECRET = re.compile(r"\b(whsec|sk|rk)_[A-Za-z0-9+/=_-]{4,}")


def one_line(error: ValidationError, name: Callable[[tuple[int | str, ...]], str]) -> str:
    # `error["input"]` is left out: the value may be a secret. An error without location concerns several settings, and
    # its message names them. A secret may also stand where a name belongs.
    found = error.errors(include_input=False, include_url=False)
    line = "; ".join(
        f"{name(e['loc'])} is not set"
        if e["type"] == "missing"
        else f"{name(e['loc'])}: {e['msg']}"
        if e["loc"]
        else e["msg"].removeprefix("Value error, ")
        for e in found
    )
    return _SECRET.sub("[secret]", line)
