"""Writes JSON that may contain parts of payloads, whose numbers and depth have no limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson


def dumped(value: Any, *, default: Callable[[Any], Any], option: int | None = None) -> bytes:
    """Returns the value as JSON, as orjson writes it. `default` makes JSON values of what JSON does not have.

    orjson refuses integers beyond 64 bits and values more than 254 levels deep. They are written by `json`, which keeps
    every digit. Raises TypeError for what both refuse.
    """
    try:
        return orjson.dumps(value, default=default, option=option)
    except orjson.JSONEncodeError:

        def plain(one: Any) -> Any:
            return orjson.loads(orjson.dumps(one, default=default, option=option))

        return json.dumps(value, default=plain, separators=(",", ":")).encode()
