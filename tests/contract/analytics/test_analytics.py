"""The analytics tables on real Postgres: any delivery order gives the same rows, and a recount then changes nothing."""

from __future__ import annotations

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
from analytics.store import FigureStore
from analytics.tables import metadata
from local.demo.people import Step
from local.demo.story import story
from local.stripe.builder import Json
from schemas.figures import FIGURE_TYPES, Figure
from sinks.postgres.pool import make_engine, reading
from tests.kits.analyticskit import BEGIN, CONFIG, make
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


DELIVERIES = [delivery(step.event) for step in story(BEGIN) if isinstance(step, Step)]


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


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_batching_and_repetition_give_the_same_rows(book: Book, seed: int) -> None:
    chance = random.Random(seed)
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
