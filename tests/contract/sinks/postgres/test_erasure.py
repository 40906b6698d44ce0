"""B6 on the real store: after the erasure no table identifies the customer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from local.stripe.builder import ApiShape, Json, StripeEvents
from local.stripe.payments import charge, dispute, invoice_payment, payment_method
from schemas.state import Organization
from schemas.verdict import Applied, Duplicate
from sinks.postgres import tables
from sinks.postgres.personal_data import held_on_customers
from tests.kits.erasurekit import GONE, JANE, LAST4, LATE, NEEDLES, ErasureKit, history, left, open_kit
from tests.kits.rulekit import DAY, NOW, at

# Tables without customer data. A new table is listed here, or belonging.py defines how its rows belong to a customer.
IMPERSONAL = {
    *("backfills", "brakes", "reconciliations", "rebuilds", "rebuilt", "log_positions", "outages", "feed_destinations"),
    *("database_identity", "system_mode", "shadow", "positions"),
    *("audits", "audit_differences", "audit_objects", "imports"),
    *("console_sessions", "console_actions"),  # people who operate the system; addresses in filters are replaced
    "audit_log",  # addresses are replaced before they are written (sinks/postgres/audit_log.py)
}


@pytest.fixture(params=list(ApiShape), ids=lambda shape: shape.name.lower())
def make(request: pytest.FixtureRequest) -> StripeEvents:
    return StripeEvents(request.param)


@pytest.fixture
async def rig(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[ErasureKit]:
    async with open_kit(kafka_bootstrap, database, topic_prefix, tmp_path) as opened:
        yield opened


async def test_B6_after_the_erasure_no_column_of_any_table_identifies_the_customer(
    rig: ErasureKit, make: StripeEvents
) -> None:
    await rig.process(*history(make), left(make))
    assert set(await rig.found()) == set(NEEDLES), "the history must hold what is to be erased"
    amounts = await rig.rows("SELECT invoice_id, amount, currency, status FROM billing.payments ORDER BY invoice_id")
    rig.now[0] = at(GONE)

    verdicts = await rig.process(await rig.due("erase::sub_1"))

    assert verdicts == [Applied()]
    assert await rig.found() == {}
    after = await rig.rows("SELECT invoice_id, amount, currency, status FROM billing.payments ORDER BY invoice_id")
    assert after == amounts
    assert amounts
    pending = await rig.rows(
        "SELECT timer_key FROM billing.timers WHERE status IN ('pending', 'fired') AND customer_id = 'cus_1' "
        "UNION ALL SELECT email_key FROM billing.emails WHERE status IN ('queued', 'sending') "
        "AND customer_id = 'cus_1' "
        "UNION ALL SELECT call_key FROM billing.stripe_calls WHERE status IN ('queued', 'calling') "
        "UNION ALL SELECT event_id FROM billing.dead_letters WHERE status = 'open' "
        "UNION ALL SELECT event_id FROM billing.events WHERE outcome = 'waiting'"
    )
    assert pending == []
    (noted,) = await rig.rows("SELECT * FROM billing.erasures")
    assert (noted["customer_id"], noted["asked_at"], noted["erased_at"]) == ("cus_1", at(LATE), at(GONE))
    assert noted["organization_id"] == Organization.id_of("", "cus_1")
    assert noted["kafka_until"] == at(GONE) + timedelta(days=29)
    assert noted["dead_letters_until"] == at(NOW) + timedelta(days=91)
    assert orjson.loads(noted["counts"])["events"] >= len(history(make))


async def test_B6_letters_of_events_that_name_no_customer_are_discarded(rig: ErasureKit, make: StripeEvents) -> None:
    """A dispute names only its charge, and this one died."""
    of_intent = make.event("invoice_payment.paid", invoice_payment(make, invoice="in_1"), NOW + 4)
    nameless = {**dispute(make, "dp_9", charge="ch_1"), "id": None}
    dead = make.event("charge.dispute.created", nameless, NOW + 5, id_="evt_nameless")
    await rig.process(*history(make), of_intent, dead, left(make))
    letters = "SELECT status, top_frame FROM billing.dead_letters WHERE event_id = 'evt_nameless'"
    frame = "a/b.py:1 in jo@example.com"
    await rig.rows(f"UPDATE billing.dead_letters SET top_frame = '{frame}' WHERE event_id = 'evt_nameless' RETURNING 1")
    assert await rig.rows(letters) == [{"status": "open", "top_frame": frame}]
    rig.now[0] = at(GONE)
    await rig.process(await rig.due("erase::sub_1"))
    assert await rig.rows(letters) == [{"status": "discarded", "top_frame": ""}]


async def test_B6_other_customers_keep_their_data(rig: ErasureKit, make: StripeEvents) -> None:
    """A user of two organizations, the same customer id under another account, and an unrelated customer.

    The user's other customer bought once and has no subscription, so that the user does not stay because of it.
    """
    linked = make.checkout_session(customer="cus_1", subscription="sub_1", user="usr_shared")
    other = make.checkout_session("cs_2", customer="cus_2", mode="payment", user="usr_shared")
    namesake = make.event("customer.created", make.customer(email="namesake@example.com"), NOW) | {"account": "acct_9"}
    await rig.process(
        make.event("customer.created", make.customer(**JANE), NOW),  # type: ignore[arg-type]  # the builder's keywords
        make.event("customer.created", make.customer("cus_2", email="kim@example.com", name="Kim"), NOW),
        make.event("customer.subscription.created", make.subscription(start=NOW), NOW + 1),
        make.event("checkout.session.completed", linked, NOW + 2),
        make.event("checkout.session.completed", other, NOW + 3),
        namesake,
        left(make),
    )
    rig.now[0] = at(GONE)
    await rig.process(await rig.due("erase::sub_1"))

    customers = await rig.rows("SELECT account, customer_id, email FROM billing.customers ORDER BY 1, 2")
    assert [tuple(row.values()) for row in customers] == [
        ("", "cus_1", None),
        ("", "cus_2", "kim@example.com"),
        ("acct_9", "cus_1", "namesake@example.com"),
    ]
    (user,) = await rig.rows("SELECT email FROM billing.users WHERE user_id = 'usr_shared'")
    assert user["email"] == "kim@example.com"
    kept = await rig.rows("SELECT count(*) AS n FROM billing.events WHERE customer_id = 'cus_2' AND payload IS NULL")
    assert kept == [{"n": 0}]


def late_events(make: StripeEvents) -> dict[str, Json]:
    """One late event of each kind, all with the person's name, address or card (trust T24, T28)."""
    when = GONE + 5 * DAY
    person: dict[str, Any] = {
        "billing_details": {"name": JANE["name"], "email": JANE["email"]},
        "receipt_email": JANE["email"],
    }
    refunded = charge(make, "ch_1", refunded=2900, **person)
    disputed = dispute(make, "dp_late", charge="ch_1", evidence={"customer_name": JANE["name"]})
    card = payment_method(make, "pm_1", last4=LAST4, **person)
    warning = {"id": "issfr_1", "object": "radar.early_fraud_warning", "charge": "ch_1", "fraud_type": "stolen"}
    setup = {"id": "seti_1", "object": "setup_intent", "payment_method": "pm_1", "status": "succeeded"}
    invoices = {
        "voided": ("invoice.voided", make.invoice("in_2", status="void", created=when, **JANE)),  # type: ignore[arg-type]  # as above
        "paid": ("invoice.paid", make.invoice("in_3", status="paid", created=when, **JANE)),  # type: ignore[arg-type]  # as above
        "failed": ("invoice.payment_failed", make.invoice("in_4", created=when, **JANE)),  # type: ignore[arg-type]  # as above
    }
    jane = make.customer(**JANE)  # type: ignore[arg-type]  # as above
    review = {"id": "prv_1", "object": "review", "charge": "ch_1", "ip_address_location": {"city": JANE["name"]}}
    refund = {
        "id": "re_1",
        "object": "refund",
        "charge": "ch_1",
        "amount": 2900,
        "currency": "usd",
        "status": "succeeded",
        "created": when,
        "destination_details": {"card": {"reference": JANE["name"]}},
    }
    alone = charge(make, "ch_alone", customer="cus_1", invoice=None, payment_intent=None, **person)
    unlinked = dispute(make, "dp_alone", charge="ch_alone", payment_intent=None, evidence=JANE)
    return {
        # The first names a charge that no event has linked to the customer; the next one does.
        "unlinked": make.event("charge.dispute.created", unlinked, when),
        "linking": make.event("charge.updated", alone, when),
        "dispute": make.event("charge.dispute.created", disputed, when),
        "fraud": make.event("radar.early_fraud_warning.created", warning | person, when),
        "review": make.event("review.opened", review, when),
        "refund_object": make.event("refund.created", refund, when),
        "refund": make.event("charge.refunded", refunded, when),
        "card": make.event("payment_method.automatically_updated", card, when),
        "creation": make.event("customer.created", jane, NOW),
        "profile": make.event("customer.updated", jane, when, previous={"name": None}),
        **{name: make.event(type_, invoice, when) for name, (type_, invoice) in invoices.items()},
        "setup": make.event("setup_intent.succeeded", setup | person, when),
        "dead": make.event("customer.updated", jane | {"metadata": 7}, when),
    }


