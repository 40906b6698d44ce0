"""A fake Stripe over real HTTP on loopback, and a kit that queues Stripe calls and reads their rows.

The fake checks what Stripe checks (key, form, idempotency), answers in Stripe's format, and can be set to fail.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, cast

import asyncpg
import orjson
from aiohttp import web
from confluent_kafka.cimpl import NewTopic
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from eventlog import client
from eventlog.append import EventAppender
from schemas.kafka_access import KafkaAccess
from schemas.rate import RateLimit
from schemas.record import decode_headers
from sinks.outbox.pace import LoopPace
from sinks.stripe_api.api import StripeApi
from sinks.stripe_api.key import ApiKey, parse_key
from sinks.stripe_calls.caller import Caller
from sinks.stripe_calls.calls import Calls
from sinks.stripe_calls.dispatcher import CallDispatcher
from sinks.stripe_calls.metrics import CallMetrics
from tests.kits.ends import read_to_end
from tests.kits.mailkit import Clock
from tests.waiting import eventually, row_with

TEST_KEY = "sk_test_51QwertyuiopAsdfghjklZxcvbnm"
LIVE_KEY = "rk_live_51QwertyuiopAsdfghjklZxcvbnm"
QUICK = LoopPace(poll_s=0.05, store_pause_s=0.05, finish_s=5.0)


class StripeFault(Enum):
    """What goes wrong, once per `fail_next`."""

    RATE_LIMIT = auto()
    """429 with Retry-After: 7."""
    SERVER_ERROR = auto()
    IN_USE = auto()
    """409: another request with this key is in progress."""
    BAD_GATEWAY = auto()
    """502 with an HTML page, as from a proxy."""
    BAD_REQUEST = auto()
    UNAUTHORIZED = auto()
    """401 although the key is correct: it was rotated."""
    FORBIDDEN = auto()
    """403: a restricted key without this permission."""
    ACCOUNT_GONE = auto()
    """403: the connected account has left."""
    HANG = auto()
    """The server never answers."""
    DROP = auto()
    """The connection is cut before the request takes effect."""
    DROP_AFTER = auto()
    """The request takes effect, and the connection is cut before the response."""


_ERRORS: dict[StripeFault, tuple[int, dict[str, str], dict[str, str]]] = {
    StripeFault.RATE_LIMIT: (429, {"type": "invalid_request_error", "code": "rate_limit"}, {"Retry-After": "7"}),
    StripeFault.SERVER_ERROR: (500, {"type": "api_error"}, {}),
    StripeFault.IN_USE: (409, {"type": "idempotency_error", "code": "idempotency_key_in_use"}, {}),
    StripeFault.BAD_REQUEST: (400, {"type": "invalid_request_error", "code": "resource_missing", "param": "pm"}, {}),
    StripeFault.UNAUTHORIZED: (401, {"type": "invalid_request_error", "code": "api_key_expired"}, {}),
    StripeFault.FORBIDDEN: (403, {"type": "invalid_request_error", "code": "more_permissions_required"}, {}),
    StripeFault.ACCOUNT_GONE: (403, {"type": "invalid_request_error", "code": "account_invalid"}, {}),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One received request."""

    method: str
    path: str
    form: dict[str, str]
    idempotency_key: str | None
    account: str | None
    authorization: str


