"""State is a function of the log: applying the log to an empty database gives the same rows, or diff reports it."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson
import pytest
from confluent_kafka import TopicPartition
from pydantic import SecretStr

from eventlog import client
from eventlog.append import EventAppender
from eventlog.dead_letters import DeadLetterPublisher
from eventlog.entry import Entry
from eventlog.timer_entry import timer_entry
from eventlog.topics import ensure_topics
from local.stripe import payments
from local.stripe.builder import ApiShape, StripeEvents
from recovery.rebuild import comparison, rebuild
from recovery.rebuild.excuses import LATER, PRUNED, REMOVED, WAITS
from recovery.rebuild.runs import NotEmpty
from scheduler.due_timers import DueTimers
from scheduler.timers import Scheduler
from schemas.kafka_access import KafkaAccess
from schemas.ordering import ordering_key
from schemas.record import RecordHeaders, Source
from schemas.settings import Config, InvalidSettings, Plan, Settings
from schemas.state import Timer
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.outboxes import BY_TABLE
from sinks.postgres.store import Store
from sinks.postgres.timer_changes import FIRED_EARLY, TimerChanges
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.chaos.history import deliveries, in_order
from tests.chaos.log import ends, read_all
from tests.kits import clikit
from tests.kits.storekit import ask, fetch

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONFIG = Config(
    plans={
        "free": Plan(name="Free", limits={"seats": 1}),
        "starter": Plan(name="Starter", prices=("price_starter_monthly",), limits={"seats": 5}),
        "pro": Plan(name="Pro", prices=("price_pro_monthly",), limits={"seats": 50}),
    }
)
Billing = Callable[..., Awaitable["subprocess.CompletedProcess[str]"]]
JUNK = (b"{", b'{"id": 7}')


@dataclass
class Live:
    """Runs the worker's and the scheduler's steps on one log and one database, when the test asks for it."""

    settings: Settings
    store: Store
    letters: DeadLetterPublisher
    log: EventAppender
    now: datetime = NOW
    done: dict[int, int] = field(default_factory=dict)
    """The next offset of each partition."""

    async def send(self, bodies: list[bytes]) -> None:
        await self.log.append([_entry(body) for body in bodies])

    async def work(self, batch: int = 37) -> None:
        """Apply the new records of the log, one partition after the other."""
        processor = Processor(
            store=self.store,
            dead_letters=self.letters,
            rules=RULES,
            config=CONFIG,
            group=f"{self.settings.topic_prefix}.worker",
            code_version="1",
            clock=lambda: self.now,
        )
        on_log = await asyncio.to_thread(read_all, self.settings.kafka_bootstrap, self.settings.events_topic)
        records = [record for record in on_log if record.offset >= self.done.get(record.partition, 0)]
        self.done |= {record.partition: record.offset + 1 for record in records}
        for start in range(0, len(records), batch):
            await processor.process(records[start : start + batch])

    async def fire_timers(self, after: timedelta) -> None:
        self.now = NOW + after
        scheduler = Scheduler(
            lambda wake: DueTimers.connect(self.settings.database_url, wake), self.log, clock=lambda: self.now
        )
        while await scheduler.fire_due():
            continue
        scheduler.close()

    async def rows(self, query: str) -> list[dict[str, Any]]:
        return await _rows(self.settings.database_url, query)


def _entry(body: bytes) -> Entry:
    if body in JUNK:
        return Entry(b"junk", body, ())
    event = orjson.loads(body)
    headers = RecordHeaders(event["id"], event["type"], Source.STRIPE, "", False, "", "default", NOW)
    return Entry(ordering_key(event).encode(), body, headers.encode())


async def _rows(url: SecretStr, query: str) -> list[dict[str, Any]]:
    return await fetch(url, query)


def history(seed: int, events: int, customers: int) -> list[bytes]:
    """Customer histories with late, duplicate and malformed events, and two records that are not events."""
    lives = in_order(seed, events, customers, int(NOW.timestamp()))
    bodies = [delivery.body for delivery in deliveries(seed, lives)]
    chance = random.Random(seed)
    for junk in JUNK:
        bodies.insert(chance.randrange(len(bodies)), junk)
    return bodies


@pytest.fixture
async def live(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[Live]:
    settings = Settings(
        kafka_bootstrap=kafka_bootstrap,
        database_url=database,
        config_path=Path("unused"),
        topic_prefix=topic_prefix,
        partitions=3,
    )
    ensure_topics(settings)
    store = await Store.connect(database, pool_size=2)
    opened = Live(
        settings,
        store,
        DeadLetterPublisher(KafkaAccess(kafka_bootstrap), settings.dead_topic),
        EventAppender(KafkaAccess(kafka_bootstrap), settings.events_topic, client_id="test"),
    )
    yield opened
    await store.close()
    opened.letters.close()
    opened.log.close()


@pytest.fixture
async def blank(postgres_url: str) -> AsyncIterator[SecretStr]:
    """Another database, without tables."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    await ask(SecretStr(postgres_url), f"CREATE DATABASE {name}")
    yield SecretStr(urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}")))
    await ask(SecretStr(postgres_url), f"DROP DATABASE {name} WITH (FORCE)")


