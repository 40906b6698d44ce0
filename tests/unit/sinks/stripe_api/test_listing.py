"""Stripe's lists: each object keeps Stripe's original bytes, and an invalid list is an error."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.commands.times import moment_of, span_of
from recovery.reconcile.report import age_of
from recovery.window import window_of
from sinks.stripe_api.api import NoAnswer
from sinks.stripe_api.listing import split

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, UTC)
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_an_object_keeps_its_original_bytes() -> None:
    one = '{\n      "id": "evt_1",  "decimal": 12.50, "big": 1e3,\t"name": "Z\\u00fcrich ]},{", "sub": {"data": []} }'
    text = '{ "object":"list",\n "data" : [ ' + one + ' ,{"id":"evt_2"}\n] , "has_more":true, "url": "/v1/events"}\n'
    items, has_more = split(text)
    assert [item.text for item in items] == [one, '{"id":"evt_2"}']
    assert (items[0].id, has_more) == ("evt_1", True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=4)), st.sampled_from([None, 2]), st.booleans())
def test_objects_with_any_content_keep_their_bytes(
    objects: list[dict[str, Any]], indent: int | None, ascii_only: bool
) -> None:
    data = [{**one, "id": f"evt_{at}"} for at, one in enumerate(objects)]
    text = json.dumps({"data": data, "has_more": False}, indent=indent, ensure_ascii=ascii_only)
    items, has_more = split(text)
    assert not has_more
    assert [item.object for item in items] == data
    assert [json.loads(item.text) for item in items] == data


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"data": []}', '{"has_more": false}', '{"data": {}, "has_more": false}', "{", '{"data": [',
     '{"data": [1], "has_more": false}', '{"data": [{"id": 7}], "has_more": false}', "[" * 100_000],
)  # fmt: skip
def test_an_invalid_list_is_an_error(text: str) -> None:
    with pytest.raises(NoAnswer):
        split(text)


def test_a_window_overlaps_the_previous_one() -> None:
    def window(**changes: Any) -> tuple[datetime, datetime]:
        given = {"since": None, "until": None, "settled_until": None, "grace": timedelta(minutes=5)} | changes
        found = window_of(NOW, **given)
        return found.start, found.end

    second = NOW.replace(microsecond=0)
    end = second - timedelta(minutes=5)
    assert window() == (second - timedelta(hours=24), end)
    assert window(settled_until=NOW - timedelta(hours=2)) == (second - timedelta(hours=24), end)
    assert window(settled_until=NOW - timedelta(days=3)) == (second - timedelta(days=3, hours=1), end)
    assert window(settled_until=NOW - timedelta(days=300)) == (second - timedelta(days=30), end)
    assert window(since=NOW - timedelta(hours=1), until=NOW) == (second - timedelta(hours=1), end)
    assert window(since=NOW - timedelta(minutes=1)) == (second - timedelta(minutes=1),) * 2


def test_ages_and_times_are_parsed() -> None:
    assert age_of(NOW - timedelta(minutes=59), NOW) == "under an hour"
    assert age_of(NOW - timedelta(days=8), NOW) == "over 7 days"
    assert moment_of("24h", NOW) == NOW - timedelta(days=1)
    assert moment_of("2026-03-01T12:00", NOW) == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert moment_of("2026-03-01T12:00+02:00", NOW) == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert span_of("90s") == timedelta(seconds=90)
    for text in ("", "24", "h", "-1h", "9999999d", "yesterday"):
        with pytest.raises(ValueError, match=r"not a (time|duration)"):
            moment_of(text, NOW)