class FakeStripeServer:
    """The fake Stripe on a free loopback port: `async with StripeServer() as stripe:`."""

    def __init__(self, key: str = TEST_KEY) -> None:
        self.key = key
        self.requests: list[Seen] = []
        self.done: list[Seen] = []
        """Requests that took effect, in order; at most one per idempotency key."""
        self.objects: dict[str, dict[str, Any]] = {}
        """The objects that a GET returns, by id."""
        self.ahead_s = 0.0
        """Seconds by which Stripe's clock is ahead of the local one."""
        self._faults: deque[StripeFault] = deque()
        self._answers: dict[str, tuple[int, bytes]] = {}
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def fail_next(self, fault: StripeFault, times: int = 1) -> None:
        self._faults.extend([fault] * times)

    async def start(self) -> None:
        """Start the server. A restart uses the same port."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> FakeStripeServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        seen = Seen(
            request.method,
            request.path,
            form,
            request.headers.get("Idempotency-Key"),
            request.headers.get("Stripe-Account"),
            request.headers.get("Authorization", ""),
        )
        self.requests.append(seen)
        fault = self._faults.popleft() if self._faults else None
        if fault is StripeFault.HANG:
            await asyncio.sleep(3600)
        if fault is StripeFault.BAD_GATEWAY:
            return web.Response(status=502, text="<html>bad gateway</html>", content_type="text/html")
        if fault in _ERRORS:
            status, error, headers = _ERRORS[fault]
            answer = {"error": {**error, "message": f"No good: {fault.name}, {self.key}"}}
            return self._answer(status, orjson.dumps(answer), headers)
        if fault is StripeFault.DROP:
            return _dropped(request)
        status, body = self._do(seen)
        return _dropped(request) if fault is StripeFault.DROP_AFTER else self._answer(status, body, {})

    def _do(self, seen: Seen) -> tuple[int, bytes]:
        if seen.authorization != f"Bearer {self.key}":
            return 401, orjson.dumps(
                {"error": {"type": "invalid_request_error", "message": "Invalid API Key provided"}}
            )
        if seen.method == "GET":
            found = self.objects.get(seen.path.rsplit("/", 1)[1])
            missing = {
                "error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such thing"}
            }
            return (200, orjson.dumps(found)) if found else (404, orjson.dumps(missing))
        if seen.idempotency_key is None:
            return 400, orjson.dumps({"error": {"type": "invalid_request_error", "message": "no Idempotency-Key"}})
        if seen.idempotency_key not in self._answers:
            self.done.append(seen)
            answer = {"object": "customer", "id": seen.path.rsplit("/", 1)[1]}
            self._answers[seen.idempotency_key] = 200, orjson.dumps(answer)
        return self._answers[seen.idempotency_key]

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> web.Response:
        now = datetime.fromtimestamp(datetime.now(UTC).timestamp() + self.ahead_s, UTC)
        return web.Response(
            status=status,
            body=body,
            content_type="application/json",
            headers={
                "Request-Id": f"req_{len(self.requests)}",
                "Stripe-Version": "2026-10-28.test",
                "Date": now.strftime("%a, %d %b %Y %H:%M:%S GMT"),
                **headers,
            },
        )


def _dropped(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


@dataclass
class CallOutboxKit:
    """Fills and reads the outbox of Stripe calls, and runs dispatchers on it."""

    url: SecretStr
    connection: asyncpg.Connection[asyncpg.Record]
    stripe: FakeStripeServer
    event_log: EventAppender
    clock: Clock = field(default_factory=Clock)

    async def queue(self, key: str, **changes: Any) -> None:
        """Insert a call that sets a default payment method and is due now."""
        values: dict[str, Any] = {
            "call_key": key,
            "event_id": f"evt_{key}",
            "account": "",
            "customer_id": f"cus_{key}",
            "livemode": False,
            "method": "POST",
            "path": f"/v1/customers/cus_{key}",
            "params": {"invoice_settings": {"default_payment_method": f"pm_{key}"}},
            "purpose": "set the default payment method",
            "queued_at": self.clock.now,
            "next_attempt_at": self.clock.now,
        } | changes
        values["params"] = orjson.dumps(values["params"]).decode()
        columns, places = ", ".join(values), ", ".join(f"${i}" for i in range(1, len(values) + 1))
        await self.connection.execute(
            f"INSERT INTO billing.stripe_calls ({columns}) VALUES ({places})", *values.values()
        )
        await self.connection.execute("SELECT pg_notify('billing_stripe_calls', '')")

    async def queue_get(self, key: str, subscription_id: str = "sub_1", **changes: Any) -> None:
        """Insert a GET call that refetches a subscription to settle a tie."""
        await self.queue(
            key,
            **{"method": "GET", "path": f"/v1/subscriptions/{subscription_id}", "params": {}, "customer_id": "cus_1"}
            | {"purpose": "settle a tie"}
            | changes,
        )

    async def row(self, key: str) -> dict[str, Any]:
        found = await self.connection.fetchrow("SELECT * FROM billing.stripe_calls WHERE call_key = $1", key)
        assert found is not None
        return dict(found)

    async def statuses(self) -> dict[str, str]:
        rows = await self.connection.fetch("SELECT call_key, status FROM billing.stripe_calls")
        return {row["call_key"]: row["status"] for row in rows}

    async def until(self, key: str, **wanted: Any) -> dict[str, Any]:
        """Wait until the row has these values, and return it. Raises TooLate."""
        return await row_with(lambda: self.row(key), **wanted)

    async def until_all(self, status: str) -> None:
        async def are_so() -> bool:
            return set((await self.statuses()).values()) == {status}

        await eventually(are_so)

    @asynccontextmanager
    async def dispatcher(
        self,
        *,
        claimer: str = "one",
        key: str = TEST_KEY,
        lanes: int = 2,
        total_s: float = 1.0,
        per_second: float = 1000.0,
        pace: LoopPace = QUICK,
        registry: CollectorRegistry | None = None,
        local_clock_ahead: timedelta = timedelta(0),
    ) -> AsyncIterator[CallDispatcher]:
        """Run a dispatcher until the block ends. Its exceptions are raised at the end of the block."""
        api_key: ApiKey = parse_key(SecretStr(key))
        api = StripeApi(api_key, self.stripe.url, connect_s=1.0, total_s=total_s)
        calls = await Calls.connect(self.url, claimer=claimer, ahead=self.clock.ahead, keeps_plans=True)
        caller = Caller(api, RateLimit(per_second), self.event_log, chance=lambda: 0.5)
        running = CallDispatcher(
            calls,
            caller,
            CallMetrics(registry or CollectorRegistry()),
            clock=lambda: self.clock() + local_clock_ahead,
            pace=pace,
            lanes=lanes,
        )
        task = asyncio.create_task(running.run())
        try:
            yield running
        finally:
            running.stop()
            async with asyncio.timeout(30):
                await task
            await api.close()
            await calls.close()


@asynccontextmanager
async def open_kit(url: SecretStr, stripe: FakeStripeServer, event_log: EventAppender) -> AsyncIterator[CallOutboxKit]:
    connection = await asyncpg.connect(url.get_secret_value())
    try:
        yield CallOutboxKit(url, connection, stripe, event_log)
    finally:
        await connection.close()
        await asyncio.to_thread(event_log.close)


def make_topic(bootstrap: str, name: str) -> None:
    admin = client.admin(KafkaAccess(bootstrap))
    for made in admin.create_topics([NewTopic(name, num_partitions=3)], operation_timeout=10).values():
        made.result(timeout=30)


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record of the topic."""

    key: bytes
    event: dict[str, Any]
    headers: dict[str, str]


def records(bootstrap: str, topic: str, partitions: int = 3) -> list[LogRecord]:
    """All records currently in the topic. Blocks the thread."""
    consumer = client.consumer(KafkaAccess(bootstrap), group="reader")
    try:
        messages = read_to_end(consumer, topic, dict.fromkeys(range(partitions), 0))
    finally:
        consumer.close()
    return [
        LogRecord(
            bytes(message.key() or b""),
            orjson.loads(message.value() or b"null"),
            decode_headers(cast("list[tuple[str, bytes]]", message.headers())),
        )
        for message in messages
    ]


def open_desk(
    database: SecretStr, stripe: FakeStripeServer, bootstrap: str, topic: str
) -> AbstractAsyncContextManager[CallOutboxKit]:
    """The outbox of calls, with a log at `bootstrap`."""
    return open_kit(database, stripe, EventAppender(KafkaAccess(bootstrap), topic, client_id="test-stripe-calls"))
