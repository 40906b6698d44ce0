"""Tools for gateway tests: events, a raw HTTP client, the app in a thread, and a reader of the topic."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web
from confluent_kafka import Message
from pydantic import SecretStr

from eventlog import client
from eventlog.topics import ensure_topics
from gateway.app import HEAD_WITHIN_S, KEEP_ALIVE_S, create_app, create_runner, first_head_in_time
from gateway.bodies import BodyBounds
from gateway.clients import Clients, networks
from gateway.endpoints import webhook_endpoints
from gateway.metrics import GatewayMetrics
from gateway.ops_pages import create_ops_app
from gateway.publisher import Publisher, PublishLimits
from gateway.signature import sign
from schemas.kafka_access import KafkaAccess
from schemas.record import decode_headers
from schemas.settings import Config, Endpoint, Settings
from tests.kits.ends import read_to_end

SECRET = b"whsec_OfTheDefaultEndpoint0123456789ab"
CONNECT_SECRET = b"whsec_OfTheConnectEndpoint0123456789ab"
FORGED = b"whsec_ThatTheGatewayDoesNotKnow012345"

ANSWERED_WITHIN_S = 15.0
"""By then the gateway has answered on any machine: without a broker it answers 503 after 4 s. Without that limit a
request would get no answer in the 30 s for which `PostingLoad` waits."""


@dataclass(frozen=True)
class GatewayAnswer:
    """One HTTP response and the time until it arrived."""

    status: int
    body: bytes
    seconds: float
    headers: Mapping[str, str] = field(default_factory=dict)


def event(customer: str = "cus_1", *, event_id: str | None = None, pad: int = 0, **top: Any) -> bytes:
    """A small invoice.paid event in test mode, as JSON bytes with unusual spacing."""
    document: dict[str, Any] = {
        "id": event_id or f"evt_{uuid.uuid4().hex}",
        "object": "event",
        "type": "invoice.paid",
        "created": int(time.time()),
        "livemode": False,
        "api_version": "2025-03-31.basil",
        "data": {"object": {"id": "in_1", "object": "invoice", "customer": customer, "pad": "x" * pad}},
    }
    return json.dumps(document | top, indent=1, ensure_ascii=False).encode()


def signed(body: bytes, *secrets: bytes, at: int | None = None) -> str:
    """The Stripe-Signature header, by default with the test endpoint's secret and the current time."""
    return sign(body, secrets or (SECRET,), timestamp=int(time.time()) if at is None else at)


def config(**endpoints: Endpoint) -> Config:
    """A test-mode config with the endpoints `default` and `connect`, plus or replaced by `endpoints`."""
    usual = {
        "default": Endpoint(secrets=(SecretStr(SECRET.decode()),)),
        "connect": Endpoint(secrets=(SecretStr(CONNECT_SECRET.decode()),), connect=True),
    }
    return Config(endpoints=usual | endpoints)


def send(port: int, request: bytes, *, timeout: float = 30.0) -> GatewayAnswer:
    """Send raw bytes and return the response, for requests that no HTTP library would send."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        sock.sendall(request)
        response = http.client.HTTPResponse(sock)
        response.begin()
        body = response.read()
        return GatewayAnswer(response.status, body, time.monotonic() - started, dict(response.getheaders()))


def post(
    port: int,
    body: bytes,
    signature: str | bytes | None = None,
    *,
    path: str = "/webhooks/stripe",
    extra: tuple[bytes, ...] = (),
) -> GatewayAnswer:
    """POST a body with a signature header (no header if None) and `extra` raw header lines."""
    head = [f"POST {path} HTTP/1.1".encode(), b"Host: gateway", b"Content-Length: %d" % len(body), *extra]
    if signature is not None:
        value = signature if isinstance(signature, bytes) else signature.encode()
        head.append(b"Stripe-Signature: " + value)
    return send(port, b"\r\n".join(head) + b"\r\n\r\n" + body)


def get(port: int, path: str) -> GatewayAnswer:
    """GET a page."""
    return send(port, f"GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n".encode())


def create_topics(bootstrap: str, prefix: str, partitions: int = 12) -> Settings:
    """Create the two topics of this prefix; return the settings that name them."""
    settings = Settings(
        kafka_bootstrap=bootstrap,
        topic_prefix=prefix,
        partitions=partitions,
        database_url=SecretStr("postgresql://unused"),
        config_path=Path(os.devnull),
    )
    ensure_topics(settings)
    return settings


def read_topic(bootstrap: str, topic: str) -> list[Message]:
    """Every record of the topic, in partition order."""
    consumer = client.consumer(KafkaAccess(bootstrap), group="unused")
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        return read_to_end(consumer, topic, dict.fromkeys(partitions, 0))
    finally:
        consumer.close()


def headers_of(message: Message) -> dict[str, str]:
    """A record's headers as text."""
    headers = message.headers()
    assert isinstance(headers, list)
    return decode_headers((name, value) for name, value in headers if isinstance(value, bytes))


