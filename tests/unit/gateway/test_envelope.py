"""Reading the envelope: a signed body that is not an event is refused with a reason and never crashes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.envelope import LAST_SECOND, Envelope, NotAnEvent, read_event
from tests.paths import RECORDED_EVENTS

SAMPLES = RECORDED_EVENTS

SNAPSHOT: dict[str, Any] = {
    "id": "evt_1",
    "object": "event",
    "type": "invoice.paid",
    "created": 1_700_000_000,
    "livemode": False,
    "api_version": "2025-03-31.basil",
    "data": {"object": {"id": "in_1", "object": "invoice", "customer": "cus_1"}},
}
THIN: dict[str, Any] = {
    "id": "evt_2",
    "object": "v2.core.event",
    "type": "v1.billing.meter.error_report_triggered",
    "created": "2022-02-15T00:27:45.330Z",
    "livemode": True,
    "context": "acct_1",
    "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
}


def read(document: object) -> Envelope:
    return read_event(json.dumps(document).encode())


def test_a_snapshot_event() -> None:
    """Headers and key come from the event's own fields."""
    expected = Envelope("evt_1", "invoice.paid", "", False, "2025-03-31.basil", "cus_1")
    assert read(SNAPSHOT) == expected


def test_a_connected_accounts_event() -> None:
    """`account` becomes a header and part of the key."""
    envelope = read(SNAPSHOT | {"account": "acct_1"})
    assert (envelope.account, envelope.key) == ("acct_1", "acct_1/cus_1")


def test_a_thin_event() -> None:
    """No data, a textual `created`, no api_version: accepted, keyed by its related object (A5)."""
    expected = Envelope("evt_2", THIN["type"], "acct_1", True, "", "acct_1/mtr_1")
    assert read(THIN) == expected
    without = {name: value for name, value in THIN.items() if name not in ("related_object", "context")}
    assert read(without).key == "evt_2"


@pytest.mark.parametrize("null", ["api_version", "account", "request", "pending_webhooks"])
def test_fields_that_may_be_null(null: str) -> None:
    """Null is accepted in the fields where Stripe sends null."""
    assert read(SNAPSHOT | {null: None}).event_id == "evt_1"


def test_recorded_form_values() -> None:
    """Events that passed through an HTML form have text for booleans and numbers."""
    assert read(SNAPSHOT | {"livemode": "true", "created": "1518896523"}).livemode is True
    assert read(SNAPSHOT | {"livemode": "false"}).livemode is False


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"not json",
        b"null",
        b"[]",
        b'"event"',
        b"1",
        b"{}",
        b'{"object":"event"}',
        b"[" * 100_000,
        b'{"a":' * 5_000,
        b'{"object":"event","id":"\\ud800"}',
        b'{"object":"event","id":NaN}',
        b'{"object":"event","created":' + b"9" * 5_000 + b"}",
    ],
)
def test_other_json_is_refused(body: bytes) -> None:
    """Each body is refused with a reason."""
    with pytest.raises(NotAnEvent):
        read_event(body)


@pytest.mark.parametrize("bad", [None, "", 1, [], {}, "a b", "a\x00b", "é", "x" * 256, "a\nb", "\x7f"])
@pytest.mark.parametrize("name", ["id", "type"])
def test_ids_are_plain(name: str, bad: object) -> None:
    """Values for headers, logs and text columns are printable ASCII of at most 255 characters."""
    with pytest.raises(NotAnEvent, match=f"`{name}`"):
        read(SNAPSHOT | {name: bad})


@pytest.mark.parametrize("bad", ["", 1, {}, "a\x00", "x" * 256])
def test_accounts_are_plain(bad: object) -> None:
    """The same rule applies to the account, under both field names."""
    with pytest.raises(NotAnEvent, match="`account`"):
        read(SNAPSHOT | {"account": bad})
    with pytest.raises(NotAnEvent, match="`context`"):
        read(THIN | {"context": bad})


@pytest.mark.parametrize("bad", [None, 0, 1, "yes", "True", [], {}])
def test_livemode_is_never_guessed(bad: object) -> None:
    """The mode of an event decides whether it is accepted, so it must be explicit."""
    with pytest.raises(NotAnEvent, match="`livemode`"):
        read(SNAPSHOT | {"livemode": bad})
    with pytest.raises(NotAnEvent, match="`livemode`"):
        read(THIN | {"livemode": bad})


@pytest.mark.parametrize("bad", [None, -1, True, 1.5, "x", "", "1" * 13, LAST_SECOND + 1, 10**30, [], {}])
def test_created_is_a_time(bad: object) -> None:
    """The gateway refuses values that do not fit a timestamp column."""
    with pytest.raises(NotAnEvent, match="`created`"):
        read(SNAPSHOT | {"created": bad})


@pytest.mark.parametrize("bad", [None, [], "x", {}, {"object": None}, {"object": "cus_1"}, {"object": []}])
def test_data_object_is_an_object(bad: object) -> None:
    """A snapshot event without its object is refused."""
    with pytest.raises(NotAnEvent, match=r"`data\.object`"):
        read(SNAPSHOT | {"data": bad})


@pytest.mark.parametrize("bad", [7, [], {}, "a b", "x" * 300])
def test_an_odd_api_version_is_ignored(bad: object) -> None:
    """It is left out of the headers; the event is accepted."""
    assert read(SNAPSHOT | {"api_version": bad}).api_version == ""


def test_the_last_of_two_equal_names_wins() -> None:
    """All readers downstream do the same."""
    body = json.dumps(SNAPSHOT).encode()[:-1] + b', "id": "evt_last"}'
    assert read_event(body).event_id == "evt_last"


def test_a_nul_in_the_payload_is_accepted() -> None:
    """jsonb cannot store it, so the worker writes a dead letter with the bytes. Refusing it would lose the event."""
    document = SNAPSHOT | {"data": {"object": {"id": "in_1", "customer": "cus_1", "note": "a\x00b"}}}
    assert read(document).key == "cus_1"


@pytest.mark.skipif(not SAMPLES.exists(), reason="the shared sample events are not next to this checkout")
def test_every_sample_is_an_event() -> None:
    """Events recorded by other projects are accepted."""
    paths = sorted(SAMPLES.glob("*/*__*.json"))
    assert len(paths) > 150
    for path in paths:
        assert read_event(path.read_bytes()).key, path.name


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=10,
)


@given(st.sampled_from([SNAPSHOT, THIN]), st.dictionaries(st.sampled_from(sorted(SNAPSHOT | THIN)), _JSON, max_size=3))
def test_any_field_may_hold_anything(base: dict[str, Any], changes: dict[str, Any]) -> None:
    """The result is an envelope with clean texts, or NotAnEvent is raised."""
    try:
        envelope = read(base | changes)
    except NotAnEvent:
        return
    texts = (envelope.event_id, envelope.type, envelope.account, envelope.api_version)
    assert all(text.isascii() and text.isprintable() and len(text) <= 255 for text in texts)
    assert 0 < len(envelope.key.encode()) <= 255


@given(st.binary(max_size=300))
def test_any_bytes(body: bytes) -> None:
    """Random bytes are refused."""
    with pytest.raises(NotAnEvent):
        read_event(body)
