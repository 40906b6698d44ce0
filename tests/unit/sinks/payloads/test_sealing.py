"""A payload can be read only with its own key, and only as that of its event."""

from __future__ import annotations

import orjson
import pytest

from sinks.payloads.sealing import Unreadable, seal, unseal

TEXT = '{"data": {"object": {"email": "jané@example.com"}}}'


def test_a_sealed_payload_is_one_line_that_its_key_opens_again() -> None:
    sealed = seal("evt_1", TEXT)
    assert unseal("evt_1", sealed.key, sealed.line) == TEXT
    assert b"\n" not in sealed.line
    assert b"example.com" not in sealed.line
    assert seal("evt_1", TEXT).key != sealed.key


def test_another_key_another_event_or_changed_bytes_open_nothing() -> None:
    one, other = seal("evt_1", TEXT), seal("evt_2", TEXT)
    changed = orjson.dumps(orjson.loads(one.line) | {"payload": orjson.loads(other.line)["payload"]})
    for event_id, key, line in (
        ("evt_1", other.key, one.line),
        ("evt_2", one.key, one.line),
        ("evt_1", one.key, changed),
        ("evt_1", one.key, one.line[:-9]),
        ("evt_1", one.key, b"null"),
        ("evt_1", b"", one.line),
        ("evt_1", one.key, b'{"nonce": "", "payload": "@"}'),
    ):
        with pytest.raises(Unreadable, match=event_id):
            unseal(event_id, key, line)
