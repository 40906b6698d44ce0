"""What the benchmarks compare with, on real Postgres: the handler by hand, and the ledger of years."""

from __future__ import annotations

import asyncpg
import orjson
from pydantic import SecretStr

from bench.by_hand import MAILS, TABLES, apply
from bench.ledger import OPEN_TIMERS, OWN_EVENTS, fill
from bench.load import Load
from tests.kits.storekit import ask


async def test_the_handler_applies_each_event_once(database: SecretStr) -> None:
    """It does the same work as ours: the id, the newest state of each object, and a mail."""
    load = Load(200, customers=20)
    events = list(load.bodies())
    pool = await asyncpg.create_pool(database.get_secret_value(), min_size=1, max_size=1)
    async with pool, pool.acquire() as connection:
        await connection.execute(TABLES)
        for event in events:
            await apply(connection, orjson.dumps(event))
    distinct = {event["id"]: event for event in events}
    assert len(distinct) == load.distinct < len(events)
    assert await ask(database, "SELECT count(*) FROM by_hand.events") == load.distinct
    mails = sum(event["type"] in MAILS for event in distinct.values())
    assert await ask(database, "SELECT count(*) FROM by_hand.emails") == mails > 20
    objects = {event["data"]["object"]["id"] for event in events} - {"prod_1"}
    assert await ask(database, "SELECT count(*) FROM by_hand.objects") == len(objects)


async def test_a_database_of_years_has_every_kind_of_row(database: SecretStr) -> None:
    await fill(database, 2_000)
    assert await ask(database, "SELECT count(*) FROM billing.events") == 2_000 + OWN_EVENTS
    of_timers = "SELECT count(*) FROM billing.timers WHERE customer_id = 'cus_timers0' AND status = 'pending'"
    assert await ask(database, of_timers) == OPEN_TIMERS
    for table in ("billing.emails", "billing.payments", "billing.stripe_calls", "billing.dead_letters"):
        assert await ask(database, f"SELECT count(*) FROM {table}") > 5
    assert await ask(database, "SELECT count(*) FROM analytics.payments") == 1_200
