"""A customer who is exported and erased: worker and exporter on one database, and a year of events about her."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr

from eventlog import client
from eventlog.dead_letters import DeadLetterPublisher
from eventlog.retention import KafkaKeeps
from local.stripe.builder import Json, StripeEvents
from local.stripe.payments import charge, dispute, payment_method
from schemas.kafka_access import KafkaAccess
from schemas.record import RecordHeaders, Source, record_of
from schemas.settings import Config, Plan
from schemas.timer import timer_event
from schemas.timing import utc_now
from schemas.verdict import Verdict
from sinks.exports.exporter import Exporter
from sinks.exports.orders import ExportOrders
from sinks.exports.storage import Storage
from sinks.payloads.archive import PayloadArchive
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.kits.rulekit import DAY, NOW, at
from tests.kits.storekit import fetch

JANE = {"email": "jane.erasable@example.com", "name": "Jane Erasable"}
LAST4 = "z9q7"
"""In place of the last digits of the card. Random ids (hexadecimal), times and amounts cannot contain it."""
NEEDLES = ("jane", "erasable", LAST4)
"""Lower-case texts that identify the customer: the name and the last digits of the card."""
LATE = NOW + 10 * DAY
GONE = LATE + 30 * DAY


@dataclass
class ErasureKit:
    """Worker and exporter on one database, with a clock that tests move."""

    url: str
    processor: Processor
    exporter: Exporter
    folder: Path
    now: list[datetime] = field(default_factory=lambda: [at(NOW)])
    offset: int = 0

    async def process(self, *events: Json) -> list[Verdict]:
        records = []
        for event in events:
            headers = RecordHeaders(
                event_id=event["id"],
                type=event["type"],
                source=Source.STRIPE,
                account="",
                livemode=False,
                api_version="",
                endpoint="default",
                received_at=self.now[0],
            )
            value = orjson.dumps(event)
            records.append(record_of("events", 0, self.offset, b"cus_1", value, headers.encode(), 1_700_000_000.0))
            self.offset += 1
        return await self.processor.process(records)

    async def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        return await fetch(self.url, query, *arguments)

    async def due(self, key: str) -> Json:
        """The event of a timer, as the scheduler appends it."""
        (row,) = await self.rows("SELECT * FROM billing.timers WHERE timer_key = $1", key)
        return timer_event(_timer(row))

    async def found(self) -> dict[str, list[str]]:
        """The columns that contain each needle, over all text and JSON columns of the schema."""
        columns = await self.rows(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'billing' AND data_type IN ('text', 'jsonb', 'character varying')"
        )
        by_table: dict[str, list[str]] = {}
        for column in columns:
            by_table.setdefault(column["table_name"], []).append(column["column_name"])
        hits: dict[str, list[str]] = {needle: [] for needle in NEEDLES}
        connection = await asyncpg.connect(self.url)
        try:
            for table, names in by_table.items():
                texts = ", ".join(f"coalesce(string_agg(lower(\"{name}\"::text), chr(10)), '')" for name in names)
                row = await connection.fetchrow(f'SELECT {texts} FROM billing."{table}"')
                for name, text in zip(names, row or (), strict=True):
                    for needle in NEEDLES:
                        if needle in text:
                            hits[needle].append(f"{table}.{name}")
        finally:
            await connection.close()
        return {needle: places for needle, places in hits.items() if places}

    def archives(self) -> list[Path]:
        return sorted(self.folder.glob("*")) if self.folder.exists() else []


def _timer(row: Mapping[str, Any]) -> Any:
    from schemas.state import Timer

    names = ("timer_key", "account", "customer_id", "kind", "subject", "due_at", "livemode", "event_id")
    return Timer(**{name: row[name] for name in names}, data=orjson.loads(row["data"]))


@asynccontextmanager
async def open_kit(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path, *, payloads: str = ""
) -> AsyncIterator[ErasureKit]:
    admin = client.admin(KafkaAccess(kafka_bootstrap))
    for creation in admin.create_topics([NewTopic(f"{topic_prefix}.dead", 1, 1)]).values():
        creation.result(timeout=30)
    store = await Store.connect(database, pool_size=2)
    dead_letters = DeadLetterPublisher(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.dead")
    now = [at(NOW)]
    orders = await ExportOrders.connect(
        database, claimer="test", application="billing-test", ahead=lambda: now[0] - utc_now()
    )
    folder = tmp_path / "exports"
    yield ErasureKit(
        database.get_secret_value(),
        Processor(
            store=store,
            dead_letters=dead_letters,
            rules=RULES,
            config=Config(plans={"pro": Plan(name="Pro", prices=("price_pro",))}),
            group="test.worker",
            code_version="1",
            clock=lambda: now[0],
            kafka_keeps=KafkaKeeps(timedelta(days=29), timedelta(days=91)),
        ),
        Exporter(orders, Storage(str(folder)), PayloadArchive(payloads), clock=lambda: now[0]),
        folder,
        now,
    )
    await orders.close()
    dead_letters.close()
    await store.close()


def history(make: StripeEvents) -> list[Json]:
    """A year of events about Jane, with her name in every place that can contain it."""
    card = payment_method(make, "pm_1", last4=LAST4)
    bad = make.subscription(start=NOW, status="a ninth", metadata={"name": JANE["name"]})
    return [
        make.event("customer.created", make.customer(**JANE), NOW),  # type: ignore[arg-type]  # the builder's keywords
        make.event("payment_method.attached", card, NOW + 1),
        make.event("customer.subscription.created", make.subscription(start=NOW), NOW + 2),
        make.event("invoice.paid", make.invoice("in_1", status="paid", created=NOW + 3, **JANE), NOW + 3),  # type: ignore[arg-type]  # as above
        make.event("charge.succeeded", charge(make, "ch_1", billing_details=JANE), NOW + 4),
        make.event("charge.dispute.created", dispute(make, "dp_1", charge="ch_1", evidence=JANE), NOW + 5),
        make.event("invoice.payment_failed", make.invoice("in_2", created=NOW + 6, **JANE), NOW + 6),  # type: ignore[arg-type]  # as above
        make.event("customer.subscription.updated", bad, NOW + 7),
        make.event(
            "quote.finalized", {"object": "quote", "id": "qt_1", "customer": "cus_1", "header": JANE["name"]}, NOW
        ),
    ]


def left(make: StripeEvents, when: int = LATE) -> Json:
    ended = make.subscription(start=NOW, status="canceled", ended_at=when)
    return make.event("customer.subscription.deleted", ended, when)
