"""The gateway over HTTP with a real broker: accepted and refused requests, and the records in the topic afterwards."""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner  # type: ignore[import-untyped]  # aiokafka ships no types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.bodies import BodyBounds
from schemas.settings import Endpoint
from tests.kits.clikit import billing
from tests.kits.gatewaykit import (
    ANSWERED_WITHIN_S,
    CONNECT_SECRET,
    FORGED,
    SECRET,
    Served,
    config,
    create_topics,
    event,
    get,
    headers_of,
    post,
    read_topic,
    send,
    serving,
    signed,
)
from tests.waiting import wait_until

OLD, NEW = b"whsec_OfTheRollingEndpointOld01234567", b"whsec_OfTheRollingEndpointNew01234567"

pytestmark = pytest.mark.e2e

LIMIT = 256 * 1024


@pytest.fixture(scope="module")
def topic(kafka_bootstrap: str) -> str:
    return create_topics(kafka_bootstrap, f"input{os.getpid()}").events_topic


@pytest.fixture(scope="module")
def gateway(kafka_bootstrap: str, topic: str) -> Iterator[Served]:
    fenced = Endpoint(secrets=(SecretStr(SECRET.decode()),), allow_ips=("203.0.113.0/24",))
    rolling = Endpoint(secrets=(SecretStr(OLD.decode()), SecretStr(NEW.decode())))
    configured = config(fenced=fenced, rolling=rolling)
    with serving(kafka_bootstrap, topic, configured, body_bounds=BodyBounds(limit=LIMIT, within_s=1.0)) as served:
        yield served


def stored(bootstrap: str, topic: str, event_id: str) -> list[bytes]:
    return [m.value() or b"" for m in read_topic(bootstrap, topic) if headers_of(m)["event_id"] == event_id]


def test_the_record_is_as_agreed(gateway: Served, kafka_bootstrap: str, topic: str) -> None:
    """200 means that the topic contains the exact bytes, with the customer as key and every header (A3, A4)."""
    body = event("cus_record", event_id="evt_record", note="ünïcode  and   spacing", account="acct_1")
    before = datetime.now(UTC)
    answer = post(gateway.port, body, signed(body, CONNECT_SECRET), path="/webhooks/stripe/connect")
    assert (answer.status, json.loads(answer.body)) == (200, {"received": True})
    (record,) = [m for m in read_topic(kafka_bootstrap, topic) if headers_of(m)["event_id"] == "evt_record"]
    assert record.value() == body
    assert record.key() == b"acct_1/cus_record"
    headers = headers_of(record)
    received_at = headers.pop("received_at")
    assert headers == {
        "event_id": "evt_record",
        "type": "invoice.paid",
        "source": "stripe",
        "account": "acct_1",
        "livemode": "false",
        "api_version": "2025-03-31.basil",
        "endpoint": "connect",
    }
    assert before <= datetime.fromisoformat(received_at) <= datetime.now(UTC)


def test_keys_are_partitioned_as_by_java_and_aiokafka(gateway: Served, kafka_bootstrap: str, topic: str) -> None:
    """One customer is always on one partition, whether the gateway, a replay or a consumer's producer writes."""
    for number in range(60):
        body = event(f"cus_murmur_{number}")
        assert post(gateway.port, body, signed(body)).status == 200
    records = [m for m in read_topic(kafka_bootstrap, topic) if (m.key() or b"").startswith(b"cus_murmur")]
    assert len(records) == 60
    partitions = list(range(12))
    for record in records:
        assert record.partition() == DefaultPartitioner()(record.key(), partitions, partitions)


def test_a_thin_event_is_taken(gateway: Served, kafka_bootstrap: str, topic: str) -> None:
    """A5: thin events are accepted in the system of their mode."""
    thin = {"id": "evt_thin", "object": "v2.core.event", "type": "v1.x", "livemode": False, "created": "2026-01-01"}
    body = json.dumps(thin).encode()
    assert post(gateway.port, body, signed(body)).status == 200
    assert stored(kafka_bootstrap, topic, "evt_thin") == [body]


