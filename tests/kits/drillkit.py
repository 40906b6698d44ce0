"""A business that changes over from another handler, in simulated time: Stripe, the log, the tables, every outbox."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr

from analytics.compute import figures_of
from analytics.facts import fact_of, is_counted
from eventlog.dead_letters import DeadLetterPublisher
from eventlog.entry import Entry
from local.stripe.builder import ApiShape
from local.stripe.simulator.books import Books, Json, StripeEvent
from local.stripe.simulator.company import Company
from local.stripe.simulator.delivery import Trouble, plan_delivery
from local.stripe.simulator.prices import PLANS
from local.stripe.simulator.server import StripeServer
from recovery.audit.audit import AuditReport
from recovery.imports.importer import ImportReport, Progress
from recovery.imports.wiring import importer
from scheduler.due_timers import DueTimers
from scheduler.timers import Scheduler
from schemas.figures import Fact, Movement
from schemas.record import Source
from schemas.settings import Config, Mail, Plan
from schemas.state import Timer
from schemas.timer import timer_event
from schemas.verdict import Dead
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.chaos.log import LogReader
from tests.faulty_mailbox import FaultyMailbox
from tests.kits.auditkit import AuditKit
from tests.kits.clikit import billing
from tests.kits.feedkit import ReceiverServer, destination
from tests.kits.reconcilekit import ReconcileKit, open_kit
from tests.kits.shadowkit import settle
from tests.kits.storekit import fetch

DAY_S = 86_400
MONTH_S = 30 * DAY_S
WEEK = 7
TROUBLE = Trouble(duplicates=0.05, disorder=0.05)


@dataclass
class Drill:
    """`books` are Stripe's. Everything happens at the time of `company`'s clock, which ends at the real one."""

    company: Company
    server: StripeServer
    desk: ReconcileKit
    mailbox: FaultyMailbox
    receiver: ReceiverServer
    config: Config
    folder: Path
    log: LogReader
    dead: list[Dead] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    """Of every record, by class."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each step has taken, in real time."""
    _delivered: int = 0

    @property
    def books(self) -> Books:
        return self.company.stripe.books

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.company.stripe.clock.now, UTC)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to `seconds`."""
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    # -- the steps of docs/going-live.md ---------------------------------------------------------------------------

    async def billing(self, *words: str, code: int = 0) -> str:
        """Run a command as an operator types it, and return its output."""
        ended = await asyncio.to_thread(billing, words, self.environment())
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout

    async def import_(self, since: datetime) -> ImportReport:
        """Import, while the company lives on: ten minutes pass with each page."""
        settings = self.desk.settings

        def live_on(_: Progress) -> None:
            self.company.live_until(self.company.stripe.clock.now + 600)

        async with importer(settings, self.config, "") as wired:
            report = await replace(wired, clock=lambda: self.now).run(since, live_on)
        await self.deliver()
        return report

    async def live(self, until: datetime) -> None:
        """Let days pass: Stripe's events, due timers, and what the dispatcher does, day by day."""
        while self.now < until:
            self.company.live_until(min(int(until.timestamp()), self.company.stripe.clock.now + DAY_S))
            await self.deliver()
            await self.process()
            await self.fire()
            await self.process()
            await settle(self.desk.settings, self.config)
            await self.deliver()  # what the calls have changed
            await self.process()
            await self.fire()
            await self.process()

    async def deliver(self) -> None:
        """Append the new events as the gateway does, some twice and some in another order."""
        events = self.books.events[self._delivered :]
        self._delivered += len(events)
        plan = plan_delivery(events, TROUBLE, f"{self.company.seed}/{self._delivered}")
        entries = [self._entry(one.event) for one in plan.deliveries]
        for first in range(0, len(entries), 500):
            await self.desk.log.append(entries[first : first + 500])

    def begin_delivery(self) -> None:
        """The endpoint exists from now on: earlier events never arrive."""
        self._delivered = len(self.books.events)

    async def fire(self) -> None:
        """Append the timers that are due, and the events that wait for something that has come meanwhile."""
        url, soon = self.desk.settings.database_url, timedelta(minutes=10)
        scheduler = Scheduler(lambda wake: DueTimers.connect(url, wake), self.desk.log, clock=lambda: self.now + soon)
        while await scheduler.fire_due():
            pass
        scheduler.close()

    async def process(self) -> None:
        """Apply the records of the log that were not applied yet, as the worker does."""
        records = await asyncio.to_thread(self.log.read)
        settings = self.desk.settings
        letters = DeadLetterPublisher(settings.kafka, settings.dead_topic)
        processor = Processor(
            store=self.desk.store, dead_letters=letters, rules=RULES, config=self.config,
            group=f"{settings.topic_prefix}.worker", code_version="1", clock=lambda: self.now,
        )  # fmt: skip
        for first in range(0, len(records), 200):
            for verdict in await processor.process(records[first : first + 200]):
                self.verdicts[type(verdict).__name__] += 1
                if isinstance(verdict, Dead):
                    self.dead.append(verdict)
        await asyncio.to_thread(letters.close)

    async def audit(self) -> AuditReport:
        kit = AuditKit(self.desk, self.company, self.server, self.config)
        return await kit.audit(grace=timedelta(seconds=30))

    # -- what is true ----------------------------------------------------------------------------------------------

    async def rows(self, query: str) -> list[dict[str, Any]]:
        return await fetch(self.desk.settings.database_url, query)

    async def timers_set_at(self) -> Mapping[str, datetime]:
        """When the event that set a timer happened, by the id of the timer's own event."""
        query = (
            "SELECT timer_key, t.account, t.customer_id, kind, subject, due_at, created FROM billing.timers t"
            " JOIN billing.events USING (event_id) WHERE created IS NOT NULL"
        )
        rows = await self.rows(query)
        return {timer_event(Timer(**row))["id"]: created for row in rows if (created := row.pop("created"))}

    async def mrr(self, months: Sequence[datetime]) -> Mapping[str, list[int]]:
        """The MRR of each customer at each of these times, by the records of the log."""
        records = await asyncio.to_thread(self.desk.records)
        return _mrr((record.value for record in records if record.value is not None), months, self.config)

    def true_mrr(self, months: Sequence[datetime]) -> Mapping[str, list[int]]:
        """The MRR as it was at these times: by all events of Stripe, in the order in which they happened.

        Discounts are rendered as before clover, with their coupons.
        """
        events = [event for event in self.books.events if is_counted(event.type)]
        values = (orjson.dumps(event.render(_shape_with_coupon(event.type))) for event in events)
        return _mrr(values, months, self.config, in_turn=True)

    def changed_without_invoice(self) -> set[str]:
        """Customers of whom Stripe's objects do not show each change: of prices, pauses and trials."""
        found: set[str] = set()
        for event in self.books.events:
            if event.type == "customer.subscription.updated":
                data = event.render()["data"]
                if {"items", "pause_collection", "trial_end"} & data["previous_attributes"].keys():
                    found.add(data["object"]["customer"])
        return found

    def discounted_since(self, moment: datetime) -> set[str]:
        """Customers with a later discount: its event only names the coupon, so invoices have to show it."""
        return self._of_discounts("created", lambda at: at >= moment.timestamp())

    def discounted_until(self, moment: datetime) -> set[str]:
        """Customers with a discount that has ended before this time: no object shows it."""
        return self._of_discounts("deleted", lambda at: at < moment.timestamp())

    def _of_discounts(self, what: str, is_then: Callable[[int], bool]) -> set[str]:
        events = [one for one in self.books.events if one.type == f"customer.discount.{what}" and is_then(one.created)]
        return {event.render()["data"]["object"]["customer"] for event in events}

    def environment(self) -> dict[str, str]:
        more = {"BILLING_STRIPE_API_BASE": self.server.url, "BILLING_STRIPE_API_KEY": self.server.key}
        return self.desk.environment(self.folder) | more

    def _entry(self, event: StripeEvent) -> Entry:
        return Entry.of(event.render(), source=Source.STRIPE, received_at=self.now, livemode=False)


