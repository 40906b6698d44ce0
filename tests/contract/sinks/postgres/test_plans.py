"""No command and no poll reads a big table completely, with 200,000 events and the planner's default settings.

The queries run; Postgres counts the rows that sequential scans have read.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from analytics.book import Book
from analytics.store import FigureStore
from scheduler.due_timers import DueTimers
from schemas.figures import Owner
from schemas.references import References
from schemas.settings import Config
from sinks.email.outbox import Outbox
from sinks.exports.archive import write_archive
from sinks.exports.orders import ExportOrders
from sinks.feed.notifications import Notifications
from sinks.outbox.claims import Claims
from sinks.postgres import prune, queries, tables
from sinks.postgres.dead_letter_index import DeadLetterIndex, LetterFilter
from sinks.postgres.gauges import COUNTS
from sinks.postgres.lists import (
    dead,
    events,
    find,
    money,
    outboxes,
    overview,
    samples,
)
from sinks.postgres.lists.events import EventFilter, Place
from sinks.postgres.pool import connect, make_pool, reading
from sinks.postgres.prune import Age
from sinks.postgres.rows import ErasureRow, Flush
from sinks.postgres.store import Store
from sinks.stripe_calls.calls import Calls
from tests.kits.storekit import ask, known
from tests.waiting import eventually

MANY = 200_000
SOME = 50_000
NOW = datetime.now(UTC)
_FILL = {
    "events": (
        MANY,
        "(event_id, type, stream, customer_id, created, received_at, applied_at, outcome, partition, \"offset\", "
        "payload) SELECT 'evt_' || n, 'invoice.paid', 'invoices', 'cus_' || n / 10, now(), "
        "now() - n * interval '1 min', now() - n * interval '1 min', "
        "CASE WHEN n % 1000 = 0 THEN 'dead' ELSE 'applied' END, n % 12, n, '{}'",
    ),
    "emails": (
        MANY,
        "(email_key, event_id, customer_id, template, status, queued_at, next_attempt_at) SELECT 'm_' || n, "
        "'evt_' || n, 'cus_' || n / 10, 'payment-receipt', CASE WHEN n % 5000 = 0 THEN 'failed' ELSE 'sent' END, "
        "now() - n * interval '1 min', now()",
    ),
    "timers": (
        MANY,
        "(timer_key, account, customer_id, kind, subject, due_at, status, event_id) SELECT 't_' || n, '', "
        "'cus_' || n / 10, 'k', 's', now() - n * interval '1 s', "
        "CASE WHEN n % 1000 = 0 THEN 'pending' ELSE 'done' END, 'evt_' || n",
    ),
    "payments": (
        SOME,
        "(payment_id, account, invoice_id, charge_id, customer_id, amount, currency, status) SELECT 'pay_' || n, '', "
        "'in_' || n, 'ch_' || n, 'cus_' || n, 1, 'eur', CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'succeeded' END",
    ),
    "customers": (SOME, "(account, customer_id, email, name) SELECT '', 'cus_' || n, n || '@example.com', 'Ada ' || n"),
    "subscriptions": (
        SOME,
        "(account, subscription_id, customer_id, status) SELECT '', 'sub_' || n, 'cus_' || n, 'active'",
    ),
    "stripe_calls": (
        SOME,
        "(call_key, event_id, customer_id, method, path, status, queued_at, next_attempt_at) SELECT 'c_' || n, "
        "'evt_' || n, 'cus_' || n, 'POST', '/x', CASE WHEN n % 5000 = 0 THEN 'failed' ELSE 'done' END, "
        "now() - n * interval '1 min', now()",
    ),
    "exports": (
        SOME,
        "(export_key, event_id, customer_id, organization_id, status, requested_at, next_attempt_at, expires_at) "
        "SELECT 'x_' || n, 'evt_' || n, 'cus_' || n, 'org_' || n, 'deleted', "
        "now() - n * interval '1 min', now(), now()",
    ),
    "dead_letters": (
        SOME,
        "(consumer_group, topic, partition, \"offset\", event_id, customer_id, stage, error_class, message, "
        "first_failed_at, last_failed_at, status) SELECT 'g', 't', n % 12, n, 'evt_' || n, 'cus_' || n, 'rule', 'E', "
        "'m', now(), now() - n * interval '1 min', CASE WHEN n % 1000 = 0 THEN 'open' ELSE 'resolved' END",
    ),
    "payment_methods": (
        SOME,
        "(account, payment_method_id, customer_id, exp_year, exp_month) SELECT '', 'pm_' || n, 'cus_' || n, "
        "2000 + n % 60, 1 + n % 12",
    ),
    "notifications": (
        20_000,
        "(notification_key, event_id, customer_id, destination, message_id, type, occurred_at, status, queued_at, "
        "next_attempt_at) SELECT 'n_' || n, 'evt_' || n, 'cus_' || n, 'd', 'msg_' || n, 'access.changed', now(), "
        "CASE WHEN n % 5000 = 0 THEN 'failed' ELSE 'sent' END, now() - n * interval '1 min', now()",
    ),
}  # fmt: skip
_FACTS = f"""
INSERT INTO analytics.facts (event_id, account, livemode, owner, kind, subject, created, rank, data)
SELECT 'evt_' || n, '', true, 'cus_' || n / 10, 'invoice_paid', 'in_' || n, now() - n * interval '1 min', 50,
    '{{"id": "in_1", "currency": "eur", "amount_due": 1}}' FROM generate_series(1, {SOME}) n