def test_secrets_are_rolled_without_a_gap(gateway: Served) -> None:
    """While both secrets are configured, a signature with the old one, the new one or both is valid (A2)."""
    body = event()
    for header in (signed(body, OLD), signed(body, NEW), signed(body, FORGED, NEW)):
        assert post(gateway.port, body, header, path="/webhooks/stripe/rolling").status == 200


def test_everything_else_is_refused_and_nothing_is_produced(gateway: Served, kafka_bootstrap: str, topic: str) -> None:
    """Forged, stale, future, oversized, no event, wrong mode, wrong endpoint: each is 4xx, counted, and not stored."""
    before = len(read_topic(kafka_bootstrap, topic))
    now = int(time.time())
    body, junk = event(), b"\xff\xfe not json"
    wrong_mode = event(livemode=True, event_id="evt_wrong_mode")
    too_large = event(pad=LIMIT)
    fenced, connect, nowhere = (f"/webhooks/stripe/{name}" for name in ("fenced", "connect", "nowhere"))
    of_account = event(account="acct_1")
    thin_of_account = json.dumps(
        {"id": "evt_thin_1", "object": "v2.core.event", "type": "v1.x", "livemode": False, "context": "acct_1"}
    ).encode()
    cases = [
        (400, "signature_missing", post(gateway.port, body)),
        (400, "signature_mismatch", post(gateway.port, body, signed(body, FORGED))),
        (400, "signature_mismatch", post(gateway.port, body + b" ", signed(body))),
        (400, "signature_mismatch", post(gateway.port, body, signed(body), path=connect)),
        (400, "signature_mismatch", post(gateway.port, body, signed(body, CONNECT_SECRET))),
        (400, "signature_outside_tolerance", post(gateway.port, body, signed(body, at=now - 310))),
        (400, "signature_outside_tolerance", post(gateway.port, body, signed(body, at=now + 310))),
        (400, "signature_malformed", post(gateway.port, body, "t=1,t=2,v1=" + "0" * 64)),
        (400, "signature_malformed", post(gateway.port, body, signed(body), extra=(b"Stripe-Signature: t=1,v1=0",))),
        (400, "not_an_event", post(gateway.port, junk, signed(junk))),
        (400, "not_an_event", post(gateway.port, b"", signed(b""))),
        (400, "not_an_event", post(gateway.port, b"[" * 9999, signed(b"[" * 9999))),
        (400, "mode_mismatch", post(gateway.port, wrong_mode, signed(wrong_mode))),
        (400, "connected_account", post(gateway.port, of_account, signed(of_account))),
        (400, "connected_account", post(gateway.port, thin_of_account, signed(thin_of_account))),
        (403, "address_not_allowed", post(gateway.port, body, signed(body), path=fenced)),
        (404, "unknown_endpoint", post(gateway.port, body, signed(body), path=nowhere)),
        (404, "unknown_endpoint", post(gateway.port, body, signed(body), path="/webhooks/stripe/%00%ff")),
        (413, "body_too_large", post(gateway.port, too_large, signed(too_large))),
    ]
    assert [case[0] for case in cases] == [case[2].status for case in cases]
    page = get(gateway.ops_port, "/metrics").body.decode()
    for _, outcome, answer in cases:
        assert f'outcome="{outcome}"' in page
        assert b"whsec" not in answer.body
    assert 'endpoint="nowhere"' not in page  # labels never contain text from callers
    assert "whsec" not in page
    assert len(read_topic(kafka_bootstrap, topic)) == before

    # "Stripe says that the endpoint fails": one event is looked up by its id, a wrong secret by endpoint and time.
    url = f"http://127.0.0.1:{gateway.ops_port}"
    found = billing(["refusals", json.loads(wrong_mode)["id"], "--url", url, "--json"], {})
    (refused,) = json.loads(found.stdout)
    assert (found.returncode, refused["outcome"], refused["type"]) == (0, "mode_mismatch", "invoice.paid")
    every = billing(["refusals", "--json"], {"BILLING_GATEWAY_OPS_URL": url})
    rows = json.loads(every.stdout)
    assert {row["outcome"] for row in rows} >= {outcome for _, outcome, _ in cases}
    assert [row["at"] for row in rows] == sorted((row["at"] for row in rows), reverse=True)
    assert "whsec" not in every.stdout
    assert billing(["refusals", "evt_none", "--url", url], {}).returncode == 1
    assert billing(["refusals"], {}).returncode == 2
    assert billing(["refusals", "--url", "http://127.0.0.1:1"], {}).returncode == 3


