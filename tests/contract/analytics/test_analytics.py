"""The analytics tables on real Postgres: any delivery order gives the same rows, and a recount then changes nothing."""

from __future__ import annotations

import asyncio
import csv
import io
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import orjson
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import CheckConstraint, Connection, inspect

from analytics.book import Book
from analytics.compute import figures_of
from analytics.facts import fact_of, is_counted
from analytics.queries import Scope, figures
from analytics.store import FigureStore, FigureTransaction
from analytics.tables import metadata
from local.demo.people import DemoStep
from local.demo.story import story
from local.stripe.builder import Json
from schemas.csv_text import csv_text
from schemas.figures import FIGURE_TYPES, Figure
from schemas.settings import Config, Plan
from sinks.postgres.lists import money
from sinks.postgres.pool import make_engine, reading
from tests.kits.analyticskit import BASIC, BEGIN, CONFIG, TEAM, discounted, make
from tests.kits.clikit import billing
from tests.kits.storekit import ask


@dataclass(frozen=True)
class Delivery:
    """The parts of one record that the book reads."""

    type: str
    value: bytes
    topic: str = "t.events"
    partition: int = 0
    offset: int = 0


def delivery(event: Json) -> Delivery:
    return Delivery(event["type"], orjson.dumps(event))


DELIVERIES = [
    delivery(event) for event in [*(step.event for step in story(BEGIN) if isinstance(step, DemoStep)), *discounted()]
]


@pytest.fixture
async def figure_store(database: SecretStr) -> AsyncIterator[FigureStore]:
    opened = await FigureStore.connect(database)
    yield opened
    await opened.close()


@pytest.fixture
def book(figure_store: FigureStore) -> Book:
    return Book(figure_store, CONFIG)


async def rows(store: FigureStore) -> set[Figure]:
    async with store.transaction([]) as transaction:
        return set(await transaction.figures_of(await transaction.owners_after(None, 1000)))


def expected(deliveries: Sequence[Delivery]) -> set[Figure]:
    """The rows computed by the pure functions alone, without the store."""
    facts = [fact for one in deliveries if is_counted(one.type) and "on_fire" not in str(one.value)
             if (fact := fact_of(one.value))]  # fmt: skip
    owners = {fact.of for fact in facts}
    return {row for of in owners for row in figures_of([fact for fact in facts if fact.of == of], CONFIG)}