"""
_RISKS = """
INSERT INTO analytics.risks (account, livemode, owner, subscription_id, began_at, currency, mrr, outcome)
SELECT '', true, 'cus_' || n, 'sub_' || n, now(), 'eur', n, CASE WHEN n % 100 = 0 THEN 'open' ELSE 'lost' END
FROM generate_series(1, 5000) n
"""
_READ = f"""
SELECT coalesce(string_agg(relname || ': ' || seq_tup_read, ', '), '') FROM pg_stat_user_tables
WHERE (schemaname = 'billing' AND relname = ANY('{{{",".join(_FILL)}}}') OR relname = 'facts') AND seq_tup_read > 0
"""


@pytest.fixture
async def filled(database: SecretStr) -> SecretStr:
    await ask(database, "ALTER TABLE billing.notifications DISABLE TRIGGER number_notification")  # ten times as fast
    for table, (rows, columns) in _FILL.items():
        await ask(database, f"INSERT INTO billing.{table} {columns} FROM generate_series(1, {rows}) n")
    await ask(database, _FACTS)
    await ask(database, _RISKS)
    await ask(database, "ALTER TABLE billing.notifications ENABLE TRIGGER number_notification")
    await ask(database, "ANALYZE")
    return database


async def test_no_query_reads_a_big_table(filled: SecretStr, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function of the modules in _MODULES takes part."""
    assert await _rows_read(filled, _reads_all) == f"emails: {MANY}"  # the measure works
    left = set()
    for module in _MODULES:
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                left.add(function)
                monkeypatch.setattr(module, name, _noting(function, left))
    found = {name: await _rows_read(filled, work) for name, work in _WORK.items()}
    assert {name: read for name, read in found.items() if read} == {}
    assert {f"{function.__module__}.{function.__name__}" for function in left} == _COUNTS_ALL


def _noting(function: Callable[..., Awaitable[Any]], left: set[Any]) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any, **more: Any) -> Any:
        left.discard(function)
        return await function(*arguments, **more)

    return call


async def _rows_read(url: SecretStr, work: Callable[[SecretStr], Awaitable[None]]) -> str:
    """Names the big tables that sequential scans have read, and the number of rows."""
    await ask(url, "SELECT pg_stat_reset()")
    await work(url)
    is_alone = (
        "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid())"
    )
    # A session reports its counts when it ends.
    await eventually(lambda: ask(url, is_alone))
    return str(await ask(url, _READ))


async def _reads_all(url: SecretStr) -> None:
    async with reading(url) as connection:
        await connection.execute(text("SELECT count(data) FROM billing.emails"))