def test_a_compressed_body_is_judged_as_sent(gateway: Served, kafka_bootstrap: str, topic: str) -> None:
    """The signature covers the raw bytes. Inflating first would verify another body and admit decompression bombs."""
    body = event(event_id="evt_gzip")
    packed = gzip.compress(body)
    encoding = (b"Content-Encoding: gzip",)
    assert post(gateway.port, packed, signed(body), extra=encoding).status == 400
    assert post(gateway.port, body, signed(body), extra=encoding).status == 200
    assert stored(kafka_bootstrap, topic, "evt_gzip") == [body]


def test_a_chunked_body_has_the_same_bounds(gateway: Served, kafka_bootstrap: str, topic: str) -> None:
    """Without Content-Length the bytes are counted as they arrive. Broken framing is the sender's error (4xx)."""
    body = event(event_id="evt_chunked", pad=100)
    head = "POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nStripe-Signature: "
    start = (head + signed(body) + "\r\n\r\n").encode()
    halves = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:]))
    assert send(gateway.port, start + halves + b"0\r\n\r\n").status == 200
    assert stored(kafka_bootstrap, topic, "evt_chunked") == [body]
    large = b"".join(b"%x\r\n%s\r\n" % (65536, b"x" * 65536) for _ in range(5))
    assert send(gateway.port, start + large + b"0\r\n\r\n").status == 413
    assert send(gateway.port, start + b"zz\r\nwhat\r\n").status == 400