@pytest.mark.parametrize(("seed", "tail"), [(0, 64), (1, 64), (0, 0), (2, 2), (3, 1)])
async def test_any_order_batching_and_repetition_give_the_same_rows(
    figure_store: FigureStore, seed: int, tail: int
) -> None:
    """Whether an owner's older facts are in a checkpoint or not."""
    chance, book = random.Random(seed), Book(figure_store, CONFIG, tail_most=tail, tail_kept=max(1, tail // 2))
    delivered = DELIVERIES + chance.sample(DELIVERIES, 12)
    if seed:
        chance.shuffle(delivered)
    while delivered:
        size = chance.randrange(1, 9)
        await book.take(delivered[:size])
        delivered = delivered[size:]
    stored = await rows(book.store)
    assert stored == expected(DELIVERIES)
    assert {type(row) for row in stored} == set(FIGURE_TYPES)


async def test_the_counts_are_returned(book: Book) -> None:
    counted = await book.take(DELIVERIES)
    assert counted.unreadable == 1  # the status that does not exist
    assert counted.passed + counted.facts + counted.unreadable == len(DELIVERIES)
    assert counted.rows == len(expected(DELIVERIES))
    again = await book.take(DELIVERIES)
    assert (again.facts, again.rows) == (counted.facts, 0)


async def test_only_the_row_that_postgres_refuses_is_left_out(book: Book) -> None:
    """An id may be too long for an index."""
    long_id = random.Random(1).randbytes(8_000).hex()
    bad = delivery(make.event("invoice.paid", make.invoice(long_id, status="paid"), BEGIN))
    assert fact_of(bad.value) is not None
    counted = await book.take([*DELIVERIES[:6], bad, *DELIVERIES[6:]])
    assert counted.unreadable == 2
    assert await rows(book.store) == expected(DELIVERIES)


async def test_a_recount_repairs_what_was_changed_and_finds_nothing_else(
    book: Book, figure_store: FigureStore, database: SecretStr
) -> None:
    await book.take(DELIVERIES)
    await ask(database, "UPDATE analytics.movements SET amount = amount + 1 WHERE kind = 'new'")
    await ask(database, "DELETE FROM analytics.payments")
    await ask(database, "INSERT INTO analytics.risks SELECT '', false, 'cus_none', 's', now(), 'eur', 1, 'open', null")
    async with figure_store.transaction([]) as transaction:
        assert await book.recompute(transaction, await transaction.owners_after(None, 1000)) > 3
        assert await transaction.drop_strays() == 1
    assert await rows(figure_store) == expected(DELIVERIES)
    async with figure_store.transaction([]) as transaction:
        assert await book.recompute(transaction, await transaction.owners_after(None, 1000)) == 0


async def test_the_report_of_all_payments_is_the_one_of_the_single_payments(book: Book, database: SecretStr) -> None:
    """It reads one row for each customer. Those of an earlier version are summed up when analytics starts."""
    await book.take(DELIVERIES)
    async with reading(database) as connection:
        found = await figures(connection, Scope(), "currency")
        every = await figures(connection, Scope(since=date(2000, 1, 1)), "currency")
    assert found == every
    assert found["payments"][0]["payments"] > 0
    await ask(database, "DELETE FROM analytics.payment_totals")
    async with reading(database) as connection:
        assert await figures(connection, Scope(), "currency") == found
    for _ in range(2):
        filled = await FigureStore.connect(database)
        assert await rows(filled) == expected(DELIVERIES)
        await filled.close()


@pytest.mark.parametrize("seed", range(3))
async def test_a_long_history_is_continued_from_a_checkpoint(
    figure_store: FigureStore, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """After each of a customer's many events the figures are those of all facts, but few facts are read."""
    chance, read = random.Random(seed), 0
    facts_since, facts_touched = FigureTransaction.facts_since, FigureTransaction.facts_touched

    async def counted_since(self: FigureTransaction, *arguments: Any) -> Any:
        nonlocal read
        read += len(found := await facts_since(self, *arguments))
        return found

    async def counted_touched(self: FigureTransaction, *arguments: Any) -> Any:
        nonlocal read
        read += len(found := await facts_touched(self, *arguments))
        return found

    async def no_facts_of(self: FigureTransaction, owners: Any) -> Any:
        raise AssertionError("all facts were read")

    events = sorted(long_history(chance, 150), key=lambda event: int(event["created"]))
    book = Book(figure_store, CONFIG, tail_most=12, tail_kept=4)
    await book.take([delivery(event) for event in events[:60]])
    monkeypatch.setattr(FigureTransaction, "facts_since", counted_since)
    monkeypatch.setattr(FigureTransaction, "facts_touched", counted_touched)
    with monkeypatch.context() as patched:
        patched.setattr(FigureTransaction, "facts_of", no_facts_of)
        for at in range(60, len(events), 5):
            batch = events[at : at + 5]
            chance.shuffle(batch)
            await book.take([delivery(event) for event in batch])
            assert await rows(figure_store) == expected([delivery(event) for event in events[: at + 5]])
    assert read < 60 * (len(events) - 60) / 5
    late = make.event("customer.subscription.deleted", make.subscription("sub_0", customer="cus_1"), BEGIN + 1)
    await book.take([delivery(late)])
    assert await rows(figure_store) == expected([delivery(event) for event in [*events, late]])


async def test_what_belongs_to_new_facts_is_read_with_them(figure_store: FigureStore) -> None:
    """The invoice of a purchase, and failed invoices of a lost subscription that turns out not to be lost."""
    book = Book(figure_store, CONFIG, tail_most=2, tail_kept=1)

    def subscription(at: int, status: str) -> Json:
        obj = make.subscription("sub_1", status=status, customer="cus_1")
        return make.event("customer.subscription.updated", obj, at)

    def invoice(at: int, id_: str, what: str, status: str) -> Json:
        more: dict[str, Any] = {"subscription": "sub_1", "customer": "cus_1", "next_attempt": at + 1000}
        return make.event(f"invoice.{what}", make.invoice(id_, status=status, created=at, **more), at)

    purchase: Json = {"id": "cs_1", "object": "checkout.session", "mode": "payment", "payment_status": "paid"}
    purchase |= {"amount_total": 700, "currency": "eur", "invoice": "in_paid", "customer": "cus_1"}
    events = [
        subscription(BEGIN, "active"),
        invoice(BEGIN + 1, "in_paid", "paid", "paid"),
        invoice(BEGIN + 2, "in_failed", "payment_failed", "open"),
        *(subscription(BEGIN + 3 + n, "past_due") for n in range(3)),
        make.event("checkout.session.completed", purchase, BEGIN + 10),
        subscription(BEGIN + 20, "active"),
        {**subscription(BEGIN + 30, "unpaid"), "type": "customer.subscription.created"},
        subscription(BEGIN + 30, "past_due"),  # a higher rank in the same second: it is not lost after all
    ]
    for number, event in enumerate(events, 1):
        await book.take([delivery(event)])
        assert await rows(figure_store) == expected([delivery(event) for event in events[:number]])


async def test_another_config_makes_checkpoints_invalid(figure_store: FigureStore) -> None:
    events = sorted(long_history(random.Random(1), 40), key=lambda event: int(event["created"]))
    await Book(figure_store, CONFIG, tail_most=4, tail_kept=1).take([delivery(event) for event in events[:-1]])
    renamed = Config(plans={"starter": Plan(name="Starter", prices=("price_basic",))})
    await Book(figure_store, renamed).take([delivery(events[-1])])
    facts = [fact for event in events if (fact := fact_of(orjson.dumps(event)))]
    assert await rows(figure_store) == set(figures_of(facts, renamed))


async def test_facts_that_are_stored_again_end_their_checkpoint(figure_store: FigureStore) -> None:
    """The recount then computes the figures of all owners."""
    book = Book(figure_store, CONFIG, tail_most=4, tail_kept=1)
    deliveries = [delivery(event) for event in long_history(random.Random(1), 40)]
    await book.take(deliveries)
    async with figure_store.transaction([]) as transaction:
        owners = await transaction.owners_after(None, 10)
        assert len(await transaction.checkpoints_of(owners)) == 1
    assert (await book.take(deliveries[:1], replacing=True)).rows == 0
    async with figure_store.transaction([]) as transaction:
        assert await transaction.checkpoints_of(owners) == []
        assert await book.recompute(transaction, owners) == 0
        assert len(await transaction.checkpoints_of(owners)) == 1


def long_history(chance: random.Random, count: int) -> list[Json]:
    """Events of one customer: three subscriptions, invoices that fail and are paid, purchases and refunds."""
    found: list[Json] = []
    for number in range(count):
        at, subscription = BEGIN + number // 2 * 1000, f"sub_{chance.randrange(3)}"
        invoice = f"in_{chance.randrange(max(1, number - 50), number + 2)}"
        kind = chance.choice(("updated", "updated", "paid", "payment_failed", "voided", "purchase", "refund"))
        of: dict[str, Any] = {"customer": "cus_1"}
        if kind == "updated":
            status = chance.choice(("active", "active", "active", "past_due", "past_due", "unpaid", "trialing"))
            price = chance.choice((BASIC, TEAM))
            obj, type_ = (
                make.subscription(subscription, price=price, status=status, **of),
                f"customer.subscription.{kind}",
            )
        elif kind == "purchase":
            type_ = "checkout.session.completed"
            obj = make.event(type_, {}, at)["data"]["object"] | {
                "id": f"cs_{number}", "object": "checkout.session", "mode": "payment", "payment_status": "paid",
                "amount_total": 700, "currency": "eur", "invoice": chance.choice((None, invoice)), **of,
            }  # fmt: skip
        elif kind == "refund":
            type_, charge = "charge.refunded", f"ch_{chance.randrange(max(1, number - 12), number + 2)}"
            obj = {
                "id": charge,
                "object": "charge",
                "amount": 9000,
                "amount_refunded": 10 * number,
                "currency": "eur",
                **of,
            }
        else:
            status = "paid" if kind == "paid" else "open"
            retry = at + 1000 if kind == "payment_failed" else None
            obj = make.invoice(invoice, subscription=subscription, status=status, created=at, next_attempt=retry, **of)
            type_ = f"invoice.{kind}"
        found.append(make.event(type_, obj, at, id_=f"evt_long_{number}"))
    return found


async def test_since_leaves_out_what_happened_before_but_not_its_mrr(book: Book, database: SecretStr) -> None:
    await book.take(DELIVERIES)
    async with reading(database) as connection:
        always = await figures(connection, Scope(), "day")
        days = sorted({row["day"] for row in always["mrr"]})
        later = await figures(connection, Scope(since=days[-1]), "day")
        by_currency = await figures(connection, Scope(since=days[-1] + timedelta(days=1)), "currency")
        now = await figures(connection, Scope(), "currency")
    assert later["mrr"] == [row for row in always["mrr"] if row["day"] >= days[-1]]
    assert [row["mrr"] for row in by_currency["mrr"]] == [row["mrr"] for row in now["mrr"]]
    assert all(row[kind] == 0 for row in by_currency["mrr"] for kind in ("new", "expansion", "churn"))


async def test_G56_months_and_customers_add_up_to_the_totals(book: Book, database: SecretStr) -> None:
    await book.take(DELIVERIES)
    async with reading(database) as connection:
        total, months, customers = [await figures(connection, Scope(), by) for by in ("currency", "month", "customer")]
    for row in total["mrr"]:

        def mine(found: dict[str, Any], of: dict[str, Any] = row) -> bool:
            return bool(found["livemode"] == of["livemode"] and found["currency"] == of["currency"])

        of_months, of_customers = [list(filter(mine, one["mrr"])) for one in (months, customers)]
        assert of_months[-1]["mrr"] == row["mrr"] == sum(one["mrr"] for one in of_customers)
        for kind in ("new", "expansion", "contraction", "churn", "reactivation"):
            assert sum(one[kind] for one in of_months) == row[kind] == sum(one[kind] for one in of_customers)
        rates = list(filter(mine, total["rates"]))
        paying = [one["mrr"] for one in of_customers if one["mrr"] > 0]
        assert [(one["customers"], one["arr"]) for one in rates] == (
            [(len(paying), 12 * sum(paying))] if paying else []
        )
    parsed = list(csv.DictReader(io.StringIO(csv_text(months["mrr"]))))
    assert [int(one["mrr"]) for one in parsed] == [one["mrr"] for one in months["mrr"]]


async def test_G52_one_table_or_list_is_printed_as_csv(book: Book, database: SecretStr) -> None:
    await book.take(DELIVERIES)
    env = {"BILLING_DATABASE_URL": database.get_secret_value()}

    def printed(*words: str) -> list[dict[str, str]]:
        done = billing(["mrr", *words, "--csv"], env)
        assert (done.returncode, done.stderr) == (0, "")
        return list(csv.DictReader(io.StringIO(done.stdout)))

    async with reading(database) as connection:
        found = await figures(connection, Scope(), "month")
        at_risk = await money.customers_at_risk(connection)
    months = await asyncio.to_thread(printed, "--only", "mrr", "--by", "month")
    assert [(row["month"], int(row["mrr"])) for row in months] == [(row["month"], row["mrr"]) for row in found["mrr"]]
    listed = await asyncio.to_thread(printed, "--only", "customers-at-risk")
    assert [row["customer_id"] for row in listed] == [row["customer_id"] for row in at_risk]
    assert (await asyncio.to_thread(billing, ["mrr", "--csv"], env)).returncode == 2


async def test_facts_are_deleted_in_pages(book: Book, figure_store: FigureStore) -> None:
    await book.take(DELIVERIES)
    deleted: list[int] = []
    while not deleted or deleted[-1]:
        async with figure_store.transaction([]) as transaction:
            deleted.append(await transaction.forget(2))
    assert len(deleted) > 3
    assert max(deleted) == 2
    async with figure_store.transaction([]) as transaction:
        assert await transaction.owners_after(None, 10) == []


async def test_the_migrated_schema_is_the_one_of_the_tables(database: SecretStr) -> None:
    engine = make_engine(database, application="test")
    async with engine.connect() as connection:
        differences = await connection.run_sync(_differences)
        checks = await connection.run_sync(_checks)
    await engine.dispose()
    assert differences == []
    assert checks == {
        (table.name, check.name, str(check.sqltext).count("'"))
        for table in metadata.tables.values()
        for check in table.constraints
        if isinstance(check, CheckConstraint)
    }


def _differences(connection: Connection) -> Any:
    options = {
        "include_schemas": True,
        "version_table_schema": "billing",
        "compare_type": True,
        "compare_server_default": True,
        "include_name": lambda name, kind, _parents: kind != "schema" or name == metadata.schema,
    }
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


def _checks(connection: Connection) -> set[tuple[str, str | None, int]]:
    found = inspect(connection).get_multi_check_constraints(schema=metadata.schema)
    return {
        (table, check["name"], check["sqltext"].count("'")) for (_, table), checks in found.items() for check in checks
    }