async def _store(url: SecretStr) -> None:
    store = await Store.connect(url, pool_size=1)
    async with store.transaction([("t", 0)]) as work:
        await work.seen([f"evt_{n}" for n in range(1, 500)])
        await work.load(
            References(
                customers={("", f"cus_{n}") for n in range(1, 200)},
                payments={("", f"in_{n}") for n in range(1, 200)},
                timers={"t_1", "t_2"},
            )
        )
    await store.close()


async def _erasure(url: SecretStr) -> None:
    store = await Store.connect(url, pool_size=1)
    erasure = ErasureRow(
        event_id="evt_e",
        account="",
        customer_id="cus_7",
        organization_id="org_7",
        asked_at=NOW,
        erased_at=NOW,
        kafka_until=None,
        dead_letters_kept=timedelta(days=1),
    )
    async with store.transaction([("t", 0)]) as work:
        await work.flush(Flush(known(), erasure=erasure))
    await store.close()


async def _export(url: SecretStr) -> None:
    pool = await make_pool(url, application="test", max_size=1)
    async with pool.acquire() as connection:
        await write_archive(connection, io.BytesIO(), account="", customer_id="cus_7", organization_id="org_7")
    await pool.close()


async def _event(url: SecretStr) -> None:
    async with reading(url) as connection:
        event = await queries.ledger_row(connection, "evt_77")
        assert event is not None
        await queries.outboxes_of_event(connection, "evt_77")
        await queries.rows_by_event(connection, tables.timers, "evt_77")
        await queries.effects_of_event(connection, event)
        await queries.dead_letters_of_event(connection, "evt_77")
        await queries.event_overview(connection, "evt_77", "t")
        await queries.emails_of_event(connection, "evt_77")
        due = {"type": "timer.dunning", "payload": {"data": {"object": {"subject": "in_77"}}}}
        assert await queries.subject_of_timer(connection, event | due)
        await events.neighbours(connection, event)


async def _customer(url: SecretStr) -> None:
    async with reading(url) as connection:
        assert await queries.customer_overview(connection, "", "cus_7") is not None
        await queries.disputes_of_customer(connection, "", "cus_7")
        await samples.changes_since(connection, "", "cus_7", NOW - timedelta(days=1))
        await samples.changes_kept_since(connection, "", "cus_7")
        assert (await queries.customer_state(connection, "", "cus_7"))["customers"]


async def _find(url: SecretStr) -> None:
    for wanted in (
        *("evt_77", "cus_7", "sub_7", "in_7", "ch_7", "pm_7", "dp_7", "t_7", "m_7", "c_7", "<none@example.com>"),
        *("7@EXAMPLE.com", "ada 777", "t/7/7", "dead/0/7", "nothing at all"),
    ):
        async with reading(url) as connection:
            await find.find(connection, wanted, dead_topic="dead")


async def _lists(url: SecretStr) -> None:
    day = NOW - timedelta(days=1)
    for wanted in (
        EventFilter(),
        EventFilter(type="invoice.*", outcome="dead", since=day),
        EventFilter(outcome="waiting", since=day),
        EventFilter(customer="cus_7"),
        EventFilter(before=Place(day, "evt_1440")),
    ):
        async with reading(url) as connection:
            await events.listed(connection, wanted)
    async with reading(url) as connection:
        await events.rate(connection, NOW - timedelta(hours=1))
        await events.latency(connection, NOW - timedelta(hours=1))
        for status in ("", "failed", "withheld"):
            await outboxes.entries(connection, "emails", status=status)
        await outboxes.timers(connection)
        await outboxes.timer(connection, "t_77")
        await outboxes.calendar(connection)
        await outboxes.failed(connection, "emails", until=NOW)
        await events.processed_since(connection, NOW - timedelta(hours=1), most=100)
        await outboxes.entry(connection, "emails", "m_77")
        await samples.newest_applied(connection, "invoice.paid", None)
        for listed in (dead.groups, dead.money_of_groups):
            await listed(connection)