async def test_the_log_applied_again_gives_the_same_rows(live: Live, blank: SecretStr) -> None:
    """With late and duplicate events, poison, fired timers and erased customers. The rebuild sends nothing."""
    await live.send(history(1, 1200, 50))
    await live.work()
    await live.fire_timers(timedelta(days=20))
    await live.work(batch=11)
    await live.fire_timers(timedelta(days=60))
    await live.work(batch=500)
    letters_before = ends(live.settings.kafka_bootstrap, live.settings.dead_topic)

    rebuilt = await rebuild.run(live.settings, CONFIG, blank)
    found = await comparison.run(live.settings.database_url, blank)

    assert found.differences == []
    assert found.is_equal
    assert not found.excused
    assert not rebuilt.removed
    assert rebuilt.outcomes["duplicate"] > 50
    assert {"applied", "stale", "ignored", "dead"} <= rebuilt.outcomes.keys()
    # The comparison covers something: each kind of row occurs.
    compared = ("events", "customers", "subscriptions", "payments", "timers", "emails", "dead_letters", "erasures")
    assert not [(table, found.rows[table]) for table in compared if found.rows[table] < 3]
    assert ends(live.settings.kafka_bootstrap, live.settings.dead_topic) == letters_before
    for table in BY_TABLE:
        statuses = {row["status"] for row in await _rows(blank, f"SELECT DISTINCT status FROM billing.{table}")}
        assert statuses <= {"suppressed", "failed", "deleted"}, table  # the latter two: erased before they were sent
    assert await _rows(blank, "SELECT 1 FROM billing.emails WHERE status = 'suppressed'")
    positions = await _rows(blank, "SELECT partition, next_offset FROM billing.positions ORDER BY partition")
    assert [tuple(row.values()) for row in positions] == sorted(live.done.items())
    assert await _rows(blank, "SELECT 1 FROM billing.timers WHERE status = 'pending'") == await live.rows(
        "SELECT 1 FROM billing.timers WHERE status = 'pending'"
    )
    # What `billing prune` has deleted is no difference, but only as far as its runs went.
    for table in ("dead_letters", "exports"):
        assert await ask(live.settings.database_url, f"SELECT count(*) FROM billing.{table}")
        await ask(live.settings.database_url, f"DELETE FROM billing.{table}")
    entry = (
        "INSERT INTO billing.audit_log (who, role, action, filter, outcome) VALUES ('s', 'cli', 'prune', $1, 'done')"
    )
    await ask(live.settings.database_url, entry, '{"records": "36500 days"}')
    found = await comparison.run(live.settings.database_url, blank)
    assert found.different.keys() == {"dead_letters", "exports"}
    await ask(live.settings.database_url, entry, '{"records": "0 days"}')
    pruned = await comparison.run(live.settings.database_url, blank)
    assert (pruned.differences, pruned.excused) == ([], {PRUNED: found.different})


