"""Postgres behind a real PgBouncer, with its default settings: nothing leaks from one client's session to another's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from ops.doctor.findings import Situation, Status
from ops.doctor.postgres_checks import check_postgres
from scheduler.due_timers import DueTimers
from schemas.database_url import DatabaseUrl, Pooler
from schemas.references import References
from schemas.settings import Config, InvalidSettings, Settings
from sinks.email.outbox import MailOutbox
from sinks.outbox import wakeup
from sinks.postgres.brakes import Brakes
from sinks.postgres.dead_letter_index import DeadLetterIndex, LetterFilter
from sinks.postgres.migration import migrate
from sinks.postgres.pool import NeedsDirectUrl, SessionTimeouts, connect, make_pool, reading
from sinks.postgres.store import Store
from tests.kits.pgbouncerkit import needs_pgbouncer, pgbouncer

pytestmark = needs_pgbouncer


@pytest.fixture(params=["session", "transaction"])
def pooled(request: pytest.FixtureRequest, database: SecretStr) -> Iterator[DatabaseUrl]:
    """A database with all tables behind PgBouncer in each mode. Nothing says which mode it is."""
    with pgbouncer(database.get_secret_value(), request.param) as url:
        yield DatabaseUrl(url, direct=database.get_secret_value())


@pytest.fixture
def shared(database: SecretStr) -> Iterator[DatabaseUrl]:
    """Transaction mode with one server session for all clients, and no direct URL."""
    with pgbouncer(database.get_secret_value(), "transaction", sessions=1) as url:
        yield DatabaseUrl(url)


async def test_every_kind_of_connection_works(pooled: DatabaseUrl) -> None:
    """Pool, engine, single connection, LISTEN, session lock; each with its limits in force."""
    store = await Store.connect(pooled, pool_size=2)
    async with store.transaction([("t", 1)]) as work:
        assert await work.seen(["evt_1"]) == {}
        assert await work.load(References(customers={("", "cus_1")})) == []
    await store.close()
    outbox = await MailOutbox.connect(pooled, claimer="a")
    assert await outbox.claim(5) == []
    await outbox.close()
    async with reading(pooled) as connection:
        assert (await connection.execute(text("SHOW statement_timeout"))).scalar() == "30s"
        assert (await connection.execute(text("SELECT :a + 1"), {"a": 1})).scalar() == 2
    brakes = Brakes(pooled)
    await brakes.trip("g", "m", ["r"], "1")
    assert await brakes.take_allowance("g") == 0
    async with DeadLetterIndex.open(pooled) as index, index.replaying():
        assert await index.find(LetterFilter()) == []
    timers = await DueTimers.connect(pooled, lambda: None)
    async with timers.turn() as turn:
        assert turn is not None
        assert await turn.due(datetime.now(UTC), 5) == []
    assert await timers.next_due() is None
    timers.close()


async def test_each_session_has_its_limits(pooled: DatabaseUrl) -> None:
    pool = await make_pool(pooled, application="test", max_size=3, bounds=SessionTimeouts(lock_s=1.5))
    try:
        for _ in range(2):  # also after the connection was released once
            found = await asyncio.gather(*(pool.fetchval("SHOW lock_timeout") for _ in range(10)))
            assert set(found) == {"1500ms"}
            assert await pool.fetchval("SHOW search_path") == "public"
    finally:
        await pool.close()


async def test_nothing_is_left_in_a_shared_session(shared: DatabaseUrl, database: SecretStr) -> None:
    """Another program's sessions must not get our limits, nor our prepared statements."""
    mine = await connect(shared, application="billing", bounds=SessionTimeouts(statement_s=7))
    assert await mine.fetchval("SHOW statement_timeout") == "7s"
    assert await mine.fetchval("SELECT $1::int + 1", 1) == 2
    assert await mine.execute("SELECT $1::int", 1) == "SELECT 1"
    other = await connect(shared, application="other", bounds=SessionTimeouts(statement_s=8))
    assert await other.fetchval("SHOW statement_timeout") == "8s"
    direct = await connect(database, application="direct")
    left = await other.fetch("SELECT name FROM pg_prepared_statements WHERE name <> ''")
    assert left == []
    default = await direct.fetchval("SELECT reset_val FROM pg_settings WHERE name = 'statement_timeout'")
    seen = await other.fetchval("SELECT reset_val FROM pg_settings WHERE name = 'statement_timeout'")
    assert seen == default
    for connection in (mine, other, direct):
        connection.terminate()


