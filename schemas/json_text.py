"""Writes JSON that may contain parts of payloads, whose numbers and depth have no limit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import orjson


def dumped(value: Any, *, default: Callable[[Any], Any] | None = None, option: int | None = None) -> bytes:
    """Returns the value as JSON, as orjson writes it. `default` makes JSON values of what JSON does not have.

    orjson refuses integers beyond 64 bits, lone surrogates, and values more than 254 levels deep. They are written,
    too, and every digit is kept. Raises TypeError for what is no JSON even with `default`.
    """
    try:
        return orjson.dumps(value, default=default, option=option)
    except orjson.JSONEncodeError:
        return _written(value, lambda one: orjson.loads(orjson.dumps(one, default=default, option=option))).encode()


class _Written(str):
    """A part of the result."""

    __slots__ = ()


def _written(value: Any, plain: Callable[[Any], Any]) -> str:
    """Not recursive: payloads have up to 1,024 levels, and Python's stack about as many."""
    done: list[str] = []
    left: list[Any] = [value]
    while left:
        match left.pop():
            case _Written() as text:
                done.append(text)
            case float() as number if not math.isfinite(number):
                done.append("null")
            case None | bool() | int() | float() | str() as scalar:
                done.append(json.dumps(scalar))
            case dict() as members:
                parts: list[Any] = []
                for name, member in members.items():
                    parts += [_Written(f"{',' if parts else '{'}{json.dumps(str(name))}:"), member]
                left += reversed([*(parts or [_Written("{")]), _Written("}")])
            case list() | tuple() as elements:
                parts = []
                for element in elements:
                    parts += [_Written("," if parts else "["), element]
                left += reversed([*(parts or [_Written("[")]), _Written("]")])
            case other:
                left.append(plain(other))
    return "".join(done)
