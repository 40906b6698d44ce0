"""Every value of a ledger row can be stored, whatever the record contains (behaviours.md D4)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import CannotBury, MalformedEvent
from schemas.record import record_of
from schemas.storable import MAX_ID_BYTES, MAX_REASON_CHARACTERS, bounded, is_storable, reason_text
from schemas.verdict import Dead
from streams.decode import decode, describe
from streams.faust.consume import blamed
from streams.flush import ledger_row
from streams.item import Attempt, Item
from streams.rules.catalog import RULES

NOW = datetime(2026, 11, 27, tzinfo=UTC)

FIELDS = ["id", "type", "object", "account", "context", "api_version", "created", "livemode", "data"]

hostile = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["\0", "cus_\0x", "a\nb", "\x1b]0;x\x07", "é" * 200, "x" * 9_000, "\u202e", "0001-01-01T00:00:00+23:00"]
    ),
    st.integers(min_value=-(2**63), max_value=2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none(),
    st.booleans(),
)
values = st.recursive(
    hostile,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["id", "object", "customer", "x\0", "created"]), inner, max_size=4),
    ),
    max_leaves=6,
)
events = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("id", "type", "object", "account", "context", "api_version", "created", "livemode", "data"), values
    ),
)
headers = st.dictionaries(
    st.sampled_from(["event_id", "type", "source", "endpoint", "account", "received_at", "replay_of"]),
    st.one_of(st.binary(max_size=20), st.sampled_from([b"\0", b"x" * 9_000, b"0001-01-01T00:00:00+23:00", b"\xff"])),
)


@given(events, headers, st.sampled_from([0.0, 1.7e9, 9.2e15, -9.2e15]))
def test_every_text_of_a_ledger_row_can_be_stored(
    event: dict[str, object], named: dict[str, bytes], timestamp: float
) -> None:
    try:
        value = orjson.dumps(event)
    except TypeError:  # a lone surrogate, which the gateway cannot receive as JSON either
        value = b"{}"
    record = record_of("billing.events", 0, 7, b"k", value, tuple(named.items()), timestamp)
    item = Item(record, verdict=Dead("MalformedEvent", reason_text(str(event)), "store"))

    row = ledger_row(item, Attempt(), NOW, "other")

    if row is None:
        assert describe(value) is None
        return
    for field in fields(row):
        text = getattr(row, field.name)
        if isinstance(text, str) and text and field.name != "reason":
            assert is_storable(text), field.name
    assert "\0" not in (row.reason or "")
    assert len(row.reason or "") <= MAX_REASON_CHARACTERS


@given(events)
def test_decoding_fails_only_as_a_malformed_event_and_describing_never_does(event: dict[str, object]) -> None:
    value = orjson.dumps(event)
    describe(value)
    with suppress(MalformedEvent):
        decode(value, RULES)


@given(st.text())
def test_a_bounded_text_is_storable_and_equal_for_equal_texts(text: str) -> None:
    assert bounded(text) == bounded(text)
    assert text == "" or is_storable(bounded(text))
    assert len(bounded(text).encode()) <= MAX_ID_BYTES


@pytest.mark.parametrize("text", ["\0", "\ud800", "x" * 256, "é" * 128, "a\nb", ""])
def test_what_a_column_or_an_index_cannot_hold_is_not_storable(text: str) -> None:
    assert not is_storable(text)


def test_a_deeply_nested_value_with_a_nul_is_found_without_recursion() -> None:
    value = b'{"id":"evt_1","type":"x.y","deep":' + b"[" * 1000 + b'"\\u0000"' + b"]" * 1000 + b"}"
    with pytest.raises(Exception, match=r"U\+0000"):
        decode(value, RULES)


def test_the_record_to_blame_is_named_and_else_the_first_of_its_batch() -> None:
    records = [record_of("billing.events", 3, n, b"k", b"{}", (("event_id", b"evt_%d" % n),), 0.0) for n in (7, 8)]
    cannot = CannotBury(("billing.events", 3, 8), "evt_8", "StoreRefused: …")
    place = {"topic": "billing.events", "partition": 3}
    assert blamed(cannot, records) == place | {"offset": 8, "event_id": "evt_8"}
    assert blamed(KeyError("a bug"), records) == place | {"offset": 7, "event_id": "evt_7", "batch": 2}
    assert blamed(KeyError("a bug"), []) == {}