async def test_many_clients_share_one_session(shared: DatabaseUrl) -> None:
    """Different statements of different clients meet in one server session: no 08P01, 26000 or 42P05."""
    pools = [await make_pool(shared, application=f"p{number}", max_size=3) for number in range(4)]

    async def ask(number: int) -> None:
        pool = pools[number % len(pools)]
        columns = ", ".join(f"${at}::int" for at in range(1, number % 5 + 2))
        row = await pool.fetchrow(f"SELECT {columns}", *range(number % 5 + 1))
        assert tuple(row or ()) == tuple(range(number % 5 + 1))

    try:
        await asyncio.gather(*(ask(number) for number in range(400)))
    finally:
        for pool in pools:
            await pool.close()


async def test_cursors_leave_no_statement_behind(shared: DatabaseUrl) -> None:
    """An archive is read with cursors."""
    connection = await connect(shared, application="test")
    for _ in range(2):
        async with connection.transaction():
            query = "SELECT n, $1::text AS x FROM generate_series(1, 120) n"
            rows = [row async for row in connection.cursor(query, "a", prefetch=50)]
            assert [tuple(row) for row in rows] == [(n, "a") for n in range(1, 121)]
    assert await connection.fetch("SELECT name FROM pg_prepared_statements WHERE name <> ''") == []
    connection.terminate()


async def test_what_needs_a_session_says_so(shared: DatabaseUrl) -> None:
    with pytest.raises(NeedsDirectUrl, match="BILLING_DATABASE_DIRECT_URL"):
        await migrate(shared)
    with pytest.raises(NeedsDirectUrl):
        async with DeadLetterIndex.open(shared):
            pass
    await asyncio.wait_for(wakeup.listen(shared, "billing_emails", lambda: None), 30)  # returns: there are polls
    timers = await DueTimers.connect(shared, lambda: None)
    async with timers.turn() as turn:
        assert turn is not None
    timers.close()


@pytest.mark.parametrize("declared", [Pooler.NONE, Pooler.SESSION])
async def test_a_wrong_mode_is_refused(shared: DatabaseUrl, declared: Pooler) -> None:
    with pytest.raises(InvalidSettings, match=f"BILLING_DATABASE_POOLER: {declared}") as refused:
        await connect(DatabaseUrl(shared.get_secret_value(), pooler=declared), application="test")
    assert "\n" not in str(refused.value)


async def test_transaction_mode_may_be_declared_everywhere(database: SecretStr) -> None:
    declared = DatabaseUrl(database.get_secret_value(), pooler=Pooler.TRANSACTION)
    connection = await connect(declared, application="test")
    assert await connection.fetchval("SHOW lock_timeout") == "10s"
    connection.terminate()


async def test_migrations_use_the_direct_url(database_url: str) -> None:
    with pgbouncer(database_url, "transaction", sessions=1) as url:
        assert (await migrate(DatabaseUrl(url, direct=database_url))).before is None


@pytest.mark.parametrize(("key", "status"), [("rk_test_0123456789abcdef", Status.FAILED), (None, Status.WARNING)])
async def test_doctor_asks_for_a_direct_url_where_sessions_are_shared(
    shared: DatabaseUrl, database: SecretStr, key: str | None, status: Status
) -> None:
    await migrate(database)
    for direct, expected in ((None, [status]), (database, [])):
        url = DatabaseUrl(shared.get_secret_value(), direct=None if direct is None else direct.get_secret_value())
        settings = Settings.model_construct(
            database_url=url, database_direct_url=direct, stripe_api_key=None if key is None else SecretStr(key)
        )
        found = await check_postgres(Situation(settings, Config()))
        assert [each.status for each in found if "shares sessions:" in each.text] == expected
