"""The mail outbox for tests: queues mails, moves the clock, and runs a dispatcher while a block is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
from pydantic import SecretStr

from schemas.settings import Mail
from sinks.email.checks import MailCheck
from sinks.email.delivery import MailSender
from sinks.email.dispatcher import Dispatcher, MailPace
from sinks.email.message import Composer, QueuedMail
from sinks.email.metrics import MailMetrics
from sinks.email.outbox import MailOutbox
from sinks.email.samples import SAMPLES
from sinks.email.smtp import SmtpLink, parse_smtp_url
from sinks.email.truth import MailTruth
from sinks.outbox.claims import Ahead, not_ahead
from tests.faulty_mailbox import FaultyMailbox
from tests.waiting import eventually, row_with

CONFIG = Mail(
    sender="Acme <billing@example.com>", operator="ops@example.com", product="Acme", app_url="https://app.example.com"
)
QUICK = MailPace(poll_s=0.05, store_pause_s=0.05, finish_s=5.0)


def queued_sample(template: str = "payment-receipt", **changes: Any) -> QueuedMail:
    """A claimed mail with sample data."""
    values: dict[str, Any] = {
        "key": f"{template}/in_1",
        "event_id": "evt_1",
        "account": "",
        "customer_id": "cus_1",
        "template": template,
        "recipient": "jane@example.com",
        "locale": None,
        "livemode": True,
        "data": SAMPLES.get(template, {}),
        "attempts": 1,
        "now": datetime(2026, 11, 23, 9, 30, tzinfo=UTC),
    }
    return QueuedMail(**(values | changes))


@dataclass
class Clock:
    """A clock that changes only when a test moves it."""

    now: datetime = field(default_factory=lambda: datetime(2026, 11, 23, 9, 30, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def ahead(self) -> timedelta:
        """How far this clock is ahead of Postgres' clock."""
        return self.now - datetime.now(UTC)

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class MailOutboxKit:
    """Fills and reads the mail outbox, and runs dispatchers on it."""

    url: SecretStr
    connection: asyncpg.Connection[asyncpg.Record]
    clock: Clock

    async def queue(self, key: str, template: str = "payment-receipt", **changes: Any) -> None:
        """Insert one mail that is due now, and notify the dispatchers."""
        values: dict[str, Any] = {
            "email_key": key,
            "event_id": "evt_1",
            "account": "",
            "customer_id": f"cus_{key}",
            "template": template,
            "recipient": f"{key}@example.com",
            "locale": None,
            "livemode": True,
            "data": SAMPLES.get(template, {}),
            "queued_at": self.clock.now,
            "next_attempt_at": self.clock.now,
        } | changes
        values["data"] = orjson.dumps(values["data"]).decode()
        columns, places = ", ".join(values), ", ".join(f"${i}" for i in range(1, len(values) + 1))
        await self.connection.execute(f"INSERT INTO billing.emails ({columns}) VALUES ({places})", *values.values())
        await self.connection.execute("SELECT pg_notify('billing_emails', '')")

    async def row(self, key: str) -> dict[str, Any]:
        found = await self.connection.fetchrow("SELECT * FROM billing.emails WHERE email_key = $1", key)
        assert found is not None
        return dict(found)

    async def rows(self) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.connection.fetch("SELECT * FROM billing.emails ORDER BY email_key")]

    async def until(self, key: str, **wanted: Any) -> dict[str, Any]:
        """Wait until the row has these values, and return it. Raises TooLate."""
        return await row_with(lambda: self.row(key), **wanted)

    async def until_all(self, status: str) -> None:
        async def are_so() -> bool:
            return all(row["status"] == status for row in await self.rows())

        await eventually(are_so)

    @asynccontextmanager
    async def outbox(self, claimer: str = "other", ahead: Ahead | None = None) -> AsyncIterator[MailOutbox]:
        opened = await MailOutbox.connect(self.url, claimer=claimer, ahead=ahead or self.clock.ahead, keeps_plans=True)
        try:
            yield opened
        finally:
            await opened.close()

    @asynccontextmanager
    async def dispatcher(
        self,
        mailbox: FaultyMailbox,
        *,
        claimer: str = "one",
        senders: int = 2,
        config: Mail = CONFIG,
        checks: Mapping[str, MailCheck] | None = None,
        metrics: MailMetrics | None = None,
        pace: MailPace = QUICK,
        step_timeout_s: float = 20.0,
        is_real_time: bool = False,
        local_clock_ahead: timedelta = timedelta(0),
    ) -> AsyncIterator[Dispatcher]:
        """Run a dispatcher until the block ends. Its exceptions are raised at the end of the block.

        `step_timeout_s` is short only where a server hangs: elsewhere a mail that a slow machine sends late would be
        tried again at a later time of a clock that does not move.

        With `is_real_time` the outbox uses Postgres' clock as it is, and the process's own clock is ahead of it.
        """
        clock = self.clock if not is_real_time else lambda: datetime.now(UTC) + local_clock_ahead
        server = parse_smtp_url(mailbox.url)
        composer = Composer(config)
        mail_senders = [
            MailSender(
                composer,
                SmtpLink(server, connect_timeout_s=20.0, step_timeout_s=step_timeout_s, helo_name="test.example.com"),
            )
            for _ in range(senders)
        ]
        async with self.outbox(claimer, not_ahead if is_real_time else self.clock.ahead) as outbox:
            running = Dispatcher(
                outbox,
                mail_senders,
                metrics or MailMetrics(),
                clock=clock,
                pace=pace,
                truth=MailTruth(config, checks),
            )
            task = asyncio.create_task(running.run())
            try:
                yield running
            finally:
                running.stop()
                async with asyncio.timeout(30):
                    await task


@asynccontextmanager
async def open_kit(url: SecretStr) -> AsyncIterator[MailOutboxKit]:
    connection = await asyncpg.connect(url.get_secret_value())
    try:
        yield MailOutboxKit(url, connection, Clock())
    finally:
        await connection.close()
