"""The feed for tests: queues notifications, runs a receiver whose answers a test sets, and a dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from schemas.feed_settings import Destination
from sinks.feed.dispatcher import FeedDispatcher
from sinks.feed.metrics import FeedMetrics
from sinks.feed.notifications import Notifications, QueuedNotification
from sinks.feed.poster import Poster, Receiver, WebhookPoster
from tests.kits.mailkit import QUICK, Clock
from tests.waiting import eventually

SECRET, OTHER_SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + "C2FVsBQIhrscChlQIMV0c4wMzY4uQbRz"
LOOPBACK = ("127.0.0.0/8",)


@dataclass
class ReceiverServer:
    """A receiver on this machine. It answers with `answers` in turn, then with `status`; it verifies each signature."""

    secret: str = SECRET
    status: int = 200
    answers: list[int] = field(default_factory=list)
    location: str = ""
    got: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    port: int = 0

    async def __aenter__(self) -> ReceiverServer:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def types(self) -> list[str]:
        return [message["type"] for message in self.got]

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        Webhook(self.secret).verify(body, dict(request.headers))  # raises, so an unsigned request is answered with 500
        status = self.answers.pop(0) if self.answers else self.status
        self.ids.append(request.headers["webhook-id"])
        if status < 300:
            self.got.append(orjson.loads(body))
        return web.Response(status=status, headers={"location": self.location} if self.location else {})


def destination(url: str, **changes: Any) -> Destination:
    return Destination.model_validate({"url": url, "secrets": [SECRET], "allow_networks": LOOPBACK} | changes)


@dataclass
class FeedKit:
    """Fills and reads the outbox of notifications, and runs dispatchers on it."""

    url: SecretStr
    connection: asyncpg.Connection[asyncpg.Record]
    clock: Clock

    async def queue(self, key: str, **changes: Any) -> None:
        """Insert one notification that is due now, and notify the dispatchers."""
        values: dict[str, Any] = {
            "notification_key": key,
            "event_id": f"evt_{key}",
            "account": "",
            "customer_id": f"cus_{key}",
            "destination": "app",
            "message_id": f"msg_{key}",
            "type": "access.changed",
            "livemode": False,
            "occurred_at": self.clock.now,
            "data": {"has_access": True},
            "queued_at": self.clock.now,
            "next_attempt_at": self.clock.now,
        } | changes
        values["data"] = orjson.dumps(values["data"]).decode()
        columns, places = ", ".join(values), ", ".join(f"${i}" for i in range(1, len(values) + 1))
        await self.connection.execute(
            f"INSERT INTO billing.notifications ({columns}) VALUES ({places})", *values.values()
        )
        await self.connection.execute("SELECT pg_notify('billing_notifications', '')")

    async def row(self, key: str) -> dict[str, Any]:
        found = await self.connection.fetchrow("SELECT * FROM billing.notifications WHERE notification_key = $1", key)
        assert found is not None
        return dict(found)

    async def until(self, key: str, **wanted: Any) -> dict[str, Any]:
        """Wait until the row has these values, and return it. Raises TimeoutError."""

        async def is_so() -> bool:
            row = await self.row(key)
            return all(row[name] == value for name, value in wanted.items())

        await eventually(is_so)
        return await self.row(key)

    async def disabled(self, name: str = "app") -> bool:
        query = "SELECT disabled_at IS NOT NULL FROM billing.feed_destinations WHERE destination = $1"
        return bool(await self.connection.fetchval(query, name))

    @asynccontextmanager
    async def dispatcher(
        self, posters: Mapping[str, Poster], *, claimer: str = "one", disable_after: timedelta = timedelta(days=5)
    ) -> AsyncIterator[FeedDispatcher]:
        """Run a dispatcher until the block ends."""
        notifications = await Notifications.connect(self.url, claimer=claimer, ahead=self.clock.ahead, keeps_plans=True)
        running = FeedDispatcher(
            notifications,
            posters,
            FeedMetrics(CollectorRegistry(), posters),
            clock=self.clock,
            disable_after=disable_after,
            ahead=self.clock.ahead,
            pace=QUICK,
            lanes=3,
        )
        task = asyncio.create_task(running.run())
        try:
            yield running
        finally:
            running.stop()
            async with asyncio.timeout(30):
                await task
            await notifications.close()


def poster(url: str, *secrets: str, total_s: float = 10.0, **changes: Any) -> WebhookPoster:
    """A poster to this URL on this machine."""
    return WebhookPoster(Receiver("app", destination(url, **changes), secrets or (SECRET,)), total_s=total_s)


@asynccontextmanager
async def open_kit(url: SecretStr) -> AsyncIterator[FeedKit]:
    connection = await asyncpg.connect(url.get_secret_value())
    try:
        yield FeedKit(url, connection, Clock(datetime.now(UTC)))
    finally:
        await connection.close()


def queued(**changes: Any) -> QueuedNotification:
    """A claimed notification that is in no database."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "key": "app:msg_1",
        "event_id": "evt_1",
        "account": "",
        "customer_id": "cus_1",
        "livemode": False,
        "destination": "app",
        "message_id": "msg_1",
        "type": "access.changed",
        "version": 7,
        "occurred_at": now,
        "data": {"has_access": True},
        "attempts": 1,
        "status": "sending",
        "last_error": None,
        "now": now,
        "age": timedelta(0),
        "deadline": 0.0,
    }
    return QueuedNotification(**(values | changes))
