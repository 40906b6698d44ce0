"""The gateway with no Kafka at all: it still judges, it never answers 200, and nothing grows beyond its bound."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.bodies import BodyBounds
from gateway.publisher import PublishLimits
from tests.kits.gatewaykit import Served, event, eventually, get, post, serving, signed

NOWHERE = "127.0.0.1:1"
RECORDS = 4
PATIENCE_S = 2.0


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    bounds = PublishLimits(records=RECORDS, confirm_within_s=PATIENCE_S)
    with serving(NOWHERE, "t.events", bounds=bounds, body_bounds=BodyBounds(limit=50_000, together=20_000)) as served:
        yield served


def test_it_starts_and_is_alive_but_not_ready(gateway: Served) -> None:
    """A gateway that waits for Kafka is not restarted for it (liveness) and gets no traffic (readiness)."""
    assert get(gateway.port, "/livez").status == 200
    ready = get(gateway.port, "/readyz")
    assert ready.status == 503
    assert "unreachable" in json.loads(ready.body)["reason"]


def test_what_is_wrong_is_refused_without_asking_kafka(gateway: Served) -> None:
    """4xx at once: a stranger cannot make us wait."""
    body = event()
    started = time.monotonic()
    assert post(gateway.port, body, signed(body, b"whsec_forged")).status == 400
    assert post(gateway.port, body).status == 400
    assert post(gateway.port, b"{}", signed(b"{}")).status == 400
    assert time.monotonic() - started < 1
    assert gateway.publisher.in_flight == 0


def test_never_a_200_on_hope_and_a_bound_on_waiting(gateway: Served) -> None:
    """Each event is answered 503 with Retry-After within the deadline; beyond the bound, at once."""
    body = event()
    with ThreadPoolExecutor(RECORDS + 1) as pool:
        waiting = [pool.submit(post, gateway.port, body, signed(body)) for _ in range(RECORDS)]
        eventually(lambda: gateway.publisher.in_flight == RECORDS, within_s=PATIENCE_S, what="all under way")
        over = post(gateway.port, body, signed(body))
        answers = [future.result() for future in waiting]
    assert over.status == 503
    assert over.seconds < PATIENCE_S / 2
    assert [answer.status for answer in answers] == [503] * RECORDS
    assert all(PATIENCE_S / 2 < answer.seconds < PATIENCE_S + 1 for answer in answers)
    assert over.headers["Retry-After"] == answers[0].headers["Retry-After"]
    page = get(gateway.port, "/metrics").body.decode()
    assert 'outcome="overloaded"' in page
    assert 'outcome="not_stored"' in page
    eventually(lambda: gateway.publisher.in_flight == 0, within_s=PATIENCE_S + 3, what="slots free again")


def test_bodies_have_a_common_bound(gateway: Served) -> None:
    """What all requests hold together is bounded too: one body over it is 503, and the bytes are given back."""
    body = event(pad=30_000)
    assert post(gateway.port, body, signed(body)).status == 503
    eventually(
        lambda: gateway.metrics.registry.get_sample_value("billing_gateway_body_bytes") == 0,
        within_s=5,
        what="bytes given back",
    )


def test_it_stops_within_its_bound_although_records_wait() -> None:
    """Shutdown gives up what Kafka never took; those callers had their 503."""
    with serving(NOWHERE, "t.events", bounds=PublishLimits(confirm_within_s=1.5)) as served:
        body = event()
        assert post(served.port, body, signed(body)).status == 503
        started = time.monotonic()
    assert time.monotonic() - started < 10
