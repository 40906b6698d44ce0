"""Stripe, the log and the ledger for tests of `billing reconcile`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from pydantic import SecretStr

from eventlog.append import EventAppender
from eventlog.backlog import ids_on_the_way
from eventlog.dead_letters import DeadLetterPublisher
from eventlog.entry import Entry
from eventlog.topics import ensure_topics
from local.stripe.builder import StripeEvents
from recovery.reconcile.events import Reconciler, ReconcileRequest
from recovery.reconcile.report import ReconcileReport
from recovery.reconcile.runs import Runs
from schemas.kafka_access import KafkaAccess
from schemas.ordering import ordering_key
from schemas.rate import RateLimit
from schemas.record import Record, RecordHeaders, Source
from schemas.settings import Config, Endpoint, Settings
from schemas.timing import Timetable
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from sinks.stripe_api.api import StripeApi
from sinks.stripe_api.key import parse_key
from sinks.stripe_api.listing import Lists
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.chaos.log import read_all
from tests.kits import clikit
from tests.kits.storekit import known, ledger_row
from tests.kits.stripelist import KEY, Json, ListingStripe

NOW = datetime.now(UTC).replace(microsecond=0)
CONFIG = Config(endpoints={"default": Endpoint(secrets=(SecretStr("whsec_1"),))})
QUICK = Timetable(first=timedelta(seconds=0.01), factor=2, tries=4)


def event(number: int, *, ago: timedelta, customer: str = "cus_1", account: str | None = None, **more: Any) -> Json:
    make = StripeEvents(account=account)
    at = int((NOW - ago).timestamp())
    made = make.event("customer.updated", make.customer(customer, created=at), at, id_=f"evt_{number:05}")
    return made | more


def events(count: int, *, over: timedelta = timedelta(hours=23), first: int = 0) -> list[Json]:
    """`count` events of twenty customers, evenly spread from `over` ago to ten minutes ago, oldest first."""
    least = timedelta(minutes=10)
    pause = (over - least) / count
    return [event(first + at, ago=over - pause * at, customer=f"cus_{at % 20}") for at in range(count)]


@dataclass(frozen=True, slots=True)
class Ended:
    """Exit code and output of a command."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass
class ReconcileKit:
    """Stripe, the log and the ledger of one test."""

    settings: Settings
    stripe: ListingStripe
    log: EventAppender
    store: Store
    closers: list[Any] = field(default_factory=list)

    async def reconciler(self, *, total_s: float = 5.0, most: int = 2000) -> Reconciler:
        api = StripeApi(parse_key(SecretStr(KEY)), self.stripe.url, connect_s=1.0, total_s=total_s)
        self.closers.append(api.close)
        runs = await Runs.connect(self.settings.database_url)
        return Reconciler(
            lists=Lists(api, RateLimit(100), timetable=QUICK, chance=lambda: 0.5),
            runs=runs,
            event_log=self.log,
            on_the_way=partial(
                ids_on_the_way,
                self.settings.kafka,
                f"{self.settings.topic_prefix}.worker",
                self.settings.events_topic,
            ),
            clock=lambda: NOW,
            most=most,
        )

    async def run(self, *accounts: str, **asked: Any) -> list[ReconcileReport]:
        wired = await self.reconciler()
        try:
            return await wired.run(ReconcileRequest(**asked), accounts or [""])
        finally:
            wired.runs.close()

    async def applied(self, *ids: str) -> None:
        """Insert ledger rows for these event ids, as if the events had been applied."""
        async with self.store.transaction([]) as transaction:
            await transaction.flush(Flush(known(), ledger=[ledger_row(id_) for id_ in ids]))

    def records(self) -> list[Record]:
        return read_all(self.settings.kafka_bootstrap, self.settings.events_topic)

    async def ids(self) -> list[str]:
        return [record.headers["event_id"] for record in await asyncio.to_thread(self.records)]

    async def process(self) -> Counter[str]:
        """Process the whole log as a worker does; return the ledger's outcomes and their counts."""
        letters = DeadLetterPublisher(self.settings.kafka, self.settings.dead_topic)
        processor = Processor(
            store=self.store, dead_letters=letters, rules=RULES, config=CONFIG, group="test.worker", code_version="1"
        )
        await processor.process(await asyncio.to_thread(self.records))
        letters.close()
        connection = await asyncpg.connect(self.settings.database_url.get_secret_value())
        try:
            return Counter(row["outcome"] for row in await connection.fetch("SELECT outcome FROM billing.events"))
        finally:
            await connection.close()

    def environment(self, folder: Path) -> dict[str, str]:
        config = folder / "billing.toml"
        config.write_text('[endpoints.default]\nsecrets = ["whsec_1"]\n')
        return {
            "BILLING_KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "BILLING_TOPIC_PREFIX": self.settings.topic_prefix,
            "BILLING_DATABASE_URL": self.settings.database_url.get_secret_value(),
            "BILLING_CONFIG": str(config),
            "BILLING_STRIPE_API_KEY": KEY,
            "BILLING_STRIPE_API_BASE": self.stripe.url,
            "BILLING_STRIPE_CALLS_PER_SECOND": "100",
        }

    async def ask_billing(self, folder: Path, *arguments: str, **settings: str) -> Ended:
        """Run the command in its own process, since it configures logging for the whole process. Limit: 90 s."""
        done = await asyncio.to_thread(clikit.billing, arguments, self.environment(folder) | settings)
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def running(self, folder: Path, name: str, **settings: str) -> Iterator[clikit.ForkedProcess]:
        """`billing NAME` as a process, with its output in NAME.log of the folder."""
        with clikit.running([name], self.environment(folder) | settings, folder / f"{name}.log") as process:
            yield process


@asynccontextmanager
async def open_kit(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[ReconcileKit]:
    settings = Settings(
        kafka_bootstrap=kafka_bootstrap,
        database_url=database,
        config_path=Path("unused"),
        topic_prefix=topic_prefix,
        partitions=3,
    )
    ensure_topics(settings)
    store = await Store.connect(database, pool_size=2)
    log = EventAppender(KafkaAccess(kafka_bootstrap), settings.events_topic, client_id="test")
    async with ListingStripe() as stripe:
        made = ReconcileKit(settings, stripe, log, store)
        yield made
        for close in made.closers:
            await close()
    log.close()
    await store.close()


async def send(desk: ReconcileKit, listed: Sequence[Json], received_at: datetime = NOW) -> None:
    """Append these events to the log with the headers that the gateway sets."""
    headers = [
        RecordHeaders(item["id"], item["type"], Source.STRIPE, "", False, item["api_version"], "default", received_at)
        for item in listed
    ]
    await desk.log.append(
        [
            Entry(ordering_key(item).encode(), orjson.dumps(item), header.encode())
            for item, header in zip(listed, headers, strict=True)
        ]
    )
