"""A worker that starts on an empty database finds each row by its key, also before autovacuum's first ANALYZE."""

from __future__ import annotations

import asyncpg
import pytest
from pydantic import SecretStr

from schemas.references import References
from sinks.postgres.store import Store
from tests.kits.bigkit import rows_read
from tests.kits.rolekit import open_server
from tests.kits.storekit import ask

KEYS = 100
AT_MOST = 5_000
"""Rows that a load of `KEYS` customers may read of a table: a few for each key, and not all rows for each."""
_TABLES = {
    "customers": "(account, customer_id, user_id) SELECT '', 'cus_' || n, 'usr_' || n",
    "users": "(account, user_id) SELECT '', 'usr_' || n",
    "subscriptions": "(account, subscription_id, customer_id, status) SELECT '', 'sub_' || n, 'cus_' || n, 'active'",
    "payments": "(payment_id, account, invoice_id, checkout_session_id, charge_id, payment_intent_id, customer_id, "
    "amount, currency, status) "
    "SELECT 'pay_' || n, '', 'in_' || n, 'cs_' || n, 'ch_' || n, 'pi_' || n, 'cus_' || n, 1, 'eur', 'pending'",
    "payment_links": "(account, stripe_id, payment_id, kind) SELECT '', 'in_' || n, 'pay_' || n, 'invoice'",
    "payment_methods": "(account, payment_method_id, customer_id) SELECT '', 'pm_' || n, 'cus_' || n",
    "disputes": "(account, dispute_id, charge_id, amount, currency, status) "
    "SELECT '', 'dp_' || n, 'ch_' || n, 1, 'eur', 'lost'",
}
_READ = f"""
SELECT coalesce(string_agg(relname || ': ' || idx_tup_fetch, ', '), '')
FROM pg_stat_user_tables WHERE schemaname = 'billing' AND idx_tup_fetch > {AT_MOST}
"""
_ANALYZED = """
SELECT count(*) FROM pg_class WHERE relnamespace = 'billing'::regnamespace AND relkind = 'r' AND relpages > 0
"""


async def _fill(database: SecretStr, rows: int) -> None:
    for table, columns in _TABLES.items():
        await ask(database, f"ALTER TABLE billing.{table} SET (autovacuum_enabled = false)")
        await ask(database, f"INSERT INTO billing.{table} {columns} FROM generate_series(1, {rows}) n")


async def _load(url: SecretStr) -> None:
    store = await Store.connect(url, pool_size=1)

    def refs(kind: str) -> set[tuple[str, str]]:
        return {("", f"{kind}_{n}") for n in range(1, KEYS + 1)}

    asked = References(
        customers=refs("cus"),
        subscriptions=refs("sub"),
        payments=refs("in") | refs("ch"),
        payment_methods=refs("pm"),
        disputes=refs("dp"),
    )
    async with store.transaction([("t", 1)]) as work:
        rows = await work.load(asked)
        await work.erased(refs("cus"), refs("pm"))
    assert len(rows) == KEYS * len(_TABLES)
    await store.close()


@pytest.mark.parametrize("rows", [200, 800, 2_000])
async def test_a_load_of_new_tables_reads_the_rows_of_its_keys(database: SecretStr, rows: int) -> None:
    await _fill(database, rows)
    assert await rows_read(database, _load, _READ) == ""


async def test_each_new_table_is_analyzed_once(database: SecretStr) -> None:
    """An empty one, and one of few rows, is left until it has more."""
    analyzed = await ask(database, _ANALYZED)
    await ask(database, "SELECT billing.analyze_new()")
    assert await ask(database, _ANALYZED) == analyzed
    await _fill(database, 800)
    await ask(database, "SELECT billing.analyze_new()")
    assert await ask(database, _ANALYZED) == analyzed + len(_TABLES)
    await ask(database, "SELECT pg_stat_reset()")
    await ask(database, "SELECT billing.analyze_new()")
    assert await ask(database, "SELECT sum(analyze_count) FROM pg_stat_user_tables") == 0


async def test_the_workers_role_may_analyze_new_tables(database: SecretStr) -> None:
    """It owns no table."""
    async with open_server(database) as server:
        await _fill(database, 800)
        before = await ask(database, _ANALYZED)
        await server.connection.execute(f'SET ROLE "{server.prefix}_worker"')
        await server.connection.execute("SELECT billing.analyze_new()")
        await server.connection.execute("RESET ROLE")
        assert await ask(database, _ANALYZED) == before + len(_TABLES)


async def test_a_locked_table_is_left_to_the_next_look(database: SecretStr) -> None:
    """The worker does not wait for autovacuum or a migration."""
    await _fill(database, 800)
    before = await ask(database, _ANALYZED)
    session = await asyncpg.connect(database.get_secret_value())
    try:
        await session.execute("BEGIN; LOCK TABLE billing.customers IN SHARE UPDATE EXCLUSIVE MODE")
        await ask(database, "SELECT billing.analyze_new()")
        assert await ask(database, _ANALYZED) == before + len(_TABLES) - 1
    finally:
        await session.close()
    await ask(database, "SELECT billing.analyze_new()")
    assert await ask(database, _ANALYZED) == before + len(_TABLES)