def _shape_with_coupon(type_: str) -> ApiShape:
    return ApiShape.OLD if type_.startswith("customer.discount.") else ApiShape.NEW


def _mrr(
    values: Iterable[bytes], moments: Sequence[datetime], config: Config, *, in_turn: bool = False
) -> dict[str, list[int]]:
    """`in_turn`: within one second the given order counts, and not the rank of the types."""
    facts: dict[str, dict[str, Fact]] = defaultdict(dict)
    for value in values:
        if (fact := fact_of(value)) is not None:
            own = facts[fact.owner]
            own.setdefault(fact.event_id, replace(fact, rank=len(own)) if in_turn else fact)
    found = {}
    for owner, own in facts.items():
        rows = [row for row in figures_of(own.values(), config) if isinstance(row, Movement)]
        found[owner] = [sum(row.amount for row in rows if row.at <= moment) for moment in moments]
    return found


@asynccontextmanager
async def open_drill(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, folder: Path, *, customers: int, months: int
) -> AsyncIterator[Drill]:
    """Yield a company that has lived until eight days ago, with no event delivered."""
    end = int(datetime.now(UTC).timestamp()) - 60
    company = Company(customers, months, 11, end)
    company.begin()
    company.live_until(end - (WEEK + 1) * DAY_S)
    async with (
        open_kit(kafka_bootstrap, database, topic_prefix) as desk,
        FaultyMailbox() as mailbox,
        ReceiverServer() as receiver,
        StripeServer(company.stripe) as server,
    ):
        server.clock = lambda: datetime.fromtimestamp(company.stripe.clock.now + 1, UTC)
        desk.settings = desk.settings.model_copy(
            update={
                "smtp_url": SecretStr(mailbox.url), "state_dir": folder, "stripe_api_key": SecretStr(server.key),
                "stripe_api_base": server.url, "stripe_calls_per_second": 100.0,
            }
        )  # fmt: skip
        config = Config(
            plans={name: Plan(name=name, prices=prices) for name, prices in {"odd": ("price_odd",), **PLANS}.items()},
            mail=Mail(
                sender="Acme <billing@example.com>",
                send_test_mode=True,
                not_before=datetime.fromtimestamp(company.stripe.clock.now, UTC),
            ),
        )
        config = config.model_copy(
            update={"feed": config.feed.model_copy(update={"destinations": {"app": destination(receiver.url)}})}
        )
        log = LogReader(kafka_bootstrap, desk.settings.events_topic)
        drill = Drill(company, server, desk, mailbox, receiver, config, folder, log)
        drill.begin_delivery()
        yield drill


def old_rows(books: Books, wrong: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """The old handler's table of subscriptions: id, customer and status, of which `wrong` are wrong."""
    return [(one["id"], one["customer"], wrong.get(one["id"], one["status"])) for one in _sorted(books)]


def _sorted(books: Books) -> list[Json]:
    return sorted(books.all("subscription"), key=lambda one: str(one["id"]))
