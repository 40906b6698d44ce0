"""JSON with parts of payloads can always be written."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from schemas.json_text import dumped


def nested(levels: int, inner: Any) -> Any:
    for level in range(levels):
        inner = [inner] if level % 2 else {"a": inner, "b": None}
    return inner


@pytest.mark.parametrize("levels", [0, 1, 300, 1_024, 50_000])
def test_any_depth_is_written(levels: int) -> None:
    written = dumped(nested(levels, 7), default=str)
    assert written.count(b"[") == levels // 2
    assert written.count(b"{") == levels - levels // 2
    if levels < 300:
        assert json.loads(written) == nested(levels, 7)


@pytest.mark.parametrize("huge", [2**70, -(2**70), 10**4000])
def test_every_digit_is_kept_and_the_rest_stays_json(huge: int) -> None:
    """Python's own writer would write NaN and Infinity, which are no JSON."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    value = {
        "n": huge,
        "no": [math.inf, math.nan, -math.inf],
        "at": at,
        "odd": {1, 2},
        "empty": [{}, []],
        "t": (1, "a"),
    }
    written = dumped(value, default=sorted)
    assert json.loads(written, parse_constant=lambda text: pytest.fail(text)) == {
        "n": huge,
        "no": [None, None, None],
        "at": "2026-03-01T00:00:00+00:00",
        "odd": [1, 2],
        "empty": [{}, []],
        "t": [1, "a"],
    }


def test_half_a_character_is_escaped() -> None:
    assert json.loads(dumped({"a\ud800": "\udfff"})) == {"a\ud800": "\udfff"}


def test_ordinary_values_are_written_as_orjson_does() -> None:
    value = {"a": [1, 2.5, None, True, "ä"]}
    assert dumped(value) == orjson.dumps(value)


def test_what_is_no_json_raises() -> None:
    with pytest.raises(TypeError):
        dumped({"a": object(), "n": 2**70})