def test_a_slow_body_is_given_up(gateway: Served) -> None:
    """A client that announces a body and does not send it gets 408 and is disconnected (A6)."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as sock:
        header = f"Stripe-Signature: {signed(b'{}', FORGED)}\r\n"
        head = f"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n{header}\r\n"
        sock.sendall(head.encode() + b"{")
        received = b""
        while chunk := sock.recv(4096):
            received += chunk
    assert received.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_ends_early_breaks_nothing(gateway: Served) -> None:
    """A client that disconnects in the middle of a body leaves no buffered bytes."""
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as sock:
            header = f"Stripe-Signature: {signed(b'{}', FORGED)}\r\n"
            head = f"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n{header}\r\n"
            sock.sendall(head.encode() + b"x" * 5000)
    body = event()
    assert post(gateway.port, body, signed(body)).status == 200
    wait_until(
        lambda: "billing_gateway_body_bytes 0.0" in get(gateway.ops_port, "/metrics").body.decode(), "an empty buffer"
    )


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: " + b"v" * 20_000 + b"\r\n\r\n",
        b"POST /webhooks/stripe HTTP/1.1\r\n" + b"X-Many: 1\r\n" * 200 + b"\r\n",
        b"POST /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /webhooks/stripe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nExpect: nonsense\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_malformed_http_is_4xx(gateway: Served, request_bytes: bytes) -> None:
    """Malformed or oversized heads never cause a 5xx."""
    assert 400 <= send(gateway.port, request_bytes).status < 500


def test_pages_for_operators(gateway: Served) -> None:
    """Liveness, readiness and metrics; no page or header names the server software."""
    assert get(gateway.port, "/livez").status == 200
    ready = get(gateway.ops_port, "/readyz")
    found = json.loads(ready.body)
    assert (ready.status, found["ready"]) == (200, True)
    assert found["notes"] == {"shadow": "unknown: no BILLING_DATABASE_URL"}
    assert ready.headers["Server"] == "billing"


def test_ready_reports_why_it_is_not_ready(kafka_bootstrap: str) -> None:
    """A missing topic is reported, and events posted meanwhile are answered 503 within the time limit."""
    with serving(kafka_bootstrap, "no.such.topic") as served:
        ready = get(served.ops_port, "/readyz")
        assert ready.status == 503
        assert "no.such.topic" in json.loads(ready.body)["reason"]
        body = event()
        answer = post(served.port, body, signed(body))
        assert answer.status == 503
        assert answer.seconds < ANSWERED_WITHIN_S


def test_the_largest_body_that_may_enter_can_be_stored(kafka_bootstrap: str, topic: str) -> None:
    """A body of 1 MiB that does not compress fits the limits of producer and topic."""
    with serving(kafka_bootstrap, topic) as served:
        noise = "".join(chr(0x4E00 + b) for b in os.urandom(340_000))
        body = event("cus_large", event_id="evt_large", note=noise)
        assert 1_000_000 < len(body) <= 1024 * 1024
        assert post(served.port, body, signed(body)).status == 200
        assert stored(kafka_bootstrap, topic, "evt_large") == [body]


def _changed(changes: dict[str, Any]) -> bytes:
    return event("cus_fuzz", **changes)


_TOKEN = st.sampled_from([b"t=", b"v1=", b",", b"=", b"1", b"t=1700000000", b"v1=" + b"0" * 64, b"\xff", b"\xc3\xa9"])
_HEADER = st.one_of(
    st.none(),
    st.lists(_TOKEN, max_size=12).map(b"".join),
    st.binary(max_size=60).map(lambda b: b.translate(None, b"\r\n\x00")),
)
_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)
_FIELDS = st.sampled_from(["id", "object", "type", "created", "livemode", "api_version", "account", "data", "context"])
_BODY = st.one_of(
    st.binary(max_size=200),
    _VALUE.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(_FIELDS, _VALUE, max_size=3).map(_changed),
    st.sampled_from([b"[" * 5000, b'{"object":"event","id":"\\ud800"}', b'{"object":"v2.core.event"}', b"NaN"]),
)
_PATH = st.sampled_from(
    ["/webhooks/stripe", "/webhooks/stripe/default", "/webhooks/stripe/live", "/webhooks/stripe/%ff"]
)
_FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_FUZZ
@given(header=_HEADER, body=_BODY, path=_PATH)
def test_nothing_unsigned_gets_in(gateway: Served, header: bytes | None, body: bytes, path: str) -> None:
    """Any header on any body is 4xx while Kafka is up."""
    assert 400 <= post(gateway.port, body, header, path=path).status < 500


@_FUZZ
@given(body=_BODY)
def test_anything_signed_is_an_event_or_4xx(gateway: Served, body: bytes) -> None:
    """A valid signature on any body never causes a 5xx, and 200 only for an event with an id and a type."""
    answer = post(gateway.port, body, signed(body))
    assert answer.status in (200, 400)
    if answer.status == 200:
        document = json.loads(body)
        assert document["object"] in ("event", "v2.core.event")
        assert document["id"]
        assert document["type"]


def test_the_topic_holds_what_was_answered_200_and_no_more(gateway: Served, kafka_bootstrap: str, topic: str) -> None:
    """Valid and invalid posts of many customers, mixed: the topic gains the valid ones, byte-identical, once each."""
    before = len(read_topic(kafka_bootstrap, topic))
    good: dict[str, bytes] = {}
    for number in range(40):
        body = event(f"cus_{number % 7}", event_id=f"evt_mixed_{number}", note="\u2028" * (number % 3))
        assert post(gateway.port, body, signed(body)).status == 200
        good[f"evt_mixed_{number}"] = body
        assert post(gateway.port, body, signed(body + b" ")).status == 400
    records = read_topic(kafka_bootstrap, topic)
    assert len(records) == before + len(good)
    mixed = {headers_of(m)["event_id"]: m.value() for m in records if headers_of(m)["event_id"] in good}
    assert mixed == good
