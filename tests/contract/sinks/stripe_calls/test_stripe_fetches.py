"""C7, D2: what a queued GET returns from Stripe is put on the log once, as an event."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from local.stripe.builder import StripeEvents
from schemas.effects import FIND_RECIPIENT
from schemas.ordering import ordering_key
from schemas.state import derived_id
from tests.kits.rulekit import NOW, RulesWorld
from tests.kits.stripekit import (
    CallOutboxKit,
    FakeStripeServer,
    open_desk,
    records,
)
from tests.waiting import eventually

SUBSCRIPTION = {
    "id": "sub_1",
    "object": "subscription",
    "customer": "cus_1",
    "status": "past_due",
    "livemode": False,
    "created": 1_760_000_000,
}


async def test_a_refetch_reaches_the_log_once(
    logged_desk: CallOutboxKit, stripe: FakeStripeServer, kafka_bootstrap: str, topic: str
) -> None:
    """As an event of that customer, with an id derived from the call and the time of Stripe's clock."""
    desk = logged_desk
    stripe.objects["sub_1"] = SUBSCRIPTION
    stripe.ahead_s = 3600.0
    await desk.queue_get("tie:acct_7:sub_1:17", account="acct_7")
    async with desk.dispatcher():
        await desk.until("tie:acct_7:sub_1:17", status="done")
    (record,) = await asyncio.to_thread(records, kafka_bootstrap, topic)
    event = record.event
    assert event["data"]["object"] == SUBSCRIPTION
    assert (event["type"], event["account"], event["livemode"]) == ("customer.subscription.updated", "acct_7", False)
    assert event["id"] == derived_id("ref", "tie:acct_7:sub_1:17")
    assert abs(event["created"] - datetime.now(UTC).timestamp() - 3600) < 60
    assert record.key == ordering_key(event).encode() == b"acct_7/cus_1"
    assert record.headers | {"received_at": ""} == {
        "event_id": event["id"],
        "type": "customer.subscription.updated",
        "source": "reconcile",
        "account": "acct_7",
        "livemode": "false",
        "api_version": "2026-10-28.test",
        "endpoint": "",
        "received_at": "",
    }
    (seen,) = stripe.requests
    assert (seen.method, seen.account, seen.idempotency_key) == ("GET", "acct_7", None)


async def test_the_address_of_a_customer_without_events_arrives_through_the_log(
    logged_desk: CallOutboxKit, stripe: FakeStripeServer, kafka_bootstrap: str, topic: str
) -> None:
    """The customer's own later events take precedence over it."""
    desk, make = logged_desk, StripeEvents()
    world = RulesWorld().apply(make.event("customer.subscription.created", make.subscription(), NOW))
    assert world.customer().email is None
    stripe.objects["cus_1"] = make.customer(email="jane@example.com")
    await desk.queue(
        "recipient::cus_1", method="GET", path="/v1/customers/cus_1", params={}, customer_id="cus_1",
        purpose=FIND_RECIPIENT,
    )  # fmt: skip
    async with desk.dispatcher():
        await desk.until("recipient::cus_1", status="done")

    (record,) = await asyncio.to_thread(records, kafka_bootstrap, topic)

    assert (record.event["type"], record.headers["source"], record.key) == ("customer.updated", "reconcile", b"cus_1")
    assert world.apply(record.event).customer().email == "jane@example.com"
    moved = make.event("customer.updated", make.customer(email="new@example.com"), NOW, previous={"email": "x"})
    assert world.apply(moved).customer().email == "new@example.com"


async def test_a_refetch_that_dies_before_its_mark_doubles_nothing(
    logged_desk: CallOutboxKit, stripe: FakeStripeServer, kafka_bootstrap: str, topic: str
) -> None:
    """The event is appended a second time with the same id, which the ledger recognises."""
    desk = logged_desk
    stripe.objects["sub_1"] = SUBSCRIPTION
    await desk.queue_get("tie")
    async with desk.dispatcher():
        await desk.until("tie", status="done")
    await desk.connection.execute("UPDATE billing.stripe_calls SET status = 'calling', done_at = NULL")
    desk.clock.move(minutes=11)
    async with desk.dispatcher(claimer="two"):
        await desk.until("tie", status="done", attempts=2)
    found = await asyncio.to_thread(records, kafka_bootstrap, topic)
    assert len(found) == 2
    assert len({record.event["id"] for record in found}) == 1


async def test_an_answer_of_the_tied_second_is_not_used(logged_desk: CallOutboxKit, stripe: FakeStripeServer) -> None:
    """It would be another event of the same second, so Stripe is asked again in a later second of its clock."""
    desk = logged_desk
    stripe.objects["sub_1"] = SUBSCRIPTION
    await desk.connection.execute(
        "INSERT INTO billing.events (event_id, type, stream, outcome, created) VALUES ('evt_tie', '', '', 'stale', $1)",
        datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5),
    )
    await desk.queue_get("tie")
    async with desk.dispatcher():
        row = await desk.until("tie", status="queued", attempts=1)
        assert "not newer than the event" in row["last_error"]
        stripe.ahead_s = 600.0
        desk.clock.move(seconds=3)
        await desk.until("tie", status="done", attempts=2)


async def test_a_fetched_object_without_an_event_type_fails(desk: CallOutboxKit, stripe: FakeStripeServer) -> None:
    stripe.objects["bt_1"] = {"id": "bt_1", "object": "balance_transaction"}
    await desk.queue_get("a", path="/v1/balance_transactions/bt_1", purpose="fetch")
    async with desk.dispatcher():
        row = await desk.until("a", status="failed")
    assert row["last_error"] == "no event type reports the state of balance_transaction"


async def test_a_log_that_is_down_costs_no_call_a_try(
    database: SecretStr, stripe: FakeStripeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stripe has answered but Kafka accepts nothing: all calls pause."""
    monkeypatch.setattr("eventlog.append._DELIVERY_TIMEOUT_S", 1)
    stripe.objects["sub_1"] = SUBSCRIPTION
    async with open_desk(database, stripe, "127.0.0.1:1", "none") as desk:
        await desk.queue_get("tie")
        async with desk.dispatcher() as running:
            await eventually(lambda: "did not take" in (running.trouble() or ""))
            await desk.until("tie", status="queued", attempts=0)
