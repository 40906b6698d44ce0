"""`billing prune`: contents end, what makes things happen once stays, and an erasure still finds everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from local.stripe.builder import Json, StripeEvents
from local.stripe.payments import charge, dispute, payment_method
from recovery.pruning import run
from schemas.errors import StoreRefused
from schemas.retention import Retention
from schemas.timing import utc_now
from schemas.verdict import Applied, Duplicate
from sinks.postgres.lists import samples
from sinks.postgres.pool import reading
from sinks.postgres.prune import Age, count_due
from tests.kits.erasurekit import JANE, LAST4, ErasureKit, history, left, open_kit
from tests.kits.rulekit import NOW

MAKE = StripeEvents()
GUEST = "kim.guest@example.com"


@pytest.fixture
async def rig(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[ErasureKit]:
    async with open_kit(kafka_bootstrap, database, topic_prefix, tmp_path) as opened:
        yield opened


def purchase() -> list[Json]:
    """A guest's purchase, and a dispute that names only its charge."""
    person: Json = {"billing_details": {"email": GUEST, "name": "Kim Guest"}, "receipt_email": GUEST}
    bought = MAKE.checkout_session("cs_1", customer=None, mode="payment", email=GUEST, name="Kim Guest")
    paid = charge(MAKE, "ch_9", customer=None, invoice=None, payment_intent="pi_9", **person)
    return [
        MAKE.event("checkout.session.completed", bought | {"payment_intent": "pi_9"}, NOW),
        MAKE.event("charge.succeeded", paid, NOW + 1),
    ]


async def prune(rig: ErasureKit, **more: Any) -> dict[str, int]:
    return await run(SecretStr(rig.url), Retention(), by="sam", **more)


async def everything(rig: ErasureKit, *, without: str = "") -> dict[str, list[dict[str, Any]]]:
    """All rows by table, without a column."""
    tables = await rig.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'billing'")
    return {
        table["tablename"]: [
            {name: value for name, value in row.items() if name != without}
            for row in await rig.rows(f"SELECT * FROM billing.{table['tablename']} t ORDER BY t::text")  # own names
        ]
        for table in tables
    }


async def test_T27_contents_of_settled_events_end_and_the_books_stay(rig: ErasureKit) -> None:
    rig.now[0] = utc_now() - timedelta(days=400)
    bought = purchase()
    await rig.process(*history(MAKE), *bought)
    await rig.rows("UPDATE billing.emails SET status = 'sent' WHERE status = 'queued'")
    books = await rig.rows("SELECT * FROM billing.payments ORDER BY payment_id")
    ledger = await rig.rows("SELECT event_id, outcome, reason, applied_at FROM billing.events ORDER BY 1")
    before = await everything(rig)
    due = await prune(rig, dry_run=True)
    assert await everything(rig) == before

    done = await prune(rig)

    assert done == due
    assert done["payloads"] == len(ledger) - 1
    assert done["contents of mails"] > 0
    kept = await rig.rows("SELECT outcome FROM billing.events WHERE payload IS NOT NULL OR payload_pruned_at IS NULL")
    assert kept == [{"outcome": "dead"}], "its dead letter is open"
    assert await rig.rows("SELECT * FROM billing.payments ORDER BY payment_id") == books
    assert await rig.rows("SELECT event_id, outcome, reason, applied_at FROM billing.events ORDER BY 1") == ledger
    assert await rig.process(bought[0]) == [Duplicate()]
    (noted,) = await rig.rows("SELECT who, action, count, outcome FROM billing.audit_log")
    assert noted == {"who": "sam", "action": "prune", "count": sum(done.values()), "outcome": "done"}
    assert set((await prune(rig)).values()) == {0}
    guest = [
        table
        for table, rows in (await everything(rig)).items()
        if any("kim" in str(value).lower() for row in rows for value in row.values())
    ]
    assert guest == [], "only ids and amounts of a guest are left"


async def test_T27_the_past_of_a_customer_is_known_since_the_newest_pruned_event(rig: ErasureKit) -> None:
    """Also if an older event of somebody else is kept, and an event that changed nothing."""
    rig.now[0] = utc_now() - timedelta(days=500)
    other = MAKE.event("customer.created", MAKE.customer(id_="cus_other"), NOW)
    await rig.process(other)
    rig.now[0] = utc_now() - timedelta(days=400)
    await rig.process(*history(MAKE))
    await rig.rows("UPDATE billing.events SET applied_at = now() WHERE customer_id = 'cus_other'")

    async def kept_since(customer_id: str) -> datetime | None:
        async with reading(SecretStr(rig.url)) as connection:
            return await samples.changes_kept_since(connection, "", customer_id)

    assert await kept_since("cus_1") is None
    await prune(rig)
    (newest,) = await rig.rows(
        "SELECT max(applied_at) AS at FROM billing.events WHERE customer_id = 'cus_1' AND payload_pruned_at IS NOT NULL"
    )
    assert newest["at"] is not None
    assert await kept_since("cus_1") == newest["at"]
    assert await kept_since("cus_other") is None


