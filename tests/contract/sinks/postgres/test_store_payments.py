"""The payments stream on the real store: each rule loads all that it needs, and each row is read back as it was stored.

Every event is a transaction of its own, so a rule knows only what its `refer` names. Applied to a world in memory,
which knows everything, the same events must leave the same rows and mails.
"""

from __future__ import annotations

import random
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from local.stripe import payments as pay
from local.stripe.builder import ApiShape, Json, StripeEvents
from schemas.effects import QueueEmail
from schemas.errors import NotKnownYet
from schemas.known import Known
from schemas.state import Customer, Dispute, Payment, PaymentMethod, Row, Timer
from schemas.timer import timer_event
from sinks.postgres.loading import SHAPES
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from streams.apply import apply
from tests.kits.paymentkit import PatientWorld
from tests.kits.rulekit import CONFIG, DAY, NOW, decide_with, read

KINDS: list[type[Row]] = [Customer, Payment, PaymentMethod, Dispute, Timer]


def history(make: StripeEvents) -> list[Json]:
    def card(id_: str, **more: Any) -> Json:
        return pay.payment_method(make, id_, created=NOW, **more)

    def dispute(kind: str, when: int, status: str = "needs_response") -> Json:
        obj = pay.dispute(make, due_by=NOW + 20 * DAY, created=NOW + 2 * DAY, status=status)
        return make.event(f"charge.dispute.{kind}", obj, when)

    return [
        make.event("payment_method.attached", card("pm_1", expiry=(2027, 4)), NOW),
        make.event("payment_intent.payment_failed", pay.payment_intent(make, failure="No."), NOW + 1),
        make.event("invoice.payment_failed", make.invoice(), NOW + 1),
        make.event("charge.succeeded", pay.charge(make), NOW + 9),
        make.event("invoice.paid", make.invoice(status="paid"), NOW + 9),
        make.event("invoice_payment.paid", pay.invoice_payment(make), NOW + 9),
        make.event("refund.created", pay.refund(make, amount=900, status="pending"), NOW + DAY),
        make.event("charge.refunded", pay.charge(make, refunded=900), NOW + DAY),
        dispute("created", NOW + 2 * DAY),
        dispute("updated", NOW + 3 * DAY),
        make.event("refund.failed", pay.refund(make, amount=900, status="failed"), NOW + 4 * DAY),
        make.event("payment_method.attached", card("pm_2", expiry=(2031, 1)), NOW + 5 * DAY),
        make.event("payment_method.automatically_updated", card("pm_1", expiry=(2029, 4)), NOW + 6 * DAY),
        make.event(
            "payment_method.detached", card("pm_2", customer=None), NOW + 7 * DAY, previous={"customer": "cus_1"}
        ),
        make.event("customer.source.expiring", pay.card(make, expiry=(2027, 3)), NOW + 8 * DAY),
        dispute("closed", NOW + 30 * DAY, "lost"),
    ]


async def process(store: Store, mails: set[str], *events: Json) -> list[Json]:
    """Process the events in turn, retrying waiting ones while that helps. Returns those that still wait."""
    waiting: list[Json] = []
    for event in events:
        waiting.append(event)
        tried: list[Json] = []
        while len(waiting) != len(tried):
            tried, waiting = waiting, []
            waiting = [each for each in tried if not await _is_settled(store, mails, each)]
    return waiting


async def _is_settled(store: Store, mails: set[str], event: Json) -> bool:
    read_event, rule = read(event)
    async with store.transaction([]) as transaction:
        known = Known(CONFIG, await transaction.load(rule.refer(read_event)))
        try:
            outcome = apply(decide_with(rule, read_event, known), read_event, known)
        except NotKnownYet:
            return False
        mails |= {order.key for order in outcome.orders if isinstance(order, QueueEmail)}
        await transaction.flush(Flush(known))
    return True


async def rows(url: SecretStr, kind: type[Row]) -> dict[Any, Any]:
    shape = SHAPES[kind]
    connection = await asyncpg.connect(url.get_secret_value(), timeout=30)
    try:
        found = await connection.fetch(f"SELECT {shape.selected} FROM {shape.table.fullname} AS t", timeout=30)
    finally:
        await connection.close(timeout=30)
    return {row.key: row for row in map(shape.row, found)}


async def pending(url: SecretStr) -> list[Timer]:
    timers: list[Timer] = list((await rows(url, Timer)).values())
    return sorted((t for t in timers if t.status == "pending"), key=lambda t: (t.due_at, t.timer_key))


@pytest.mark.parametrize("shape", list(ApiShape))
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
async def test_D2_the_store_ends_like_the_world_in_memory(
    store: Store, database: SecretStr, shape: ApiShape, seed: int | None
) -> None:
    events = history(StripeEvents(shape))
    if seed is not None:
        random.Random(seed).shuffle(events)
    world, mails = PatientWorld().apply(*events), set[str]()
    waiting = await process(store, mails, *events)
    assert waiting == world.waiting == []
    for _ in range(3):  # a timer that fires may start another
        world.fire()
        for timer in await pending(database):
            assert await process(store, mails, timer_event(timer)) == []
    assert await pending(database) == []
    for kind in KINDS:
        assert await rows(database, kind) == {row.key: row for row in world.rows(kind)}
    assert mails == set(world.emails)
    assert await process(store, mails, *events) == []  # old events are found in the ledger, and not applied again
    for kind in KINDS:
        assert await rows(database, kind) == {row.key: row for row in world.rows(kind)}
    assert mails == set(world.emails)
