"""Every outbox of the registry: queued once, with a notification; suppressed by a rebuild; compared; erased; shown."""

from __future__ import annotations

import asyncio
from dataclasses import fields

import asyncpg
import pytest
from pydantic import SecretStr

from recovery.rebuild.comparison import COMPARED
from recovery.rebuild.suppressing_store import SuppressingStore
from schemas.state import Organization
from sinks.outbox.claims import claims_of
from sinks.postgres import queries
from sinks.postgres.outboxes import OUTBOXES, Outbox
from sinks.postgres.pool import reading
from sinks.postgres.rows import ErasureRow, Flush
from sinks.postgres.store import Store
from tests.kits.outboxkit import AT, SECRET, sample_row, sample_rows
from tests.kits.storekit import ask, known, ledger_row, write

EACH = pytest.mark.parametrize("outbox", OUTBOXES, ids=lambda outbox: outbox.name)


async def status_of(url: SecretStr, outbox: Outbox) -> str:
    query = f"SELECT status FROM {outbox.table.fullname} WHERE {outbox.key} = $1"
    return str(await ask(url, query, getattr(sample_row(outbox), outbox.key)))


@EACH
async def test_a_row_is_queued_once_and_its_dispatcher_is_notified(
    store: Store, database: SecretStr, outbox: Outbox
) -> None:
    heard: list[str] = []
    arrived = asyncio.Event()

    def hear(*_: object) -> None:
        heard.append(outbox.name)
        arrived.set()

    connection = await asyncpg.connect(database.get_secret_value())
    try:
        await connection.add_listener(outbox.channel, hear)
        row = sample_row(outbox)
        await write(store, Flush(known(), outbox=[row, row]))
        await asyncio.wait_for(arrived.wait(), 30)
    finally:
        await connection.close()
    assert heard == [outbox.name]
    assert await ask(database, f"SELECT count(*) FROM {outbox.table.fullname}") == 1
    assert await status_of(database, outbox) == "queued"


async def test_a_rebuild_suppresses_the_rows_of_every_outbox(database: SecretStr) -> None:
    store = await SuppressingStore.connect(database, pool_size=1)
    try:
        await write(store, Flush(known(), outbox=sample_rows()))
    finally:
        await store.close()
    statuses = {outbox.name: await status_of(database, outbox) for outbox in OUTBOXES}
    assert statuses == dict.fromkeys(statuses, "suppressed")


@EACH
def test_the_comparison_reads_every_column_that_an_order_determines(outbox: Outbox) -> None:
    assert outbox.table in COMPARED
    determined = {field.name for field in fields(outbox.row_type)} - {outbox.since, "next_attempt_at"}
    determined -= {"status", "last_error"}  # set when it is queued as withheld; later the dispatcher changes both
    assert not determined & outbox.not_compared


async def test_an_erasure_closes_and_clears_the_rows_of_every_outbox(store: Store, database: SecretStr) -> None:
    await write(store, Flush(known(), [ledger_row("evt_1")], sample_rows()))
    erasure = ErasureRow(
        event_id="evt_2",
        account="",
        customer_id="cus_1",
        organization_id=Organization.id_of("", "cus_1"),
        asked_at=AT,
        erased_at=AT,
        kafka_until=None,
        dead_letters_kept=None,
    )
    await write(store, Flush(known(), [ledger_row("evt_2")], erasure=erasure))
    for outbox in OUTBOXES:
        assert await status_of(database, outbox) not in ("queued", outbox.busy, outbox.done), outbox.name
        whole = await ask(database, f"SELECT string_agg(t::text, ' ') FROM {outbox.table.fullname} t")
        assert SECRET not in whole, outbox.name
        claims = await claims_of(outbox).connect(database, claimer="operator", pool_size=1, application="billing-ops")
        try:
            failed, count = await claims.listed(status="failed", limit=1)
            every, _ = await claims.listed(status=None)
        finally:
            await claims.close()
        assert (len(failed), count, len(every)) == (0, 0, 1), f"{outbox.name}: nothing of it can be delivered again"


async def test_an_event_and_a_customer_are_shown_with_the_rows_of_every_outbox(
    store: Store, database: SecretStr
) -> None:
    await write(store, Flush(known(), [ledger_row("evt_1")], sample_rows()))
    async with reading(database) as connection:
        of_event = await queries.outboxes_of_event(connection, "evt_1")
        of_customer = await queries.customer_overview(connection, "", "cus_1")
    assert of_customer is not None
    for outbox in OUTBOXES:
        assert len(of_event[outbox.name]) == len(of_customer[outbox.name]) == 1, outbox.name
