"""The gateway without Kafka: it still checks requests, never returns 200, and keeps its limits."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from gateway.app import HEAD_WITHIN_S, KEEP_ALIVE_S
from gateway.bodies import BodyBounds
from gateway.producer import ProducerConfig, ProducerLine
from gateway.publisher import PublishLimits
from gateway.refusals import internal_event
from schemas.gateway_settings import GatewaySettings
from schemas.internal_events import INTERNAL_PREFIXES
from schemas.kafka_access import KafkaAccess
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
    for sent, header in ((body, signed(body, FORGED)), (body, None), (b"{}", signed(b"{}"))):
        answers = [post(gateway.port, sent, header) for _ in range(3)]
        assert [answer.status for answer in answers] == [400] * 3
        assert min(answer.seconds for answer in answers) < PATIENCE_S / 2
    assert gateway.publisher.in_flight == 0


@pytest.mark.parametrize(
    ("type_", "event_id"),
    [
        ("timer.erase", "evt_1"),
        ("timer.of-a-later-version", "tmr_1"),
        ("erasure.requested", "ers_1"),
        ("guest_erasure.requested", "evt_1"),
        ("plans.applied", "pln_1"),
        *(("invoice.paid", f"{prefix}1") for prefix in INTERNAL_PREFIXES),
    ],
)
def test_events_of_the_systems_own_processes_do_not_come_through_this_door(
    gateway: Served, type_: str, event_id: str
) -> None:
    """Whoever has a webhook secret could else write an audit entry under another person's name."""
    body = event(type=type_, event_id=event_id)
    refused = post(gateway.port, body, signed(body))
    assert (refused.status, json.loads(refused.body)["error"]) == (400, internal_event().reason)


async def test_trouble_with_kafka_has_few_lines() -> None:
    """librdkafka reports each failed connection: some in a second, for as long as no broker answers."""
    line = ProducerLine[int](
        ProducerConfig(KafkaAccess(NOWHERE), 1, 1.0),
        asyncio.get_running_loop(),
        on_reports=lambda *_: None,
        on_fatal=lambda *_: None,
    )
    try:
        with capture_logs() as logs:
            for _ in range(50):
                line._log_trouble("_X")
        assert [(entry["error"], entry["left_out"]) for entry in logs if entry.get("error") == "_X"] == [("_X", 0)]
    finally:
        line.close()


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
    assert all(PATIENCE_S / 2 < answer.seconds < PATIENCE_S + 20 for answer in answers)
    assert over.headers["Retry-After"] == answers[0].headers["Retry-After"]
    page = get(gateway.ops_port, "/metrics").body.decode()
    assert 'outcome="overloaded"' in page
    assert 'outcome="not_stored"' in page
    wait_until(lambda: gateway.publisher.in_flight == 0, what="slots free again")


def test_bodies_share_one_limit(gateway: Served) -> None:
    """The total size of all bodies in memory is limited. A body above it gets 503, and its bytes are released."""
    body = event(pad=30_000)
    assert post(gateway.port, body, signed(body)).status == 503
    wait_until(
        lambda: gateway.metrics.registry.get_sample_value("billing_gateway_body_bytes") == 0,
        within_s=30,
        what="bytes released",
    )


def test_it_stops_within_its_time_limit_with_records_queued() -> None:
    """The shutdown drops records that Kafka did not accept; their senders have received 503."""
    with serving(NOWHERE, "t.events", bounds=PublishLimits(confirm_within_s=1.5)) as served:
        body = event()
        assert post(served.port, body, signed(body)).status == 503
    # The end of the block has checked that the gateway stopped in time.


def test_T39_an_idle_connection_may_wait_longer_than_a_first_head() -> None:
    """A load balancer keeps connections for 60 s, and must be the first to close them."""
    assert HEAD_WITHIN_S < 60 < KEEP_ALIVE_S == GatewaySettings.model_fields["gateway_keep_alive_s"].default
    page = b"GET /livez HTTP/1.1\r\nHost: g\r\n\r\n"
    with (
        serving(NOWHERE, "t.events", keep_alive_s=60.0, head_within_s=0.5) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=30) as kept,
        socket.create_connection(("127.0.0.1", served.port), timeout=30) as silent,
    ):
        kept.sendall(page)
        assert b" 200 " in kept.recv(4096)
        assert silent.recv(1) == b""  # the time for a first head is over
        kept.sendall(page)
        assert b" 200 " in kept.recv(4096)
    with (
        serving(NOWHERE, "t.events", keep_alive_s=0.5, head_within_s=60.0) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=30) as kept,
    ):
        kept.sendall(page)
        assert b" 200 " in kept.recv(4096)
        assert kept.recv(1) == b""