async def test_timers_that_an_operator_fired_early_act_at_once_and_the_same_in_a_rebuild(
    live: Live, blank: SecretStr
) -> None:
    await live.send(history(3, 300, 20))
    await live.work()
    pending = await live.rows("SELECT timer_key, kind, due_at FROM billing.timers WHERE status = 'pending'")
    changes = TimerChanges(live.settings.database_url, application="test")

    async def append(timer: Timer) -> None:
        await live.log.append([timer_entry(timer, live.now)])

    fired = []
    for timer in pending:
        entry = AuditEntry(who="sam", role="operator", action="console.timer.fire", target=timer["timer_key"])
        is_fired = await changes.fire(timer["timer_key"], timer["due_at"], entry, append)
        assert is_fired == (timer["kind"] in FIRED_EARLY)
        fired += [timer] if is_fired else []
    assert any(timer["due_at"] > live.now for timer in fired)
    mails = "SELECT count(*) FROM billing.emails"
    before = await ask(live.settings.database_url, mails)
    await live.work()
    after = await ask(live.settings.database_url, mails)
    assert after > before
    keys = [timer["timer_key"] for timer in fired if timer["kind"] != "retry"]
    left = "SELECT count(*) FROM billing.timers WHERE timer_key = ANY($1) AND status = 'done'"
    assert await ask(live.settings.database_url, left, keys) == len(keys)

    await rebuild.run(live.settings, CONFIG, blank)

    assert (await comparison.run(live.settings.database_url, blank)).differences == []
    assert await ask(blank, mails) == after


async def test_waiting_events_end_the_same_and_open_ones_are_reported_separately(live: Live, blank: SecretStr) -> None:
    """Refunds of payments that come later, never, or not yet; and an invoice payment that is dead-lettered."""
    make, at = StripeEvents(ApiShape.OLD), int(NOW.timestamp())

    def refunded(charge: str) -> bytes:
        obj = payments.refund(make, f"re_{charge}", charge=charge, payment_intent=None, created=at)
        return orjson.dumps(make.event("refund.created", obj, at, id_=f"evt_{charge}"))

    link = payments.invoice_payment(make, invoice="in_never", created=at)
    dies = orjson.dumps(make.event("invoice_payment.paid", link, at, id_="evt_in_never"))
    await live.send([refunded(f"ch_{number}") for number in range(6)] + [refunded("ch_never"), dies])
    await live.work()
    assert {row["outcome"] for row in await live.rows("SELECT outcome FROM billing.events")} == {"waiting"}
    for number in range(6):
        paid = make.invoice(f"in_{number}", customer=f"cus_{number}", status="paid", created=at)
        await live.send([orjson.dumps(make.event("invoice.paid", paid, at, id_=f"evt_in_{number}"))])
    for hours in (0.1, 30, 73):
        await live.fire_timers(timedelta(hours=hours))
        await live.work()
    await live.send([refunded("ch_late")])
    await live.work()
    outcomes = {
        row["event_id"]: row["outcome"] for row in await live.rows("SELECT event_id, outcome FROM billing.events")
    }
    assert outcomes.pop("evt_in_never") == "dead"
    assert outcomes.pop("evt_ch_late") == "waiting"
    assert set(outcomes.values()) == {"applied"}

    await rebuild.run(live.settings, CONFIG, blank)
    found = await comparison.run(live.settings.database_url, blank)

    assert found.differences == []
    assert found.rows["payments"] == 8  # one only in the rebuilt database: the waiting event reaches its limit there
    assert found.excused == {WAITS: {"events": 2, "dead_letters": 1, "payments": 1, "payment_links": 1}}


CHANGES = {
    "subscriptions": "UPDATE billing.subscriptions SET status = 'unpaid' WHERE subscription_id = (SELECT "
    "min(subscription_id) FROM billing.subscriptions WHERE status <> 'unpaid') RETURNING subscription_id",
    "customers": "UPDATE billing.customers SET email = 'x@example.com' WHERE customer_id = (SELECT max(customer_id) "
    "FROM billing.customers) RETURNING customer_id",
    "payments": "DELETE FROM billing.payments WHERE payment_id = (SELECT min(payment_id) FROM billing.payments) "
    "RETURNING payment_id",
    "events": "UPDATE billing.events SET outcome = 'ignored' WHERE event_id = (SELECT min(event_id) FROM "
    "billing.events WHERE outcome = 'applied') RETURNING event_id",
    "emails": "INSERT INTO billing.emails (email_key, event_id, template, queued_at, next_attempt_at) "
    "VALUES ('invented', 'evt_0', 'payment-receipt', now(), now()) RETURNING email_key",
    "timers": "UPDATE billing.timers SET due_at = due_at + interval '1 second' WHERE timer_key = (SELECT "
    "min(timer_key) FROM billing.timers) RETURNING timer_key",
}