@dataclass
class Served:
    """A gateway running in a thread of this process."""

    port: int
    ops_port: int
    metrics: GatewayMetrics
    publisher: Publisher


@contextmanager
def serving(
    bootstrap: str,
    topic: str,
    configured: Config | None = None,
    *,
    body_bounds: BodyBounds | None = None,
    bounds: PublishLimits | None = None,
    overrides: Mapping[str, str | int | float | bool] | None = None,
    keep_alive_s: float = KEEP_ALIVE_S,
    head_within_s: float = HEAD_WITHIN_S,
) -> Iterator[Served]:
    """Run the real app on a free port as `billing gateway` does, in a thread with its own event loop."""
    started: list[Served] = []
    failed: list[BaseException] = []
    ready = threading.Event()
    stop: list[Callable[[], object]] = []

    async def run() -> None:
        metrics = GatewayMetrics()
        publisher = Publisher(KafkaAccess(bootstrap), topic, metrics, bounds=bounds, overrides=overrides)
        used = configured or config()
        clients = Clients(networks(used.trusted_proxies, "trusted_proxies"))
        app = create_app(webhook_endpoints(used), publisher, metrics, bounds=body_bounds, clients=clients)
        runner = create_runner(app, keep_alive_s=keep_alive_s)
        await runner.setup()
        ops = web.AppRunner(create_ops_app(app), access_log=None)
        await ops.setup()
        site = web.TCPSite(ops, "127.0.0.1", 0)
        await site.start()
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            server = runner.server
            assert server is not None
            listener = await loop.create_server(first_head_in_time(server, head_within_s), "127.0.0.1", 0)
            started.append(Served(listener.sockets[0].getsockname()[1], ops.addresses[0][1], metrics, publisher))
            stop.append(lambda: loop.call_soon_threadsafe(stopping.set))
            ready.set()
            await stopping.wait()
            listener.close()
        finally:
            await ops.cleanup()
            await runner.cleanup()

    def main() -> None:
        try:
            uvloop.run(run())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the test
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=main, name="gateway-under-test")
    thread.start()
    try:
        assert ready.wait(30)
        if started:
            yield started[0]
    finally:
        for order in stop:
            order()
        thread.join(40)
        assert not thread.is_alive(), "the gateway did not stop"
        if failed:
            raise failed[0]


@dataclass
class Shot:
    """One request of the load. Status 0 means that the connection broke before a response."""

    event_id: str
    customer: str
    sequence: int
    status: int
    seconds: float


class PostingLoad:
    """Connections that post events one after another until `stop`. Each has its own customer."""

    def __init__(self, port: int, connections: int = 16, pad: int = 1500) -> None:
        self.shots: list[Shot] = []
        self._port = port
        self._connections = connections
        self._pad = pad
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), name="load")

    def __enter__(self) -> PostingLoad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop after the requests in flight."""
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def count(self, status: int) -> int:
        return sum(shot.status == status for shot in self.shots)

    @property
    def accepted(self) -> list[Shot]:
        return [shot for shot in self.shots if shot.status == 200]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._connections):
                group.create_task(self._post_on(f"cus_{number}_{uuid.uuid4().hex[:6]}"))

    async def _post_on(self, customer: str) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        for sequence in itertools.count():
            if self._stop.is_set():
                break
            event_id = f"evt_{uuid.uuid4().hex}"
            body = event(customer, event_id=event_id, pad=self._pad)
            head = f"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: {signed(body)}\r\n"
            started = time.monotonic()
            try:
                async with asyncio.timeout(30):
                    if reader is None or writer is None:
                        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                    answer = await reader.readuntil(b"\r\n\r\n")
                    length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    await reader.readexactly(length)
                status = int(answer[9:12])
            except (OSError, asyncio.IncompleteReadError):
                status = 0
                if writer is not None:
                    writer.close()
                reader = writer = None
                await asyncio.sleep(0.02)  # a refused connection must not turn this into a busy loop
            self.shots.append(Shot(event_id, customer, sequence, status, time.monotonic() - started))
        if writer is not None:
            writer.close()


def assert_all_stored_in_order(load: PostingLoad, records: list[Message]) -> None:
    """Check that each event with a 200 is in the topic, in order of the responses per customer."""
    place: dict[str, tuple[int, int]] = {}
    for message in records:
        where = (message.partition() or 0, message.offset() or 0)
        place.setdefault(headers_of(message)["event_id"], where)
    missing = [shot.event_id for shot in load.accepted if shot.event_id not in place]
    assert not missing, f"{len(missing)} of {len(load.accepted)} answered 200 are not in the topic"
    by_customer: dict[str, list[Shot]] = {}
    for shot in load.accepted:
        by_customer.setdefault(shot.customer, []).append(shot)
    for customer, shots in by_customer.items():
        places = [place[shot.event_id] for shot in sorted(shots, key=lambda shot: shot.sequence)]
        assert len({partition for partition, _ in places}) == 1, customer
        assert places == sorted(places), customer