async def test_B6_late_events_bring_no_personal_data_back(rig: ErasureKit, make: StripeEvents) -> None:
    """Of any kind and of any time. What they say about money is stored."""
    of_intent = make.event("invoice_payment.paid", invoice_payment(make, invoice="in_1"), NOW + 4)
    await rig.process(*history(make), of_intent, left(make))
    rig.now[0] = at(GONE)
    await rig.process(await rig.due("erase::sub_1"))
    for name, event in late_events(make).items():
        await rig.process(event | {"id": f"evt_late_{name}"})
        is_known = name != "unlinked"  # the next event says whose charge it is
        assert (name, await rig.found() == {}) == (name, is_known)
    (card,) = await rig.rows("SELECT brand, last4, exp_year FROM billing.payment_methods")
    assert card == {"brand": None, "last4": None, "exp_year": None}
    (paid,) = await rig.rows("SELECT status FROM billing.payments WHERE invoice_id = 'in_3'")
    assert paid["status"] == "succeeded"


async def test_B6_who_returns_after_the_erasure_is_a_new_customer(rig: ErasureKit, make: StripeEvents) -> None:
    """A subscription that begins after the erasure ends that state; the end of that one leads to another erasure."""
    await rig.process(*history(make), left(make))
    rig.now[0] = at(GONE)
    await rig.process(await rig.due("erase::sub_1"))
    back = GONE + 20 * DAY
    await rig.process(
        make.event("customer.subscription.created", make.subscription("sub_new", start=back), back),
        make.event("customer.updated", make.customer(**JANE), back + 1, previous={"name": None}),  # type: ignore[arg-type]
    )
    (row,) = await rig.rows("SELECT name FROM billing.customers")
    assert row["name"] == JANE["name"]
    rig.now[0] = at(back + DAY)
    await rig.process(
        make.event(
            "customer.subscription.deleted", make.subscription("sub_new", status="canceled", start=back), back + DAY
        )
    )
    rig.now[0] = at(back + 40 * DAY)
    await rig.process(await rig.due("erase::sub_new"))
    assert await rig.found() == {}


