"""No command and no poll reads a big table completely, with 200,000 events and the planner's default settings.

The queries run; Postgres counts the rows that sequential scans have read.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from analytics.book import Book
from analytics.store import FigureStore
from console.app import ROUTES
from console.web import addresses
from recovery.rebuild.excuses import Excuses
from scheduler.due_timers import DueTimers
from schemas.console_settings import Role
from schemas.figures import Owner
from schemas.references import References
from schemas.settings import Config
from sinks.email.outbox import MailOutbox
from sinks.exports.archive import write_archive
from sinks.exports.orders import ExportOrders
from sinks.feed.notifications import Notifications
from sinks.outbox.claims import Claims
from sinks.payloads.archive import PayloadArchive
from sinks.postgres import prune, queries, tables
from sinks.postgres.dead_letter_index import DeadLetterIndex, LetterFilter
from sinks.postgres.gauges import COUNTS
from sinks.postgres.lists import (
    checks,
    dead,
    events,
    find,
    money,
    outboxes,
    overview,
    samples,
)
from sinks.postgres.lists.events import EventFilter, ListPosition
from sinks.postgres.pool import connect, make_pool, reading
from sinks.postgres.prune import Age
from sinks.postgres.rows import ErasureRow, Flush
from sinks.postgres.store import Store
from sinks.stripe_calls.calls import Calls
from tests.kits.bigkit import MANY, fill, rows_read
from tests.kits.consolekit import console_settings, serving
from tests.kits.storekit import known

NOW = datetime.now(UTC)


@pytest.fixture
async def filled(database: SecretStr) -> SecretStr:
    await fill(database)
    return database


async def test_no_query_reads_a_big_table(filled: SecretStr, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function of the modules in _MODULES takes part."""
    assert await rows_read(filled, _reads_all) == f"emails: {MANY}"  # the measure works
    left = set()
    for module in _MODULES:
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                left.add(function)
                monkeypatch.setattr(module, name, _noting(function, left))
    found = {name: await rows_read(filled, work) for name, work in _WORK.items()}
    assert {name: read for name, read in found.items() if read} == {}
    assert {f"{function.__module__}.{function.__name__}" for function in left} == _COUNTS_ALL


def _noting(function: Callable[..., Awaitable[Any]], left: set[Any]) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any, **more: Any) -> Any:
        left.discard(function)
        return await function(*arguments, **more)

    return call


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
                timers_of={("k", ""), ("l", "s"), ("acme*", "")},
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
        await write_archive(
            connection, io.BytesIO(), PayloadArchive(""), account="", customer_id="cus_7", organization_id="org_7"
        )
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
        await queries.payload_key(connection, "evt_77")
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
        await samples.first_applied(connection, "", "cus_7")
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
        EventFilter(before=ListPosition(day, "evt_1440")),
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
        await outboxes.mailing(connection)
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
        await money.recovery_by_reason(connection, NOW - timedelta(days=1))
        await money.movements(connection, month="2026-01")
        await money.moved(connection, since=date(2026, 1, 1), until=date(2026, 1, 31))


async def _checks(url: SecretStr) -> None:
    async with reading(url) as connection:
        await checks.reconciliations(connection)
        await checks.audits(connection)
        for run_id in (None, 7):
            await checks.differences(connection, run_id)
        for kind in ("reconcile", "audit"):
            await checks.last_complete(connection, kind)


async def _status(url: SecretStr) -> None:
    async with reading(url) as connection:
        for panel in (
            *(overview.brakes, overview.letters, overview.waiting, overview.outboxes, overview.outages),
            *(overview.late_timers, overview.unknown_prices, overview.runs, overview.outages),
            *(overview.money_strip, overview.scheduled, overview.shadow, overview.compared),
        ):
            await panel(connection)
        await overview.money_behind_failures(connection, {("", f"cus_{at}"): 1 for at in range(500)})


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


async def _pages(url: SecretStr) -> None:
    """Opens every page of the console but the dead letters, whose counts by status are of a whole table."""

    async def not_behind() -> list[Any]:
        return []

    async with serving(console_settings(url, "127.0.0.1:9", "plans", Path("unused"))) as anyone:
        vars(anyone.console.lag)["read"] = not_behind
        admin = await anyone.signed_in(Role.ADMIN)
        for address in addresses(ROUTES, _PAGES):
            assert (await admin.get(address)).status in (200, 303), address  # one hit of a search opens at once


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


async def _excuses(url: SecretStr) -> None:
    """What `billing diff` asks for besides the rows that it compares."""
    connection = await connect(url, application="test")
    excuses = await Excuses.of(connection, {0: (5, 9)})
    excuses.note_event({"account": "", "customer_id": "cus_7", "partition": 0, "offset": 1})
    await excuses.complete()
    await excuses.find_objects()
    assert excuses.owners.keys() == {("", "cus_7")}
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


_PAGES = {
    "/events": (
        "/events",
        "/events?type=invoice.*",
        "/events?outcome=dead&since=all",
        "/events?customer=cus_7&since=all",
    ),
    "/events/{event_id}": ("/events/evt_77",),
    "/customers/{customer_id}": ("/customers/cus_7",),
    "/customers/{customer_id}/past": ("/customers/cus_7/past?at=2026-01-01",),
    "/search": ("/search?q=7@example.com", "/search?q=Ada 777", "/search?q=in_7"),
    "/dead": (),
    "/dead/letters/{event_id}": ("/dead/letters/evt_77",),
    "/dead/replay": ("/dead/replay?type=no.such",),
    "/dead/rehearsal": ("/dead/rehearsal?type=no.such",),
    "/dead/discard": ("/dead/discard?type=no.such",),
    "/brake/release": (),
    "/outboxes/{name}": ("/outboxes/stripe_calls", "/outboxes/exports?status=failed", "/outboxes/notifications"),
    "/outboxes/{name}/requeue": ("/outboxes/emails/requeue",),
    "/mails": ("/mails", "/mails?status=failed"),
    "/mails/{key}": ("/mails/m_77",),
    "/timers/fire": (),
    "/checks/{kind}": ("/checks/reconcile", "/checks/audit"),
    "/jobs/{key}": (),
    "/revenue/movements": ("/revenue/movements?month=2026-11",),
}
_MODULES = (queries, checks, dead, events, find, money, outboxes, overview, samples)
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
    "checks": _checks,
    "pages": _pages,
    "notifications": _claims(Notifications),
    "prune": _prune,
    "excuses": _excuses,
    "figures": _figures,
    "mail": _claims(MailOutbox),
    "calls": _claims(Calls),
    "export orders": _orders,
    "dead letters": _letters,
    "polls": _polls,
    "erasure": _erasure,
}
