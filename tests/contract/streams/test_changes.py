"""K401: the ledger keeps what each event changed, also of several events of one row in one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from eventlog.dead_letters import DeadLetterPublisher
from local.stripe.builder import Json, StripeEvents
from schemas import changes as changes_module
from schemas.kafka_access import KafkaAccess
from schemas.record import Record, record_of
from sinks.postgres import queries, tables
from sinks.postgres.lists import samples
from sinks.postgres.lists.past import State, undone
from sinks.postgres.pool import reading
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.kits.notes import note_headers
from tests.kits.rulekit import CONFIG, NOW, at
from tests.kits.storekit import ask

MAKE = StripeEvents()


@pytest.fixture
async def processor(kafka_bootstrap: str, database: SecretStr) -> AsyncIterator[Processor]:
    store = await Store.connect(database, pool_size=1)
    letters = DeadLetterPublisher(KafkaAccess(kafka_bootstrap), "not-used")
    yield Processor(
        store=store, dead_letters=letters, rules=RULES, config=CONFIG, group="test.worker", code_version="1"
    )
    letters.close()
    await store.close()


def records(*events: Json) -> list[Record]:
    return [
        record_of(
            "events", 0, offset, b"cus_1", orjson.dumps(event), note_headers(event["id"], event["type"]).encode(), 1.7e9
        )
        for offset, event in enumerate(events)
    ]


async def changes_of_event(url: SecretStr, event_id: str) -> dict[str, Any] | None:
    """The fields of each row, by table and key."""
    stored = await ask(url, "SELECT changes::text FROM billing.events WHERE event_id = $1", event_id)
    if stored is None:
        return None
    return {f"{one['table']} {one['key']} {one['did']}": one["fields"] for one in orjson.loads(stored)}


def updated(id_: str, created: int, **fields: Any) -> Json:
    subscription = MAKE.subscription(start=NOW, **fields)
    return MAKE.event("customer.subscription.updated", subscription, created, id_=id_)


async def test_K401_each_event_of_a_batch_has_its_own_before_and_after(
    processor: Processor, database: SecretStr
) -> None:
    trial = MAKE.subscription(start=NOW, status="trialing", trial_end=NOW + 60)
    await processor.process(
        records(
            MAKE.event("customer.created", MAKE.customer(), NOW, id_="evt_customer"),
            MAKE.event("customer.subscription.created", trial, NOW + 1, id_="evt_created"),
            updated("evt_active", NOW + 2, status="active"),
            updated("evt_due", NOW + 3, status="past_due"),
            updated("evt_stale", NOW + 1, status="incomplete"),
            MAKE.event("quote.finalized", {"object": "quote", "id": "qt_1", "customer": "cus_1"}, NOW, id_="evt_other"),
        )
    )
    made = await changes_of_event(database, "evt_created")
    first = await changes_of_event(database, "evt_active")
    second = await changes_of_event(database, "evt_due")
    assert made is not None
    assert first is not None
    assert second is not None
    assert made["subscriptions sub_1 created"]["status"] == [None, "trialing"]
    assert first["subscriptions sub_1 updated"]["status"] == ["trialing", "active"]
    assert second["subscriptions sub_1 updated"]["status"] == ["active", "past_due"]
    assert await changes_of_event(database, "evt_stale") is None
    assert await changes_of_event(database, "evt_other") is None


async def test_K234_the_state_at_any_past_moment_is_what_the_tables_had(
    processor: Processor, database: SecretStr
) -> None:
    """Today's rows without the changes of later events, compared with what was stored after each event."""
    trial = MAKE.subscription(start=NOW, status="trialing", trial_end=NOW + 60)
    failed = MAKE.invoice("in_1", status="open", created=NOW + 4)
    paid = MAKE.invoice("in_1", status="paid", created=NOW + 4)
    history = [
        MAKE.event("customer.created", MAKE.customer(), NOW, id_="evt_0"),
        MAKE.event("customer.subscription.created", trial, NOW + 1, id_="evt_1"),
        updated("evt_2", NOW + 2, status="active"),
        MAKE.event("invoice.payment_failed", failed, NOW + 5, id_="evt_3"),
        MAKE.event("customer.updated", MAKE.customer(email="new@example.com"), NOW + 6, id_="evt_4"),
        MAKE.event("invoice.paid", paid, NOW + 7, id_="evt_5"),
        updated("evt_6", NOW + 8, status="canceled", ended_at=NOW + 8, canceled_at=NOW + 8),
    ]
    now = [at(NOW)]
    clocked = dataclasses.replace(processor, clock=lambda: now[0])
    seen = []
    for number, record in enumerate(records(*history)):
        now[0] = at(NOW + 100 + number)
        await clocked.process([record])
        seen.append((now[0], await _state(database)))
    for at_then, stored in seen:
        async with reading(database) as connection:
            later = await samples.changes_since(connection, "", "cus_1", at_then)
            assert await samples.changes_kept_since(connection, "", "cus_1") is None
        assert _shown(undone(seen[-1][1], later)) == _shown(stored)


async def _state(url: SecretStr) -> State:
    async with reading(url) as connection:
        return await queries.customer_state(connection, "", "cus_1")


def _shown(state: State) -> State:
    """Without the fields that the ledger does not keep. A part of a JSON column that is null is like a missing one."""
    names = {str(tables.STATE_TABLES[kind].name): set(kept) for kind, kept in changes_module.COLUMNS_SHOWN.items()}
    return {
        table: {
            key: {name: _filled(one) for name, one in row.items() if name in names[table]} for key, row in rows.items()
        }
        for table, rows in state.items()
        if rows
    }


def _filled(field: object) -> object:
    if isinstance(field, dict):
        return {name: part for name, part in field.items() if part is not None}
    return field
