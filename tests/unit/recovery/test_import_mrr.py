"""The MRR of months before an import: by the real start, by what was billed, and by discounts (behaviours.md F1)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from analytics.compute import figures_of
from analytics.facts import fact_of
from local.stripe.builder import Json
from local.stripe.simulator.prices import PRICES
from recovery.imports.objects import entries_of
from schemas.figures import Movement
from sinks.stripe_api.listing import ListPage
from tests.kits.auditkit import CONFIG
from tests.kits.reconcilekit import NOW
from tests.kits.rulekit import MAKERS


def mrr(entries: Any) -> dict[datetime, int]:
    """The MRR after each change of it."""
    facts = [fact for entry in entries if (fact := fact_of(entry.value)) is not None]
    total, found = 0, {}
    for row in sorted((row for row in figures_of(facts, CONFIG) if isinstance(row, Movement)), key=lambda row: row.at):
        total += row.amount
        found[row.at] = total
    return found


def entries(obj: Json, shape: str) -> Any:
    return entries_of(obj, ListPage([], False, NOW, "req_1", shape), account="", livemode=False, now=NOW, began_at=NOW)


@pytest.mark.parametrize("make", MAKERS, ids=str)
@pytest.mark.parametrize("ended", [True, False])
def test_mrr_is_dated_by_the_real_start(make: Any, ended: bool) -> None:
    start, end = 1_750_000_000, 1_760_000_000
    over = {"status": "canceled", "ended_at": end, "canceled_at": end} if ended else {}
    obj = make.subscription(start=start, **over)
    found = mrr(entries(obj, str(make.shape)))

    assert list(found) == [datetime.fromtimestamp(at, UTC) for at in ([start, end] if ended else [start])]
    assert found[datetime.fromtimestamp(start, UTC)] > 0
    assert list(found.values())[-1] == (0 if ended else found[datetime.fromtimestamp(start, UTC)])


@pytest.mark.parametrize("make", MAKERS, ids=str)
@pytest.mark.parametrize("kind", ["subscription", "customer"])
def test_G53_an_imported_discount_counts_since_it_began(make: Any, kind: str) -> None:
    start = 1_750_000_000
    coupon = {"id": "co_1", "object": "coupon", "percent_off": 50, "duration": "forever"}
    given = {"id": "di_1", "object": "discount", "customer": "cus_1", "start": start + 86_400, "end": None,
             "source": {"type": "coupon", "coupon": coupon}}  # fmt: skip
    own = {"discounts": [given]} if kind == "subscription" else {}
    customer = make.customer("cus_1") | ({"discount": given} if kind == "customer" else {})
    objects = [customer, make.subscription(customer="cus_1", start=start, **own)]
    found = mrr([entry for obj in objects for entry in entries(obj, str(make.shape))])
    listed = found[datetime.fromtimestamp(start, UTC)]
    assert found == {
        datetime.fromtimestamp(start, UTC): listed,
        datetime.fromtimestamp(start + 86_400, UTC): listed // 2,
    }


DAY = 86_400
BEGIN = 1_750_000_000


def line(at: int, amount: int, price: str | None, *, item: str = "si_1", proration: bool = False) -> Json:
    details = {"subscription": "sub_1", "subscription_item": item, "proration": proration}
    return {
        "amount": amount, "currency": "eur", "period": {"start": at, "end": at + 30 * DAY}, "quantity": 1,
        "parent": {"type": "subscription_item_details", "subscription_item_details": details},
        **({"price": PRICES[price]} if price else {}),
    }  # fmt: skip


def invoice(number: int, at: int, *lines: Json) -> Json:
    return {
        "id": f"in_{number}", "object": "invoice", "customer": "cus_1", "currency": "eur", "status": "paid",
        "amount_due": 1, "amount_paid": 1, "created": at, "billing_reason": "subscription_cycle",
        "parent": {"type": "subscription_details", "subscription_details": {"subscription": "sub_1"}},
        "lines": {"data": list(lines)}, "status_transitions": {"paid_at": at + 3600},
    }  # fmt: skip


@pytest.mark.parametrize("status", ["active", "past_due"])
def test_mrr_of_past_months_follows_what_was_billed(status: str) -> None:
    """Pro, from day 40 on Team by a proration, and since day 70 Pro again; Team before the first known invoice too."""
    item = {"id": "si_1", "price": PRICES["price_pro"], "quantity": 1}
    subscription = {
        "id": "sub_1", "object": "subscription", "customer": "cus_1", "status": status, "currency": "eur",
        "start_date": BEGIN, "created": BEGIN, "items": {"data": [item]}, "ended_at": None,
    }  # fmt: skip
    change = BEGIN + 40 * DAY
    first = line(BEGIN, 2900, "price_pro")
    prorations = (
        line(change, -1900, "price_pro", proration=True),
        line(change, 6600, "price_team", proration=True),
    )
    third = line(BEGIN + 70 * DAY, 2900, "price_pro")
    objects = [
        subscription,
        invoice(3, BEGIN + 70 * DAY, third),
        invoice(2, BEGIN + 60 * DAY, line(BEGIN + 60 * DAY, 9900, "price_team"), *prorations),
        invoice(1, BEGIN, first),
    ]
    made = [entry for obj in objects for entry in entries(obj, "2025-03-31.basil")]

    days = {(at - datetime.fromtimestamp(BEGIN, UTC)).days: total for at, total in mrr(made).items()}
    assert days == {0: 2900, 40: 9900, 70: 2900}
    assert mrr(reversed(made)) == mrr(made)

    without_prices = [first, third]
    for one in without_prices:
        del one["price"]
    bare = [entry for obj in objects[:1] + objects[3:] for entry in entries(obj, "2025-03-31.basil")]
    assert list(mrr(bare).values()) == [2900]


def test_a_trial_earns_nothing_and_an_item_that_was_removed_ends() -> None:
    ended = BEGIN + 50 * DAY
    items = [{"id": "si_1", "price": PRICES["price_pro"], "quantity": 1}]
    subscription = {
        "id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "canceled", "currency": "eur",
        "start_date": BEGIN, "created": BEGIN, "trial_end": BEGIN + 14 * DAY, "items": {"data": items},
        "ended_at": ended, "canceled_at": ended,
    }  # fmt: skip
    trial = line(BEGIN, 0, "price_pro")
    own, other = (line(BEGIN + 14 * DAY, amount, price, item=item) for amount, price, item in (
        (2900, "price_pro", "si_1"), (9900, "price_team", "si_2"),
    ))  # fmt: skip
    removed = line(BEGIN + 20 * DAY, -5000, "price_team", item="si_2", proration=True)
    objects = [subscription, invoice(3, BEGIN + 44 * DAY, line(BEGIN + 44 * DAY, 2900, "price_pro"), removed)]
    objects += [invoice(2, BEGIN + 14 * DAY, own, other), invoice(1, BEGIN, trial)]
    made = [entry for obj in objects for entry in entries(obj, "2025-03-31.basil")]

    days = {(at - datetime.fromtimestamp(BEGIN, UTC)).days: total for at, total in mrr(made).items()}
    assert days == {14: 12800, 20: 2900, 50: 0}