async def test_B6_later_events_in_the_batch_of_the_erasure_are_not_erased(rig: ErasureKit, make: StripeEvents) -> None:
    await rig.process(*history(make), left(make))
    rig.now[0] = at(GONE)
    due = await rig.due("erase::sub_1")
    before = make.event("customer.updated", make.customer(**JANE), GONE - 5, previous={"name": None})  # type: ignore[arg-type]  # the builder's keywords
    late = make.event("customer.updated", make.customer(**JANE), GONE + 3, previous={"name": None})  # type: ignore[arg-type]  # as above
    begun = make.event("customer.subscription.created", make.subscription("sub_new", start=GONE + 4), GONE + 4)
    back = make.event(
        "customer.updated", make.customer(email="new@example.com", name="New"), GONE + 5, previous={"email": None}
    )

    verdicts = await rig.process(before, due, late, begun, back, due)

    assert verdicts == [Applied(), Applied(), Applied(), Applied(), Applied(), Duplicate()]
    assert await rig.found() == {}
    (customer,) = await rig.rows("SELECT email, name FROM billing.customers")
    assert customer == {"email": "new@example.com", "name": "New"}
    kept = {row["event_id"] for row in await rig.rows("SELECT event_id FROM billing.events WHERE payload IS NOT NULL")}
    assert {begun["id"], back["id"]} <= kept
    assert not {before["id"], late["id"]} & kept


async def test_B6_a_new_subscription_stops_the_erasure(rig: ErasureKit, make: StripeEvents) -> None:
    await rig.process(*history(make), left(make))
    due = await rig.due("erase::sub_1")
    again = make.event("customer.subscription.created", make.subscription("sub_2", start=LATE + DAY), LATE + DAY)
    await rig.process(again)
    (timer,) = await rig.rows("SELECT status FROM billing.timers WHERE timer_key = 'erase::sub_1'")
    assert timer["status"] == "cancelled"
    rig.now[0] = at(GONE)

    await rig.process(due)  # it was appended just before

    assert await rig.rows("SELECT 1 FROM billing.erasures") == []
    assert set(await rig.found()) == set(NEEDLES)


def test_each_table_declares_whether_it_has_customer_data() -> None:
    held = {table.name for table in held_on_customers()}
    others = {table.name for table in tables.metadata.tables.values()} - held
    assert others <= IMPERSONAL, f"define in belonging.py which rows belong to a customer in {others - IMPERSONAL}"
