"""After a failover, open sessions are on a read-only server: pools and the scheduler open new ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import asyncpg
import pytest
from pydantic import SecretStr

from analytics.store import FigureStore
from scheduler.due_timers import DueTimers
from schemas.errors import StoreRefused, StoreUnavailable
from sinks.email.outbox import MailOutbox
from sinks.exports.orders import ExportOrders
from sinks.postgres import pool
from sinks.postgres.pool import Session, make_pool
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from sinks.stripe_calls.calls import Calls
from tests.kits.storekit import known, ledger_row, write

NOW = datetime.now(UTC)
Work = Callable[[], Awaitable[object]]
Close = Callable[[], Awaitable[object]]


async def _store(url: SecretStr) -> tuple[Work, Close]:
    store = await Store.connect(url, pool_size=2)
    return lambda: write(store, Flush(known(), [ledger_row(f"evt_{datetime.now(UTC).timestamp()}")])), store.close


async def _mails(url: SecretStr) -> tuple[Work, Close]:
    outbox = await MailOutbox.connect(url, claimer="a", pool_size=2)
    return lambda: outbox.claim(1), outbox.close


async def _calls(url: SecretStr) -> tuple[Work, Close]:
    calls = await Calls.connect(url, claimer="a", pool_size=2)
    return lambda: calls.claim(1), calls.close


async def _orders(url: SecretStr) -> tuple[Work, Close]:
    orders = await ExportOrders.connect(url, claimer="a", application="test")
    return lambda: orders.claim(1), orders.close


async def _figures(url: SecretStr) -> tuple[Work, Close]:
    figures = await FigureStore.connect(url)

    async def work() -> None:
        async with figures.transaction([("t", 1)]) as transaction:
            await transaction.forget(10)

    return work, figures.close


async def _timers(url: SecretStr) -> tuple[Work, Close]:
    opened: list[DueTimers] = []

    async def work() -> None:
        """As the scheduler does: it connects again if the connection is lost."""
        if not opened or opened[-1].is_lost:
            opened.append(await DueTimers.connect(url, lambda: None))
        async with opened[-1].turn() as turn:
            assert turn is not None
            await turn._connection.execute("UPDATE billing.timers SET livemode = livemode")

    async def close() -> None:
        for timers in opened:
            timers.close()

    return work, close


KINDS = {
    "store": _store, "mails": _mails, "calls": _calls, "exports": _orders, "analytics": _figures, "timers": _timers,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_sessions_that_became_read_only_are_left(
    database: SecretStr, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open sessions are made read-only, new ones can write: the second try succeeds."""
    opened: list[Session] = []
    real = pool.open_session

    async def noted(*arguments: object, **options: object) -> Session:
        opened.append(await real(*arguments, **options))  # type: ignore[arg-type]  # passed on as they are
        return opened[-1]

    monkeypatch.setattr(pool, "open_session", noted)
    work, close = await KINDS[kind](database)
    try:
        await work()
        for session in opened:
            await session.execute("SET default_transaction_read_only = on")
        with pytest.raises((StoreUnavailable, asyncpg.ReadOnlySQLTransactionError), match=r"25006|read-only"):
            await work()
        await work()
        await work()
    finally:
        await close()


async def test_an_error_about_the_session_expires_all_of_the_pool(database: SecretStr) -> None:
    sessions = await make_pool(database, application="test", min_size=3, max_size=3)
    try:
        before = {await _pid(sessions) for _ in range(6)}
        with pytest.raises(asyncpg.UndefinedTableError):
            await sessions.fetch("SELECT * FROM billing.not_there")
        assert before.isdisjoint({await _pid(sessions) for _ in range(6)})
    finally:
        await sessions.close()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT 1 / 0", asyncpg.DivisionByZeroError),
        ("SET LOCAL statement_timeout = '10ms'; SELECT pg_sleep(1)", asyncpg.QueryCanceledError),
        ("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$", asyncpg.SerializationError),
        ("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100'; END $$", asyncpg.DiskFullError),
        ("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '55P03'; END $$", asyncpg.LockNotAvailableError),
    ],
)
async def test_other_errors_keep_the_sessions(
    database: SecretStr, statement: str, error: type[asyncpg.PostgresError]
) -> None:
    """They do not depend on the session; reconnecting would only cost time while the server is busy."""
    sessions = await make_pool(database, application="test", max_size=1)
    try:
        before = await _pid(sessions)
        with pytest.raises(error):
            await sessions.execute(statement)
        assert await _pid(sessions) == before
    finally:
        await sessions.close()


async def test_a_refused_value_keeps_the_sessions(store: Store) -> None:
    with pytest.raises(StoreRefused):
        await write(store, Flush(known(), [ledger_row("evt_1", outcome="no outcome")]))
    assert not store._pool.is_stale  # type: ignore[attr-defined]  # its pool is a SessionPool


async def _pid(sessions: asyncpg.Pool[asyncpg.Record]) -> int:
    found: int = await sessions.fetchval("SELECT pg_backend_pid()")
    return found
