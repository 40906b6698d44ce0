"""A simulated company whose events are applied to the real store, for tests of `billing audit`."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import asyncpg
from confluent_kafka import TopicPartition
from pydantic import SecretStr

from eventlog import client
from eventlog.backlog import ids_on_the_way
from eventlog.dead_letters import DeadLetterPublisher
from local.stripe.simulator.books import Books, Json
from local.stripe.simulator.company import Company
from local.stripe.simulator.prices import PLANS
from local.stripe.simulator.server import StripeServer
from recovery.audit.audit import AuditAsked, Auditor, AuditReport
from recovery.audit.books import AuditBooks
from recovery.audit.runs import AuditRuns
from schemas.rate import RateLimit
from schemas.record import Record, Source
from schemas.settings import FREE_PLAN, Config, Plan, Rules
from sinks.postgres.pool import connect
from sinks.stripe_api.api import StripeApi
from sinks.stripe_api.key import parse_key
from sinks.stripe_api.listing import Lists
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.field.harness import record
from tests.kits.reconcilekit import QUICK, Ended, ReconcileKit, open_kit

CUSTOMERS, MONTHS, SEED = 25, 2, 5
CONFIG = Config(
    rules=Rules(set_default_payment_method=False),
    plans={name: Plan(name=name.title(), prices=prices) for name, prices in {"odd": ("price_odd",), **PLANS}.items()},
)
"""Every price that the company sells alone is in a plan."""


@dataclass
class AuditKit:
    """`desk` has the log and the store, `server` answers as Stripe."""

    desk: ReconcileKit
    company: Company
    server: StripeServer
    config: Config = CONFIG

    @property
    def books(self) -> Books:
        return self.company.stripe.books

    def newest(self, kind: str, **values: object) -> Json:
        """Return the newest object of this kind in the last 20 days with these values."""
        since = self.books.now - 20 * 86_400
        found = [one for one in self.books.all(kind) if one["created"] >= since]
        found = [one for one in found if all(one.get(name) == value for name, value in values.items())]
        return max(found, key=lambda one: (one["created"], one["id"]))

    async def apply(self, events: Iterable[Json]) -> None:
        """Process these events as the worker does."""
        await processed(self.desk, [record(event, Source.STRIPE) for event in events], self.config)

    async def process_log(self) -> None:
        """Process the whole log as the worker does, and what waits once more, as its timer has it processed."""
        records = await asyncio.to_thread(self.desk.records)
        await processed(self.desk, records, self.config)
        connection = await asyncpg.connect(self.desk.settings.database_url.get_secret_value())
        try:
            rows = await connection.fetch("SELECT event_id FROM billing.events WHERE outcome = 'waiting'")
        finally:
            await connection.close()
        waiting = {row["event_id"] for row in rows}
        await processed(self.desk, [one for one in records if one.headers["event_id"] in waiting], self.config)

    async def commit_all(self) -> None:
        """Commit the whole log as the worker's group does after it has processed it."""
        await asyncio.to_thread(self._commit_all)

    def _commit_all(self) -> None:
        settings = self.desk.settings
        consumer = client.consumer(settings.kafka, group=f"{settings.topic_prefix}.worker")
        topic = settings.events_topic
        try:
            listed = consumer.list_topics(topic, timeout=30).topics[topic].partitions
            ends = [consumer.get_watermark_offsets(TopicPartition(topic, at), timeout=30)[1] for at in listed]
            offsets = [TopicPartition(topic, at, end) for at, end in zip(listed, ends, strict=True)]
            consumer.commit(offsets=offsets, asynchronous=False)
        finally:
            consumer.close()

    async def audit(self, *, total_s: float = 5.0, ahead: timedelta = timedelta(0), **asked: object) -> AuditReport:
        """Audit the last 29 days, with a clock that is `ahead`."""
        api = StripeApi(parse_key(SecretStr(self.server.key)), self.server.url, connect_s=1.0, total_s=total_s)
        settings = self.desk.settings
        connection = await connect(settings.database_url, application="test-audit", own_session=True)
        try:
            auditor = Auditor(
                lists=Lists(api, RateLimit(100), timetable=QUICK, chance=lambda: 0.5),
                runs=AuditRuns(connection),
                books=AuditBooks(connection),
                config=self.config,
                on_the_way=partial(
                    ids_on_the_way, settings.kafka, f"{settings.topic_prefix}.worker", settings.events_topic
                ),
                clock=lambda: datetime.now(UTC) + ahead,
            )
            since = datetime.now(UTC) - timedelta(days=29)
            given = {"since": since, "settle_s": 0.0, "scope": "test"} | asked
            (report,) = await auditor.run(AuditAsked(**given), [""])  # type: ignore[arg-type]  # as the test says
            return report
        finally:
            connection.terminate()
            await api.close()

    async def billing(self, folder: Path, command: str) -> Ended:
        """Run a command that begins with `billing`, as an operator types it."""
        program, *arguments = shlex.split(command)
        assert program == "billing"
        return await self.desk.ask_billing(
            folder,
            *arguments,
            BILLING_CONFIG=str(self._config_file(folder)),
            BILLING_STRIPE_API_BASE=self.server.url,
            BILLING_STRIPE_API_KEY=self.server.key,
        )

    def _config_file(self, folder: Path) -> Path:
        """Write the plans of `config` as an operator has them, so that the commands know the same prices."""
        file = folder / "plans.toml"
        plans = [
            f'[plans.{name}]\nname = "{plan.name}"\nprices = {list(plan.prices)}\n'
            for name, plan in self.config.plans.items()
            if name != FREE_PLAN or plan.prices
        ]
        file.write_text("\n".join(['[endpoints.default]\nsecrets = ["whsec_1"]\n', *plans]))
        return file


async def processed(desk: ReconcileKit, records: Sequence[Record], config: Config) -> None:
    """Process these records as the worker does, in batches."""
    letters = DeadLetterPublisher(desk.settings.kafka, desk.settings.dead_topic)
    processor = Processor(
        store=desk.store,
        dead_letters=letters,
        rules=RULES,
        config=config,
        group=f"{desk.settings.topic_prefix}.worker",
        code_version="1",
        clock=lambda: datetime.now(UTC),
    )
    for first in range(0, len(records), 50):
        await processor.process(records[first : first + 50])
    await asyncio.to_thread(letters.close)


@asynccontextmanager
async def open_audit(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, *, customers: int = CUSTOMERS
) -> AsyncIterator[AuditKit]:
    """Yield a kit whose company has lived but whose events are not applied yet."""
    company = Company(customers, MONTHS, SEED, int(datetime.now(UTC).timestamp()) - 3600)
    company.run()
    async with (
        open_kit(kafka_bootstrap, database, topic_prefix) as desk,
        StripeServer(company.stripe) as server,
    ):
        yield AuditKit(desk, company, server)
