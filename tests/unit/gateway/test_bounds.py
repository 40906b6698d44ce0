"""The gateway without Kafka: it still checks requests, never returns 200, and keeps its limits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.bodies import BodyBounds
from gateway.publisher import PublishLimits
from tests.kits.gatewaykit import FORGED, Served, event, get, post, serving, signed
from tests.waiting import wait_until

NOWHERE = "127.0.0.1:1"
RECORDS = 4
PATIENCE_S = 2.0


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    bounds = PublishLimits(records=RECORDS, confirm_within_s=PATIENCE_S)
    with serving(NOWHERE, "t.events", bounds=bounds, body_bounds=BodyBounds(limit=50_000, together=20_000)) as served:
        yield served


def test_without_kafka_it_is_alive_but_not_ready(gateway: Served) -> None:
    """A gateway that waits for Kafka is not restarted (liveness) and gets no traffic (readiness)."""
    assert get(gateway.port, "/livez").status == 200
    ready = get(gateway.ops_port, "/readyz")
    assert ready.status == 503
    assert "unreachable" in json.loads(ready.body)["reason"]


def test_invalid_requests_are_refused_without_kafka(gateway: Served) -> None:
    """It returns 4xx at once, so an unauthenticated sender cannot occupy the gateway."""
    body = event()
    started = time.monotonic()
    assert post(gateway.port, body, signed(body, FORGED)).status == 400
    assert post(gateway.port, body).status == 400
    assert post(gateway.port, b"{}", signed(b"{}")).status == 400
    assert time.monotonic() - started < 1
    assert gateway.publisher.in_flight == 0


def test_no_200_without_kafka_and_a_limit_on_waiting_requests(gateway: Served) -> None:
    """Each event gets 503 with Retry-After within the deadline; above the limit, at once."""
    body = event()
    with ThreadPoolExecutor(RECORDS + 1) as pool:
        waiting = [pool.submit(post, gateway.port, body, signed(body)) for _ in range(RECORDS)]
        wait_until(lambda: gateway.publisher.in_flight == RECORDS, within_s=PATIENCE_S, what="all in flight")
        over = post(gateway.port, body, signed(body))
        answers = [future.result() for future in waiting]
    assert over.status == 503
    assert over.seconds < PATIENCE_S / 2
    assert [answer.status for answer in answers] == [503] * RECORDS
    assert all(PATIENCE_S / 2 < answer.seconds < PATIENCE_S + 1 for answer in answers)
    assert over.headers["Retry-After"] == answers[0].headers["Retry-After"]
    page = get(gateway.ops_port, "/metrics").body.decode()
    assert 'outcome="overloaded"' in page
    assert 'outcome="not_stored"' in page
    wait_until(lambda: gateway.publisher.in_flight == 0, within_s=PATIENCE_S + 3, what="slots free again")


def test_bodies_share_one_limit(gateway: Served) -> None:
    """The total size of all bodies in memory is limited. A body above it gets 503, and its bytes are released."""
    body = event(pad=30_000)
    assert post(gateway.port, body, signed(body)).status == 503
    wait_until(
        lambda: gateway.metrics.registry.get_sample_value("billing_gateway_body_bytes") == 0,
        within_s=5,
        what="bytes released",
    )


def test_it_stops_within_its_time_limit_with_records_queued() -> None:
    """The shutdown drops records that Kafka did not accept; their senders have received 503."""
    with serving(NOWHERE, "t.events", bounds=PublishLimits(confirm_within_s=1.5)) as served:
        body = event()
        assert post(served.port, body, signed(body)).status == 503
        started = time.monotonic()
    assert time.monotonic() - started < 10