async def test_what_was_changed_by_hand_is_found_and_nothing_else(
    live: Live, blank: SecretStr, billing: Billing
) -> None:
    await live.send(history(2, 200, 10))
    await live.work()

    made = await billing("rebuild", "--into", blank.get_secret_value(), "--json")
    assert made.returncode == 0, made.stderr
    assert orjson.loads(made.stdout)["records"] > 200
    same = await billing("diff", "--with", blank.get_secret_value())
    assert same.returncode == 0, same.stderr
    assert same.stdout.endswith("equal\n")

    changed = {table: await ask(live.settings.database_url, change) for table, change in CHANGES.items()}
    diffed = await billing("diff", "--with", blank.get_secret_value(), "--json")

    assert diffed.returncode == 1
    found = orjson.loads(diffed.stdout)
    assert found["different"] == dict.fromkeys(CHANGES, 1)
    assert {one["table"]: one["key"][-1] for one in found["differences"]} == changed
    by_table = {one["table"]: one for one in found["differences"]}
    assert by_table["payments"]["only_in"] == "rebuilt"
    assert by_table["emails"]["only_in"] == "live"
    assert by_table["subscriptions"]["columns"].keys() == {"status"}
    assert by_table["events"]["columns"]["outcome"] == {"live": "ignored", "rebuilt": "applied"}

    again = await billing("rebuild", "--into", blank.get_secret_value())
    assert again.returncode == 1
    assert "not empty" in again.stderr


async def test_later_events_and_events_removed_by_retention_are_reported_separately(
    live: Live, blank: SecretStr
) -> None:
    """Only customers with events that the rebuild could not read may differ, and diff gives the reason."""
    bodies = history(3, 300, 12)
    await live.send(bodies)
    await live.work()
    topic, admin = live.settings.events_topic, client.admin(live.settings.kafka)
    for deletion in admin.delete_records([TopicPartition(topic, 1, 9)]).values():
        deletion.result(timeout=30)

    rebuilt = await rebuild.run(live.settings, CONFIG, blank)
    assert rebuilt.removed == {1: 9}
    await live.send(history(4, 40, 4))
    await live.work()
    found = await comparison.run(live.settings.database_url, blank)

    assert found.removed == {1: 9}
    assert found.differences == []
    assert found.excused.keys() == {REMOVED, LATER}
    assert found.excused[LATER]["events"] > 30
    assert found.excused[REMOVED]["events"] in range(1, 10)

    # A reason excuses only the customers it is about.
    untouched = (
        "SELECT min(customer_id) FROM billing.customers WHERE customer_id LIKE 'cus_3_%' AND customer_id <> ALL ($1)"
    )
    partition_1 = [row["customer_id"] for row in await live.rows(_OF_REMOVED)]
    await ask(
        live.settings.database_url,
        f"UPDATE billing.customers SET name = 'Changed' WHERE customer_id = ({untouched})",
        partition_1,
    )
    found = await comparison.run(live.settings.database_url, blank)
    assert [(one.table, set(one.columns)) for one in found.differences] == [("customers", {"name"})]


_OF_REMOVED = (
    "SELECT DISTINCT customer_id FROM billing.events WHERE partition = 1 AND \"offset\" < 9 AND customer_id > ''"
)


async def test_a_database_in_use_is_refused(live: Live) -> None:
    await live.send(history(5, 20, 2))
    await live.work()
    with pytest.raises(NotEmpty, match="not empty"):
        await rebuild.run(live.settings, CONFIG, live.settings.database_url)
    with pytest.raises(InvalidSettings, match="same database"):
        rebuild.target_of(live.settings.database_url.get_secret_value(), live.settings)


@pytest.fixture
def billing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, live: Live) -> Billing:
    """Runs `billing` in a process of its own, with the settings of the live system."""
    (tmp_path / "billing.toml").write_text(
        '[plans.free]\nname = "Free"\nlimits = { seats = 1 }\n'
        '[plans.starter]\nname = "Starter"\nprices = ["price_starter_monthly"]\nlimits = { seats = 5 }\n'
        '[plans.pro]\nname = "Pro"\nprices = ["price_pro_monthly"]\nlimits = { seats = 50 }\n'
    )
    monkeypatch.setenv("BILLING_KAFKA_BOOTSTRAP", live.settings.kafka_bootstrap)
    monkeypatch.setenv("BILLING_TOPIC_PREFIX", live.settings.topic_prefix)
    monkeypatch.setenv("BILLING_CONFIG", str(tmp_path / "billing.toml"))
    monkeypatch.setenv("BILLING_DATABASE_URL", live.settings.database_url.get_secret_value())

    async def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if name.startswith("BILLING_")}
        return await asyncio.to_thread(clikit.billing, words, env)

    return run
