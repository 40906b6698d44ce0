"""The commands `billing erase` and `billing export` with a worker next to them, and purchases of a guest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from typer.testing import CliRunner

from eventlog.dead_letters import DeadLetterPublisher
from eventlog.entry import Entry
from local.stripe.builder import Json, StripeEvents
from local.stripe.payments import charge, dispute
from ops.cli import command_line
from schemas.record import Source
from schemas.settings import Config, Plan
from schemas.timing import utc_now
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.kits.reconcilekit import ReconcileKit, send
from tests.kits.storekit import fetch

MAKE = StripeEvents()
AT = int((utc_now() - timedelta(days=3)).timestamp())
GUEST = "Kim.Guest@Example.com"
CONFIG = '[endpoints.default]\nsecrets = ["whsec_1"]\n[plans.pro]\nname = "Pro"\nprices = ["price_pro"]\n'


class Office:
    """The commands, and a worker that runs next to them."""

    def __init__(self, desk: ReconcileKit, folder: Path) -> None:
        self.desk, self.folder, self.config = desk, folder, folder / "privacy.toml"
        self.config.write_text(CONFIG)
        self.processed = set[tuple[int, int]]()

    async def send(self, *events: Json, received_at: datetime | None = None) -> None:
        await send(self.desk, list(events), received_at or utc_now())
        await self.work()

    async def append(self, *events: Json, source: Source = Source.STRIPE) -> None:
        """Puts events of any account on the log, and has them applied."""
        entries = [
            Entry.of(one, source=source, received_at=utc_now(), livemode=False, account=one.get("account", ""))
            for one in events
        ]
        await self.desk.log.append(entries)
        await self.work()

    async def work(self) -> None:
        letters = DeadLetterPublisher(self.desk.settings.kafka, self.desk.settings.dead_topic)
        processor = Processor(
            store=self.desk.store, dead_letters=letters, rules=RULES, group="test.worker", code_version="1",
            config=Config(plans={"pro": Plan(name="Pro", prices=("price_pro",))}),
        )  # fmt: skip
        records = await asyncio.to_thread(self.desk.records)
        new = [record for record in records if (record.partition, record.offset) not in self.processed]
        if new:
            await processor.process(new)
        self.processed |= {(record.partition, record.offset) for record in new}
        letters.close()

    async def ask(self, *arguments: str, code: int = 0) -> Any:
        """Runs the command while a worker runs. Returns its JSON, or what it said if it did not end with 0."""
        settings = self.desk.environment(self.folder) | {"BILLING_CONFIG": str(self.config)}
        call = partial(CliRunner().invoke, command_line(["erase", "export"]), [*arguments, "--json"], env=settings)
        command = asyncio.create_task(asyncio.to_thread(call))
        while not command.done():
            if "--dry-run" not in arguments and "0" not in arguments:
                await self.work()
            await asyncio.wait([command], timeout=0.2)
        ended = await command
        assert ended.exit_code == code, ended.output
        return orjson.loads(ended.stdout.splitlines()[-1]) if code == 0 else ended.stderr

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(self.desk.settings.database_url.get_secret_value())
        try:
            yield connection
        finally:
            await connection.close()

    async def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        return await fetch(self.desk.settings.database_url, query, *arguments)

    async def found(self, *needles: str) -> set[str]:
        """The tables with a row that contains one of the texts, in any case of letters."""
        tables = await self.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'billing'")
        wanted = [f"%{needle.lower()}%" for needle in needles]
        return {
            table["tablename"]
            for table in tables
            if await self.rows(
                f"SELECT 1 FROM billing.{table['tablename']} t WHERE lower(t::text) LIKE ANY($1)",
                wanted,
            )
        }


def counts_of(answer: Any) -> dict[str, int]:
    (one,) = answer["erasures"]
    rows: dict[str, int] = one["rows"]
    return rows


def purchase(session: str, *, intent: str, of: str, email: str, name: str = "Kim Guest", at: int = AT) -> list[Json]:
    """A one-time purchase without a customer, and a dispute that names only the charge."""
    person: Json = {"billing_details": {"email": email, "name": name}, "receipt_email": email}
    bought = MAKE.checkout_session(session, customer=None, mode="payment", email=email, name=name)
    bought |= {"payment_intent": intent, "customer_details": {"email": email, "name": name}}
    paid = charge(MAKE, of, customer=None, invoice=None, payment_intent=intent, **person)
    evidence = {"customer_name": name}
    disputed = dispute(MAKE, f"dp_{of}", charge=of, payment_intent=None, evidence=evidence)
    return [
        MAKE.event("checkout.session.completed", bought, at),
        MAKE.event("charge.succeeded", paid, at + 1),
        MAKE.event("charge.dispute.created", disputed, at + 2),
    ]
