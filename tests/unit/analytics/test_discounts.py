"""MRR after discounts: what recurs is deducted, from its begin to its end, in every form in which Stripe reports it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from analytics.compute import BEGINNING, figures_of, figures_since
from analytics.running import checkpoint, fingerprint, running_of
from analytics.timeline import in_order
from local.stripe.builder import Json
from schemas.figures import Fact, Movement, Risk, Usage
from tests.kits.analyticskit import (
    BASIC,
    BEGIN,
    CONFIG,
    DAY,
    TEAM,
    YEARLY,
    fact,
    figures,
    invoiced,
    make,
    moves,
    subscribed,
    with_items,
)

HALF = {"percent_off": 50, "duration": "forever"}


def discount(coupon: Json, id_: str = "di_1", *, end: int | None = None, start: int = 0, **more: Any) -> Json:
    """A discount with its coupon; `start` and `end` are seconds after BEGIN."""
    return {
        "id": id_, "object": "discount", "customer": "cus_1", "start": BEGIN + start,
        "end": BEGIN + end if end is not None else None, "coupon": {"id": "co_1", "object": "coupon", **coupon}, **more,
    }  # fmt: skip


def said(seconds: int, what: str, obj: Json) -> Fact:
    """The fact of a `customer.discount.{what}` event `seconds` after BEGIN."""
    return fact(make.event(f"customer.discount.{what}", obj, BEGIN + seconds))


def mrr_of(*facts: Fact) -> int:
    return sum(amount for _, _, _, amount in moves(*facts))


@pytest.mark.parametrize(
    ("price", "coupon", "mrr"),
    [
        (BASIC, {"percent_off": 50, "duration": "forever"}, 500),
        (BASIC, {"percent_off": 12.5, "duration": "forever"}, 875),
        (BASIC, {"percent_off": 100, "duration": "forever"}, 0),
        (BASIC, {"amount_off": 300, "currency": "eur", "duration": "forever"}, 700),
        (BASIC, {"amount_off": 300, "currency": "usd", "duration": "forever"}, 1000),
        (BASIC, {"amount_off": 9_000, "currency": "eur", "duration": "forever"}, 0),
        (YEARLY, {"amount_off": 1_200, "currency": "eur", "duration": "forever"}, 733),  # (10000 - 1200) / 12
        (BASIC, {"percent_off": 50, "duration": "once"}, 1000),
        (BASIC, {"percent_off": "50", "duration": "forever"}, 1000),
    ],
)
@pytest.mark.parametrize("shape", ["discount", "discounts", "source", "event"])
def test_G53_recurring_discounts_are_deducted(price: Any, coupon: Json, mrr: int, shape: str) -> None:
    """As one discount, in a list, under `source`, and named by its id beside an event of its own."""
    found = discount(coupon)
    if shape == "discount":
        facts = [subscribed(0, price, discount=found)]
    elif shape == "discounts":
        facts = [subscribed(0, price, discounts=[found])]
    elif shape == "source":
        found["source"] = {"type": "coupon", "coupon": found.pop("coupon")}
        facts = [subscribed(0, price, discounts=[found])]
    else:
        facts = [subscribed(0, price, discounts=["di_1"]), said(0, "created", found | {"subscription": "sub_1"})]
    assert mrr_of(*facts) == mrr
    (movement,) = figures(facts, Movement)
    assert isinstance(movement, Movement)
    assert movement.list_amount == (1000 if price is BASIC else 833)
    assert movement.kind == ("new" if mrr else "expansion")


def test_G53_a_discount_that_repeats_ends_at_its_end() -> None:
    found = discount({"percent_off": 50, "duration": "repeating", "duration_in_months": 3}, end=90 * DAY)
    facts = [subscribed(0, discounts=[found]), invoiced(60 * DAY, "paid"), invoiced(91 * DAY, "paid", "in_2")]
    assert moves(*facts[:2]) == [(0, "new", "basic", 500)]
    assert moves(*facts) == [(0, "new", "basic", 500), (90 * DAY, "expansion", "basic", 500)]


def test_G53_two_coupons_follow_each_other_and_an_item_has_its_own() -> None:
    amount = discount({"amount_off": 200, "currency": "eur", "duration": "forever"}, "di_2")
    assert mrr_of(subscribed(0, discounts=[discount(HALF), amount])) == 300
    assert mrr_of(subscribed(0, discounts=[amount, discount(HALF)])) == 400
    items = with_items([(BASIC, 1), (TEAM, 1)])
    items["items"]["data"][1]["discounts"] = [discount(HALF)]
    assert moves(subscribed(0, **items)) == [(0, "new", "basic", 1000), (0, "new", "team", 1500)]
    assert moves(subscribed(0, **items, discounts=[discount({"percent_off": 10, "duration": "forever"}, "di_2")])) == [
        (0, "new", "basic", 900),
        (0, "new", "team", 1350),
    ]


def test_G53_a_discount_that_is_removed_or_exchanged() -> None:
    given = said(5, "created", discount(HALF, start=5, subscription="sub_1"))
    assert moves(subscribed(0), given, subscribed(5, discounts=["di_1"]), subscribed(9)) == [
        (0, "new", "basic", 1000),
        (5, "contraction", "basic", -500),
        (9, "expansion", "basic", 500),
    ]
    exchanged = said(7, "updated", discount({"percent_off": 20, "duration": "forever"}, start=5, subscription="sub_1"))
    assert mrr_of(subscribed(0, discounts=["di_1"]), given, exchanged) == 800
    ended = said(8, "deleted", discount(HALF, start=5, subscription="sub_1"))
    assert mrr_of(subscribed(0, discounts=["di_1"]), given, ended) == 1000


def test_G53_a_customers_discount_counts_for_subscriptions_without_one() -> None:
    own = discount({"percent_off": 20, "duration": "forever"}, "di_c", subscription=None)
    facts = [
        said(0, "created", own),
        subscribed(1),
        subscribed(1, TEAM, id_="sub_2", discounts=[discount(HALF)]),
    ]
    assert moves(*facts) == [(1, "new", "basic", 800), (1, "new", "team", 1500)]
    assert mrr_of(*facts, said(9, "deleted", own)) == 1000 + 1500
    customer = {"id": "cus_1", "object": "customer"}
    listed = fact(make.event("customer.updated", customer | {"discount": own}, BEGIN + 2))
    gone = make.event("customer.updated", customer | {"discount": None}, BEGIN + 3)
    gone["data"]["previous_attributes"] = {"discount": own}
    assert mrr_of(*facts[1:], listed) == 800 + 1500
    assert mrr_of(*facts[1:], listed, fact(gone)) == 1000 + 1500


def test_G53_without_the_coupon_invoices_say_what_recurs() -> None:
    """A discount for one invoice is on one invoice only, so the second one proves that it recurs."""
    source = {"type": "coupon", "coupon": "co_1"}
    named = subscribed(0, discounts=[{"id": "di_1", "object": "discount", "source": source, "start": BEGIN}])
    invoices = [_discounted_invoice(at * DAY, f"in_{at}", 1000, 250) for at in (1, 31, 61)]
    assert mrr_of(named, invoices[0]) == 1000
    assert moves(named, *invoices) == [(0, "new", "basic", 1000), (31 * DAY, "contraction", "basic", -250)]
    assert mrr_of(named, *invoices, subscribed(62 * DAY)) == 1000


def test_G53_one_invoice_in_several_events_does_not_prove_that_a_discount_recurs() -> None:
    """Stripe sends invoice.paid and invoice.payment_succeeded, and an import reports the invoice again."""
    named = subscribed(0, discounts=["di_1"])
    first = [
        _discounted_invoice(DAY, "in_1", 1000, 250),
        _discounted_invoice(DAY, "in_1", 1000, 250, type_="invoice.payment_succeeded"),
        replace(_discounted_invoice(DAY, "in_1", 1000, 250), event_id="imp_1"),
    ]
    assert mrr_of(named, *first) == 1000
    assert mrr_of(named, *first, _discounted_invoice(31 * DAY, "in_2", 1000, 250)) == 750


def test_G53_of_coupons_that_follow_each_other_each_deducts_from_what_is_left() -> None:
    named = subscribed(0, discounts=["di_1", "di_2"])
    invoices = [
        _discounted_invoice(at * DAY, f"in_{at}", 1000, 500, more=[{"amount": 250, "discount": "di_2"}])
        for at in (1, 31)
    ]
    assert mrr_of(named, *invoices) == 250


def test_G53_a_full_discount_beside_ids_is_read() -> None:
    """Versions that list ids in `discounts` may have the first of them in full in `discount`."""
    assert mrr_of(subscribed(0, discount=discount(HALF), discounts=["di_1"])) == 500
    assert mrr_of(subscribed(0, discount=discount(HALF), discounts=[discount(HALF)])) == 500
    other = discount({"percent_off": 20, "duration": "forever"}, "di_2")
    assert mrr_of(subscribed(0, discount=discount(HALF), discounts=[other])) == 800


def test_G53_a_customers_discount_that_is_exchanged_within_a_second() -> None:
    old, new = (discount({"percent_off": off, "duration": "forever"}, f"di_{off}") for off in (50, 20))
    facts = [said(0, "created", old), subscribed(1)]
    assert mrr_of(*facts, said(9, "created", new), said(9, "deleted", old)) == 800
    assert mrr_of(*facts, said(9, "created", new), said(9, "deleted", old), said(19, "deleted", new)) == 1000
    of_checkout = discount(HALF, "di_cs", checkout_session="cs_1")
    assert mrr_of(said(0, "created", of_checkout), subscribed(1)) == 1000


def test_G53_a_subscriptions_discount_that_is_over_does_not_hide_the_customers() -> None:
    own = said(0, "created", discount({"percent_off": 20, "duration": "forever"}, "di_c"))
    once, ended = discount({"percent_off": 50, "duration": "once"}), discount(HALF, end=DAY)
    assert mrr_of(own, subscribed(1, discounts=[once])) == 800
    assert moves(own, subscribed(1, discounts=[ended]), subscribed(2 * DAY, discounts=[ended])) == [
        (1, "new", "basic", 500),
        (DAY, "expansion", "basic", 300),
    ]
    assert mrr_of(own, subscribed(1, discounts=[once, discount(HALF, "di_2")])) == 500


def _discounted_invoice(
    seconds: int, id_: str, amount: int, off: int, *, type_: str = "invoice.paid", more: Sequence[Json] = ()
) -> Fact:
    obj = make.invoice(id_, price=BASIC, status="paid", created=BEGIN + seconds)
    obj["lines"]["data"][0] |= {"amount": amount, "discount_amounts": [{"amount": off, "discount": "di_1"}, *more]}
    return fact(make.event(type_, obj, BEGIN + seconds))


def test_G53_facts_in_any_order_and_from_a_checkpoint_give_the_same() -> None:
    found = discount({"percent_off": 50, "duration": "repeating"}, end=40 * DAY)
    facts = [
        said(0, "created", discount({"percent_off": 20, "duration": "forever"}, "di_c", end=70 * DAY)),
        subscribed(0, discounts=[found]),
        *(invoiced(days * DAY, "paid", f"in_{days}") for days in range(0, 120, 15)),
        subscribed(50 * DAY, TEAM, discounts=["di_1"]),
        subscribed(60 * DAY, TEAM),
    ]
    want = [row for row in figures_of(facts, CONFIG) if isinstance(row, Movement)]
    # The subscription's own discount ends, and then the customer's counts.
    assert [(row.at.timestamp() - BEGIN, row.amount) for row in want][1:] == [
        (40 * DAY, 300),
        (50 * DAY, -800),
        (50 * DAY, 2400),
        (70 * DAY, 600),
    ]
    random.Random(1).shuffle(facts)  # a fixed order
    assert [row for row in figures_of(facts, CONFIG) if isinstance(row, Movement)] == want
    ordered = in_order(facts)
    for keep in range(1, len(ordered)):
        stored = checkpoint(ordered[0].of, BEGINNING, ordered, CONFIG, keep=keep, made_by=fingerprint(CONFIG))
        if stored is None:
            continue
        tail = [one for one in ordered if one.created >= stored.since]
        later = [row for row in figures_since(running_of(stored), tail, tail, CONFIG) if isinstance(row, Movement)]
        assert later == [row for row in want if row.at >= stored.since], keep


def test_G54_usage_and_tiers_are_a_figure_of_their_own() -> None:
    """MRR and usage add up to what was billed: metered, tiered and mixed subscriptions."""
    items = with_items([(BASIC, 2), (TEAM, 1), (YEARLY, 1)])
    data = items["items"]["data"]
    data[1]["price"]["recurring"]["usage_type"] = "metered"
    data[2]["price"] |= {"billing_scheme": "tiered", "unit_amount": None, "unit_amount_decimal": None}
    begun = subscribed(0, **items)
    obj = make.invoice("in_1", price=BASIC, status="paid", created=BEGIN + DAY)
    line = obj["lines"]["data"][0]
    prices = [one["price"] for one in data]
    obj["lines"]["data"] = [
        {**line, "price": price, "amount": amount, "discount_amounts": [{"amount": off, "discount": "di_1"}]}
        for price, amount, off in zip(prices, (2000, 7700, 300), (0, 700, 0), strict=True)
    ]
    billed = fact(make.event("invoice.paid", obj, BEGIN + DAY))
    (used,) = figures([begun, billed], Usage)
    assert isinstance(used, Usage)
    assert (used.amount, used.currency, used.invoice_id) == (7300, "eur", "in_1")
    assert mrr_of(begun, billed) + used.amount == 2000 + 7700 - 700 + 300
    assert figures([begun, billed, subscribed(2 * DAY, type_="deleted", **items)], Usage) == []


def test_G58_a_pause_is_no_churn_and_a_trial_that_was_paused_is_new() -> None:
    pause: dict[str, Any] = {"pause_collection": {"behavior": "void", "resumes_at": None}}
    other = subscribed(0, TEAM, id_="sub_2")
    assert moves(subscribed(0), other, subscribed(5, **pause), subscribed(9)) == [
        (0, "new", "basic", 1000),
        (0, "new", "team", 3000),
        (5, "pause", "basic", -1000),
        (9, "resume", "basic", 1000),
    ]
    assert moves(subscribed(0, status="trialing"), subscribed(5, status="paused"), subscribed(9)) == [
        (9, "new", "basic", 1000)
    ]
    assert moves(subscribed(0), subscribed(5, type_="deleted"), subscribed(5, TEAM, id_="sub_2", **pause)) == [
        (0, "new", "basic", 1000),
        (5, "churn", "basic", -1000),
    ]


def test_G58_who_leaves_while_paused_has_left() -> None:
    """The pause has taken the MRR out, so the end changes none: it is churn by what was paused."""
    pause: dict[str, Any] = {"pause_collection": {"behavior": "void", "resumes_at": None}}
    ended = subscribed(9, type_="deleted", status="canceled")
    assert _lost(subscribed(0), subscribed(5, **pause), ended) == [(0, "new", 0), (5, "pause", 0), (9, "churn", -1000)]
    assert _lost(subscribed(0), subscribed(5, **pause), subscribed(6, TEAM, **pause), ended)[-1] == (9, "churn", -1000)
    assert _lost(subscribed(0), subscribed(5, **pause), subscribed(7), ended)[-1] == (9, "churn", 0)
    assert _lost(subscribed(0, status="trialing"), subscribed(5, status="paused"), ended) == []
    other = subscribed(0, TEAM, id_="sub_2")
    assert _lost(subscribed(0), other, subscribed(5, **pause), ended)[-1] == (9, "contraction", -1000)
    paused = subscribed(6, TEAM, id_="sub_2", **pause)  # the customer may still come back to it
    assert _lost(subscribed(0), other, subscribed(5, **pause), paused, ended)[-1] == (9, "contraction", -1000)


def _lost(*facts: Fact) -> list[tuple[int, str, int | None]]:
    """(seconds after BEGIN, kind, MRR lost while paused) of each movement. Checkpoints give the same."""
    rows = [row for row in figures_of(facts, CONFIG) if isinstance(row, Movement)]
    ordered = in_order(facts)
    stored = checkpoint(ordered[0].of, BEGINNING, ordered, CONFIG, keep=1, made_by="")
    assert stored is not None
    later = figures_since(running_of(stored), ordered[-1:], ordered[-1:], CONFIG)
    assert [row for row in later if isinstance(row, Movement)] == [row for row in rows if row.at >= stored.since]
    return [(int(row.at.timestamp()) - BEGIN, str(row.kind), row.paused_lost) for row in rows]


def test_G58_a_pause_neither_recovers_nor_loses_what_is_past_due() -> None:
    pause: dict[str, Any] = {"status": "past_due", "pause_collection": {"behavior": "void", "resumes_at": None}}
    facts = [subscribed(0), subscribed(2, status="past_due"), subscribed(5, **pause)]
    ends = {"open": [], "recovered": [subscribed(9)], "lost": [subscribed(9, type_="deleted", status="canceled")]}
    for outcome, more in ends.items():
        (risk,) = figures([*facts, *more], Risk)
        assert isinstance(risk, Risk)
        assert (str(risk.outcome), risk.mrr, int(risk.began_at.timestamp()) - BEGIN) == (outcome, 1000, 2)