async def _money(url: SecretStr) -> None:
    async with reading(url) as connection:
        for listed in (
            *(money.failed_invoices, money.recovery_by_step, money.recovery_by_month, money.decline_reasons),
            *(money.movements_by_month, money.customers_at_risk),
        ):
            await listed(connection)
        await money.expiring_cards(connection, NOW)
        await money.ended_invoices(connection, NOW - timedelta(days=1))
        await money.movements(connection, month="2026-01")


async def _status(url: SecretStr) -> None:
    async with reading(url) as connection:
        for panel in (
            *(overview.brakes, overview.letters, overview.waiting, overview.outboxes, overview.outages),
            *(overview.late_timers, overview.unknown_prices, overview.runs, overview.outages),
            *(overview.money_behind_failures, overview.money_strip, overview.scheduled, overview.shadow),
        ):
            await panel(connection)


def _claims(kind: type[Claims[Any]]) -> Callable[[SecretStr], Awaitable[None]]:
    async def work(url: SecretStr) -> None:
        claims = await kind.connect(url, claimer="a", pool_size=1)
        await claims.list(status="failed", limit=20)
        await claims.list(status=None, limit=20)
        await claims.list(status=None, customer_id="cus_7", limit=20)
        assert await claims.requeue(keys=None, limit=5)
        await claims.has_due()
        await claims.depth()
        await claims.claim(5)
        await claims.close()

    return work


async def _orders(url: SecretStr) -> None:
    orders = await ExportOrders.connect(url, claimer="a", application="test")
    await orders.claim(1)
    await orders.close()


async def _letters(url: SecretStr) -> None:
    async with DeadLetterIndex.open(url) as index:
        await index.find(LetterFilter(statuses=("open",), limit=20), newest_first=True)
        await index.find(LetterFilter(ids=("evt_1000",)))
        await index.counts(LetterFilter(statuses=("open",)))
        await index.find(LetterFilter(statuses=("open",), since=NOW - timedelta(days=1), born_since=NOW))
        await index.unsettled_events(since=NOW - timedelta(days=2), until=None, types=(), limit=100)
        await index.kept_events(["evt_1", "evt_2"])


async def _polls(url: SecretStr) -> None:
    timers = await DueTimers.connect(url, lambda: None)
    async with timers.turn() as turn:
        assert turn is not None
        assert await turn.due(NOW, 10)
        await turn.waiting_events(["evt_1"])
    await timers.next_due()
    timers.close()
    connection = await connect(url, application="test")
    await connection.fetch(COUNTS)
    await connection.close()


async def _prune(url: SecretStr) -> None:
    connection = await connect(url, application="test")
    ages = dict.fromkeys(Age, timedelta(days=136))  # a day is left of 200,000 minutes' events
    await prune.prune(connection, ages)
    await connection.close()


async def _figures(url: SecretStr) -> None:
    store = await FigureStore.connect(url)
    book, owner = Book(store, Config(), tail_most=4, tail_kept=2), Owner("", True, "cus_7")
    async with store.transaction([]) as transaction:
        await transaction.owners_after(None, 10)
        await book.recompute(transaction, [owner])
        assert await transaction.checkpoints_of([owner])
        await book.update(transaction, {owner: NOW})
    await store.close()


_MODULES = (queries, dead, events, find, money, outboxes, overview, samples)
_COUNTS_ALL = {"sinks.postgres.lists.dead.counts"}
"""The number of letters by status, on one page. `billing prune` bounds the table."""
_WORK: dict[str, Callable[[SecretStr], Awaitable[None]]] = {
    "batch": _store,
    "export": _export,
    "event": _event,
    "customer": _customer,
    "find": _find,
    "lists": _lists,
    "status": _status,
    "money": _money,
    "notifications": _claims(Notifications),
    "prune": _prune,
    "figures": _figures,
    "mail": _claims(Outbox),
    "calls": _claims(Calls),
    "export orders": _orders,
    "dead letters": _letters,
    "polls": _polls,
    "erasure": _erasure,
}