async def test_T27_what_is_younger_stays_and_an_age_of_zero_keeps_all(rig: ErasureKit) -> None:
    rig.now[0] = utc_now() - timedelta(days=60)
    await rig.process(*history(MAKE))
    assert (await prune(rig))["payloads"] == 0
    assert (await prune(rig, older_than=timedelta(days=59), dry_run=True))["payloads"] == len(history(MAKE)) - 1
    assert await run(SecretStr(rig.url), Retention(contents_days=0, records_days=0), by="sam") == {}


async def test_T27_after_the_payloads_are_pruned_an_erasure_still_finds_what_names_only_a_charge(
    rig: ErasureKit,
) -> None:
    """A charge without an invoice is on no payment that knows its customer, so only the payload said whose it is."""
    rig.now[0] = utc_now() - timedelta(days=400)
    alone = charge(MAKE, "ch_alone", customer="cus_1", invoice=None, payment_intent=None)
    await rig.process(*history(MAKE), MAKE.event("charge.succeeded", alone, NOW + 8))
    await prune(rig)
    rig.now[0] = utc_now() - timedelta(days=35)
    disputed = dispute(MAKE, "dp_alone", charge="ch_alone", payment_intent=None, evidence=JANE)
    late = MAKE.event("charge.dispute.created", disputed, int(rig.now[0].timestamp()))
    assert await rig.process(late, left(MAKE, int(rig.now[0].timestamp()))) == [Applied(), Applied()]
    rig.now[0] = utc_now()
    await rig.process(await rig.due("erase::sub_1"))
    assert await rig.found() == {}


async def test_T27_after_the_payloads_are_pruned_an_erasure_still_finds_a_card_that_was_detached(
    rig: ErasureKit,
) -> None:
    """Only the event that detached it said whose it was."""
    rig.now[0] = utc_now() - timedelta(days=400)
    card = payment_method(MAKE, "pm_old", last4=LAST4)
    detached = MAKE.event("payment_method.detached", card | {"customer": None}, NOW + 9, previous={"customer": "cus_1"})
    await rig.process(*history(MAKE), detached)
    rig.now[0] = utc_now() - timedelta(days=35)
    await rig.process(left(MAKE, int(rig.now[0].timestamp())))
    await prune(rig)
    (card_row,) = await rig.rows(
        "SELECT customer_id, last4 FROM billing.payment_methods WHERE last4 IS NOT NULL "
        "AND payment_method_id = 'pm_old'"
    )
    assert card_row["last4"] == LAST4
    rig.now[0] = utc_now()
    await rig.process(await rig.due("erase::sub_1"))
    assert await rig.found() == {}


async def test_T27_a_run_that_fails_is_recorded_with_what_it_pruned(rig: ErasureKit) -> None:
    rig.now[0] = utc_now() - timedelta(days=400)
    await rig.process(*history(MAKE))
    await rig.rows("UPDATE billing.emails SET status = 'sent' WHERE status = 'queued'")
    await rig.rows("ALTER TABLE billing.emails ADD CONSTRAINT kept CHECK (data <> '{}') NOT VALID")
    with pytest.raises(StoreRefused):
        await prune(rig)
    pruned = await rig.rows("SELECT count(*) AS n FROM billing.events WHERE payload_pruned_at IS NOT NULL")
    (noted,) = await rig.rows("SELECT outcome, count, reason FROM billing.audit_log")
    assert (noted["outcome"], noted["count"]) == ("failed", pruned[0]["n"])
    assert noted["count"] > 0
    assert "kept" in noted["reason"]


async def test_T27_a_locked_row_is_left_for_the_next_run(rig: ErasureKit) -> None:
    rig.now[0] = utc_now() - timedelta(days=400)
    await rig.process(*history(MAKE))
    holder = await asyncpg.connect(rig.url)
    holding = holder.transaction()
    await holding.start()
    await holder.execute("SELECT FROM billing.events WHERE type = 'customer.created' FOR UPDATE")
    first = await prune(rig)
    await holding.rollback()
    assert (await prune(rig))["payloads"] == 1
    assert first["payloads"] == len(history(MAKE)) - 2
    assert set((await count_due(holder, dict.fromkeys(Age, timedelta(days=1)))).values()) == {0}
    await holder.close()
