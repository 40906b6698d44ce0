"""What Stripe has told and never arrived comes onto the log once, whatever Stripe and we ourselves do meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from local.stripe_events import StripeEvents
from ops.backlog import BacklogTooLong, ids_on_the_way
from ops.reconcile_schedule import ReconcileSchedule
from ops.topics import ensure_topics
from schemas.ordering import ordering_key
from schemas.record import RecordHeaders, Source
from schemas.settings import Config, Endpoint, Mode, Settings
from sinks.dead_letters import DeadLetters
from sinks.event_log import Entry, EventLog
from sinks.outbox.pauses import Timetable
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from sinks.reconcile.events import AnotherIsAtIt, Asked, Reconciler, connected_accounts
from sinks.reconcile.listing import Lists
from sinks.reconcile.objects import Comparison, repair
from sinks.reconcile.report import Report
from sinks.reconcile.runs import Runs
from sinks.stripe_api.api import StripeApi
from sinks.stripe_api.key import parse_key
from sinks.stripe_api.rate import RateLimit
from streams.catalog import RULES
from streams.process import Processor
from streams.record import Record
from tests.chaos.log import read_all
from tests.storekit import ask, known, ledger_row, until
from tests.stripelist import KEY, Json, ListingStripe

NOW = datetime.now(UTC).replace(microsecond=0)
CONFIG = Config(endpoints={"default": Endpoint(mode=Mode.TEST, secrets=(SecretStr("whsec_1"),))})
QUICK = Timetable(first=timedelta(seconds=0.01), factor=2, tries=4)


def event(number: int, *, ago: timedelta, customer: str = "cus_1", account: str | None = None, **more: Any) -> Json:
    make = StripeEvents(account=account)
    at = int((NOW - ago).timestamp())
    made = make.event("customer.updated", make.customer(customer, created=at), at, id_=f"evt_{number:05}")
    return made | more


def events(count: int, *, over: timedelta = timedelta(hours=23), first: int = 0) -> list[Json]:
    """Evenly over the time up to ten minutes ago, the oldest first, of twenty customers."""
    least = timedelta(minutes=10)
    pause = (over - least) / count
    return [event(first + at, ago=over - pause * at, customer=f"cus_{at % 20}") for at in range(count)]


@dataclass
class Desk:
    """Stripe, the log and the ledger of one test."""

    settings: Settings
    stripe: ListingStripe
    log: EventLog
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
                self.settings.kafka_bootstrap,
                f"{self.settings.topic_prefix}.worker",
                self.settings.events_topic,
            ),
            clock=lambda: NOW,
            most=most,
        )

    async def run(self, *accounts: str, **asked: Any) -> list[Report]:
        wired = await self.reconciler()
        try:
            return await wired.run(Asked(**asked), accounts or [""])
        finally:
            wired.runs.close()

    async def applied(self, *ids: str) -> None:
        """Into the ledger, as if they had come."""
        async with self.store.transaction([]) as transaction:
            await transaction.flush(Flush(known(), ledger=[ledger_row(id_) for id_ in ids]))

    def records(self) -> list[Record]:
        return read_all(self.settings.kafka_bootstrap, self.settings.events_topic)

    async def ids(self) -> list[str]:
        return [record.headers["event_id"] for record in await asyncio.to_thread(self.records)]

    async def process(self) -> Counter[str]:
        """A worker over the whole log; the ledger's outcomes."""
        letters = DeadLetters(self.settings.kafka_bootstrap, self.settings.dead_topic)
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
        config.write_text('[endpoints.default]\nmode = "test"\nsecrets = ["whsec_1"]\n')
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("BILLING_")},
            "BILLING_KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "BILLING_TOPIC_PREFIX": self.settings.topic_prefix,
            "BILLING_DATABASE_URL": self.settings.database_url.get_secret_value(),
            "BILLING_CONFIG": str(config),
            "BILLING_STRIPE_API_KEY": KEY,
            "BILLING_STRIPE_API_BASE": self.stripe.url,
            "BILLING_STRIPE_CALLS_PER_SECOND": "100",
        }

    async def billing(self, folder: Path, *words: str, **settings: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ops.cli", *words,
            env=self.environment(folder) | settings, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture
async def desk(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[Desk]:
    settings = Settings(
        kafka_bootstrap=kafka_bootstrap,
        database_url=database,
        config_path=Path("unused"),
        topic_prefix=topic_prefix,
        partitions=3,
    )
    ensure_topics(settings)
    store = await Store.connect(database, pool_size=2)
    log = EventLog(kafka_bootstrap, settings.events_topic, client_id="test")
    async with ListingStripe() as stripe:
        made = Desk(settings, stripe, log, store)
        yield made
        for close in made.closers:
            await close()
    log.close()
    await store.close()


async def test_what_never_arrived_comes_onto_the_log_as_stripe_wrote_it(desk: Desk) -> None:
    """In order of time within each customer, under the customer's key, with its source."""
    told = events(2500)
    desk.stripe.tell(*told)
    arrived = [one["id"] for at, one in enumerate(told) if at % 5]
    await desk.applied(*arrived)

    (report,) = await desk.run()

    missing = [one for at, one in enumerate(told) if at % 5 == 0]
    assert (report.listed, report.missing, report.fed, report.trouble) == (2500, 500, 500, None)
    assert report.by_type == {"customer.updated": 500}
    assert report.by_age.keys() == {"under an hour", "1 to 6 hours", "6 to 24 hours"}
    assert report.oldest_missing == datetime.fromtimestamp(missing[0]["created"], UTC)
    records = await asyncio.to_thread(desk.records)
    assert sorted(record.headers["event_id"] for record in records) == sorted(one["id"] for one in missing)
    for customer in {one["data"]["object"]["id"] for one in missing}:
        theirs = [record for record in records if record.key == customer.encode()]
        assert [record.headers["event_id"] for record in theirs] == [
            one["id"] for one in missing if one["data"]["object"]["id"] == customer
        ]
    record = records[0]
    assert record.value is not None
    assert b'\n          "object": "customer",' in record.value.replace(b"\r", b"")  # indented as in the list
    assert record.headers["source"] == "reconcile"
    assert record.headers["api_version"] == orjson.loads(record.value)["api_version"]
    assert await desk.process() == {"applied": 2500}
    assert len(desk.stripe.requests) < 60  # a page is 100, and slices fit themselves to what there is

    (report,) = await desk.run()
    assert (report.missing, report.fed) == (0, 0)


async def test_a_dry_run_sends_nothing_and_remembers_nothing(desk: Desk) -> None:
    desk.stripe.tell(*events(30))
    (report,) = await desk.run(dry_run=True)
    assert (report.missing, report.fed) == (30, 0)
    assert await desk.ids() == []
    assert await ask(desk.settings.database_url, "SELECT count(*) FROM billing.reconciliations") == 0


async def test_what_is_young_or_on_the_log_already_is_not_missing(desk: Desk) -> None:
    """A backlog is no loss: what the worker has yet to come to is counted apart and not sent again."""
    desk.stripe.tell(
        event(1, ago=timedelta(minutes=4)), event(2, ago=timedelta(hours=1)), event(3, ago=timedelta(hours=1))
    )
    waiting = event(2, ago=timedelta(hours=1))
    headers = RecordHeaders("evt_00002", waiting["type"], Source.STRIPE, "", False, "", "default", NOW.isoformat())
    await desk.log.append([Entry(ordering_key(waiting).encode(), orjson.dumps(waiting), headers.encode())])

    (report,) = await desk.run()

    assert (report.listed, report.on_the_way, report.missing) == (2, 1, 1)
    assert sorted(await desk.ids()) == ["evt_00002", "evt_00003"]
    with pytest.raises(BacklogTooLong, match="2 records behind"):
        ids_on_the_way(desk.settings.kafka_bootstrap, "nobody", desk.settings.events_topic, most=1)


async def test_trouble_is_waited_out_and_repeats_count_once(desk: Desk) -> None:
    """429 for as long as Stripe asks for; 500, 502, a broken connection and no answer for a while."""
    desk.stripe.tell(*events(700))
    desk.stripe.repeats = True
    desk.stripe.faults.extend(["ok", "429", "500", "drop", "ok", "html", "500", "ok", "hang", "ok"])
    wired = await desk.reconciler(total_s=0.5, most=400)
    try:
        (report,) = await wired.run(Asked(), [""])
    finally:
        wired.runs.close()
    assert (report.missing, report.fed, report.trouble) == (700, 700, None)
    assert Counter(await desk.ids()) == Counter(f"evt_{number:05}" for number in range(700))
    refused = 1
    assert desk.stripe.at[refused + 1] - desk.stripe.at[refused] >= 1.0  # Retry-After
    assert KEY not in str(report)


async def test_lasting_trouble_ends_the_run_and_the_next_takes_it_up(desk: Desk) -> None:
    desk.stripe.tell(*events(900))
    wired = await desk.reconciler(most=200)
    desk.stripe.faults.extend(["ok"] * 12 + ["500"] * 4)
    try:
        (report,) = await wired.run(Asked(), [""])
    finally:
        wired.runs.close()
    assert report.trouble is not None
    assert "HTTP 500" in report.trouble
    assert 0 < report.fed < 900
    query = "SELECT last_error FROM billing.reconciliations WHERE ended_at IS NULL"
    assert await ask(desk.settings.database_url, query) == report.trouble

    (rest,) = await desk.run()
    assert rest.resumed_at is not None
    assert (rest.fed + report.fed, rest.trouble) == (900, None)
    assert Counter(await desk.ids()) == Counter(f"evt_{number:05}" for number in range(900))
    assert await ask(desk.settings.database_url, "SELECT count(*) FROM billing.reconciliations") == 1


async def test_a_killed_run_goes_on_where_it_was(desk: Desk, tmp_path: Path) -> None:
    """kill -9 in the middle of the list; the command again: every event is on the log once."""
    told = events(6000)
    desk.stripe.tell(*told)
    desk.stripe.hang_at = 45
    first = await desk.billing(tmp_path, "reconcile")
    async with asyncio.timeout(60):
        while len(desk.stripe.requests) < 45:  # noqa: ASYNC110  # another process makes them
            await asyncio.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    await first.communicate()
    sent = await desk.ids()
    assert 0 < len(sent) < 6000
    desk.stripe.hang_at = None

    second = await desk.billing(tmp_path, "reconcile", "--json")
    out, err = await second.communicate()

    assert second.returncode == 0, err.decode()
    (report,) = orjson.loads(out)
    assert report["resumed_at"] is not None
    assert report["listed"] < 6000
    assert Counter(await desk.ids()) == Counter(one["id"] for one in told)
    assert KEY.encode() not in out + err


async def test_two_at_once_do_it_once(desk: Desk) -> None:
    desk.stripe.tell(*events(500))
    desk.stripe.slow_s = 0.02
    one, other = await desk.reconciler(), await desk.reconciler()
    ended = await asyncio.gather(*(wired.run(Asked(), [""]) for wired in (one, other)), return_exceptions=True)
    one.runs.close()
    other.runs.close()
    assert Counter(type(end).__name__ for end in ended) == {"list": 1, "AnotherIsAtIt": 1}
    assert len(await desk.ids()) == 500
    assert any(isinstance(end, AnotherIsAtIt) for end in ended)


async def test_each_connected_account_is_asked_in_its_name(desk: Desk) -> None:
    """The list lacks its name, on the log the event has it, as the webhook's would. One that left stops no other."""
    desk.stripe.accounts = ["acct_1", "acct_2"]
    desk.stripe.tell(event(1, ago=timedelta(hours=1)))
    desk.stripe.tell(event(2, ago=timedelta(hours=2)), account="acct_1")
    desk.stripe.tell(event(3, ago=timedelta(hours=3), account="acct_2"), account="acct_2")

    wired = await desk.reconciler()
    accounts = await connected_accounts(wired.lists)
    reports = await wired.run(Asked(), ["", *accounts, "acct_gone"])
    wired.runs.close()

    assert accounts == ["acct_2", "acct_1"]
    assert [report.fed for report in reports] == [1, 1, 1, 0]
    assert reports[-1].trouble is not None
    assert "account_invalid" in reports[-1].trouble
    found = {record.headers["event_id"]: record for record in await asyncio.to_thread(desk.records)}
    for event_id, account in (("evt_00001", None), ("evt_00002", "acct_1"), ("evt_00003", "acct_2")):
        record = found[event_id]
        assert orjson.loads(record.value or b"").get("account") == account
        assert record.headers["account"] == (account or "")
        assert record.key == (f"{account}/cus_1" if account else "cus_1").encode()
    assert await desk.process() == {"applied": 3}


async def test_only_what_was_asked_for(desk: Desk) -> None:
    mine = StripeEvents().event("invoice.finalized", StripeEvents().invoice(), int(NOW.timestamp()) - 4000, id_="evt_i")
    desk.stripe.tell(*events(3), mine)
    desk.stripe.undelivered = {"evt_00001"}
    assert [report.fed for report in await desk.run(types=("invoice.finalized",))] == [1]
    assert await desk.ids() == ["evt_i"]
    assert [report.fed for report in await desk.run(undelivered_only=True)] == [1]
    assert sorted(await desk.ids()) == ["evt_00001", "evt_i"]
    (report,) = await desk.run()
    assert report.resumed_at is None
    assert report.fed == 2


async def test_a_key_of_the_other_mode_is_refused(desk: Desk, tmp_path: Path) -> None:
    """And so is an event of the other mode, whatever the key says."""
    live = await desk.billing(tmp_path, "reconcile", BILLING_STRIPE_API_KEY=KEY.replace("test", "live"))
    _, err = await live.communicate()
    assert live.returncode == 2
    assert b"is of live mode" in err
    assert not desk.stripe.requests

    desk.stripe.tell(event(1, ago=timedelta(hours=1), livemode=True))
    (report,) = await desk.run()
    assert report.trouble is not None
    assert "not of test mode" in report.trouble
    assert await desk.ids() == []


async def test_the_command_says_what_is_missing(desk: Desk, tmp_path: Path) -> None:
    desk.stripe.tell(*events(5))
    dry = await desk.billing(tmp_path, "reconcile", "--dry-run", "--since", "1d")
    out, _ = await dry.communicate()
    assert dry.returncode == 3
    assert b"5 listed, 0 on the way, 5 missing, nothing sent" in out
    assert b"customer.updated" in out
    wrong = await desk.billing(tmp_path, "reconcile", "--since", "yesterday")
    await wrong.communicate()
    assert wrong.returncode == 2


def subscription(number: int, **more: Any) -> Json:
    start = int(NOW.timestamp()) - 1000
    return StripeEvents().subscription(f"sub_{number}", customer=f"cus_{number}", start=start, **more)


def invoice(number: int, **more: Any) -> Json:
    at = int(NOW.timestamp()) - 900
    return StripeEvents().invoice(
        f"in_{number}", customer=f"cus_{number}", subscription=f"sub_{number}", created=at, **more
    )


async def test_drift_is_told_field_by_field_and_repaired_through_the_log(desk: Desk) -> None:
    """One that we never heard of, one that was cancelled, one payment that failed here and was made there."""
    make, at = StripeEvents(), int(NOW.timestamp()) - 800
    before = [
        make.event("customer.subscription.created", subscription(number), at, id_=f"evt_s{number}")
        for number in (1, 2, 3)
    ]
    before += [make.event("invoice.payment_failed", invoice(2), at, id_="evt_f2")]
    before += [make.event("invoice.paid", invoice(3, status="paid"), at, id_="evt_p3")]
    await send(desk, before)
    await desk.process()
    later = int(NOW.timestamp()) - 100
    desk.stripe.lists = {
        ("", "subscriptions"): [
            subscription(1, status="canceled", canceled_at=later, ended_at=later),
            subscription(2),
            subscription(3),
            subscription(4, cancel_at_period_end=True),
        ],
        ("", "invoices"): [invoice(1), invoice(2, status="paid", paid_at=at + 10), invoice(3, status="paid")],
    }
    wired = await desk.reconciler()
    wired.runs.close()
    comparison = await Comparison.connect(wired.lists, desk.settings.database_url)
    report = await comparison.drift("", NOW - timedelta(days=30), settle_s=0)

    assert report.trouble is None
    assert report.compared == {"subscription": 4, "invoice": 3}
    drifts = {drift.id: drift for drift in report.drifts}
    assert drifts.keys() == {"sub_1", "sub_2", "sub_4", "in_2"}
    assert drifts["sub_1"].fields == {"status": ("canceled", "active")}
    assert drifts["sub_2"].fields == {"status": ("active", "past_due")}
    assert drifts["sub_4"].missing
    assert drifts["in_2"].fields == {"paid": (True, False)}

    queued = await repair(report.drifts, desk.log, livemode=False, clock=lambda: NOW)
    assert queued == 4
    sources = Counter(record.headers["source"] for record in await asyncio.to_thread(desk.records))
    assert sources == {"stripe": 5, "reconcile": 4}
    await desk.process()
    assert (await comparison.drift("", NOW - timedelta(days=30), settle_s=0)).drifts == []
    query = "SELECT count(*) FROM billing.emails WHERE template = 'payment-receipt' AND customer_id = 'cus_2'"
    assert await ask(desk.settings.database_url, query) == 1
    comparison.close()


async def send(desk: Desk, told: Sequence[Json]) -> None:
    headers = [
        RecordHeaders(one["id"], one["type"], Source.STRIPE, "", False, one["api_version"], "default", NOW.isoformat())
        for one in told
    ]
    await desk.log.append(
        [
            Entry(ordering_key(one).encode(), orjson.dumps(one), header.encode())
            for one, header in zip(told, headers, strict=True)
        ]
    )


async def test_the_command_compares_and_repairs(desk: Desk, tmp_path: Path) -> None:
    desk.stripe.lists = {("", "subscriptions"): [subscription(1)]}
    only_told = await desk.billing(tmp_path, "reconcile", "--objects", "--settle", "0", "--json")
    out, err = await only_told.communicate()
    assert only_told.returncode == 3, err.decode()
    (report,) = orjson.loads(out)
    assert report["by_field"] == {"missing": 1}
    repaired = await desk.billing(tmp_path, "reconcile", "--objects", "--repair", "--settle", "0")
    out, _ = await repaired.communicate()
    assert repaired.returncode == 0
    assert b"1 subscriptions compared, 1 differ, 1 queued" in out
    assert await desk.process() == {"applied": 1}


async def test_the_schedule_reconciles_and_outlives_trouble(desk: Desk) -> None:
    """Stripe down, then up: the second try finds what is missing; then it rests for its pause."""
    desk.stripe.tell(*events(10))
    settings = desk.settings.model_copy(
        update={"stripe_api_key": SecretStr(KEY), "stripe_api_base": desk.stripe.url, "stripe_calls_per_second": 100.0}
    )
    desk.stripe.key = "sk_test_another"
    schedule = ReconcileSchedule(
        settings, CONFIG, every=timedelta(hours=1), clock=lambda: datetime.now(UTC), retry=timedelta(seconds=0.1)
    )
    running = asyncio.create_task(schedule.run())

    async def is_troubled() -> bool:
        return "HTTP 401" in schedule.note()

    async def is_done() -> bool:
        query = "SELECT count(*) FROM billing.reconciliations WHERE ended_at IS NOT NULL"
        return bool(await ask(desk.settings.database_url, query))

    await until(is_troubled)
    desk.stripe.key = KEY
    await until(is_done)
    asked = len(desk.stripe.requests)
    assert len(await desk.ids()) == 10
    assert len(desk.stripe.requests) == asked
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_the_scheduler_runs_it_beside_the_timers(desk: Desk, tmp_path: Path) -> None:
    desk.stripe.tell(*events(10))
    started = time.monotonic()
    process = await desk.billing(tmp_path, "scheduler", BILLING_RECONCILE_EVERY_S="3600")

    async def is_done() -> bool:
        query = "SELECT count(*) FROM billing.reconciliations WHERE ended_at IS NOT NULL"
        return bool(await ask(desk.settings.database_url, query))

    try:
        await until(is_done, timeout=60)
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert len(await desk.ids()) == 10
    assert time.monotonic() - started < 60
