"""MRR and its movements, compared with values computed by hand, for any order, repetition or delay of the events."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analytics.compute import BEGINNING, figures_of, figures_since
from analytics.rates import TooMuchMoney, monthly_rate, rounded
from analytics.running import MOST_SUBSCRIPTIONS, checkpoint, fingerprint, running_of
from analytics.timeline import in_order
from local.stripe.builder import ApiShape, Price, StripeEvents
from schemas.figures import Fact, Movement, PaymentTotal, Recovery, Risk
from schemas.stripe.billed_subscription import BilledItem
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
    moment,
    moves,
    subscribed,
    with_items,
)


@pytest.mark.parametrize(
    ("amount", "quantity", "interval", "count", "rate"),
    [
        ("1000", 3, "month", 1, Fraction(3000)),
        ("10000", 1, "year", 1, Fraction(2500, 3)),
        ("1000", 1, "month", 3, Fraction(1000, 3)),
        ("300", 1, "week", 1, Fraction(1300)),
        ("12", 1, "day", 1, Fraction(365)),
        ("0.5", 3, "month", 1, Fraction(3, 2)),
        (None, 5, "month", 1, Fraction(0)),
        ("1000", 1, None, 1, Fraction(0)),
    ],
)
def test_a_rate_is_exact(amount: str | None, quantity: int, interval: str | None, count: int, rate: Fraction) -> None:
    item = BilledItem(
        price_id="price_1", unit_amount=amount, quantity=quantity, interval=interval, interval_count=count
    )
    assert monthly_rate(item) == rate


def test_the_sum_is_rounded_once_half_to_even() -> None:
    third = Fraction(2500, 3)
    assert rounded([third, third, third]) == 2500  # not 3 x 833
    assert [rounded([Fraction(n, 2)]) for n in (1, 3, 5)] == [0, 2, 2]


def test_an_amount_out_of_range_is_refused() -> None:
    item = BilledItem(price_id="price_1", unit_amount="9" * 18, quantity=9_999, interval="month")
    with pytest.raises(TooMuchMoney):
        monthly_rate(item)


def test_movements_of_one_customer_from_start_to_end() -> None:
    assert moves(
        subscribed(0, type_="created", status="trialing"),
        subscribed(14 * DAY, BASIC),
        subscribed(20 * DAY, TEAM),
        subscribed(30 * DAY, TEAM, quantity=2),
        subscribed(40 * DAY, BASIC),
        subscribed(50 * DAY, BASIC, status="past_due"),
        subscribed(60 * DAY, BASIC, status="paused"),
        subscribed(70 * DAY, BASIC),
        subscribed(80 * DAY, BASIC, type_="deleted"),
    ) == [
        (14 * DAY, "new", "basic", 1000),
        (20 * DAY, "expansion", "basic", -1000),
        (20 * DAY, "expansion", "team", 3000),
        (30 * DAY, "expansion", "team", 3000),
        (40 * DAY, "contraction", "basic", 1000),
        (40 * DAY, "contraction", "team", -6000),
        (60 * DAY, "pause", "basic", -1000),
        (70 * DAY, "resume", "basic", 1000),
        (80 * DAY, "churn", "basic", -1000),
    ]


@pytest.mark.parametrize("status", ["incomplete", "incomplete_expired", "trialing", "unpaid", "paused", "canceled"])
def test_what_does_not_count_as_revenue(status: str) -> None:
    assert moves(subscribed(0, status=status)) == []


def test_collection_paused_is_paused() -> None:
    pause: dict[str, Any] = {"pause_collection": {"behavior": "void", "resumes_at": None}}
    assert moves(subscribed(0), subscribed(5, **pause), subscribed(9)) == [
        (0, "new", "basic", 1000),
        (5, "pause", "basic", -1000),
        (9, "resume", "basic", 1000),
    ]


def test_a_new_subscription_of_an_old_customer_is_a_reactivation_and_a_second_one_an_expansion() -> None:
    assert moves(
        subscribed(0),
        subscribed(5, TEAM, id_="sub_2"),
        subscribed(10, type_="deleted"),
        subscribed(15, TEAM, id_="sub_2", type_="deleted"),
        subscribed(20, TEAM, id_="sub_3"),
    ) == [
        (0, "new", "basic", 1000),
        (5, "expansion", "team", 3000),
        (10, "contraction", "basic", -1000),
        (15, "churn", "team", -3000),
        (20, "reactivation", "team", 3000),
    ]


def test_within_a_second_only_the_last_state_counts() -> None:
    """A subscription that is replaced by another does not count as churn."""
    assert moves(subscribed(0), subscribed(5, type_="deleted"), subscribed(5, TEAM, id_="sub_2")) == [
        (0, "new", "basic", 1000),
        (5, "expansion", "basic", -1000),
        (5, "expansion", "team", 3000),
    ]


def test_several_items_of_several_plans_and_intervals() -> None:
    items = [(BASIC, 2), (YEARLY, 1), (YEARLY, 2), (Price("price_odd", 7, "eur", "month"), 1)]
    assert moves(subscribed(0, **with_items(items))) == [
        (0, "new", "basic", 2000),
        (0, "new", "price_odd", 7),  # a price that is in no plan is listed under its own id
        (0, "new", "team", 2500),
    ]


def test_a_trial_counts_once_it_is_paid_in_any_order() -> None:
    trial = subscribed(0, type_="created", status="trialing")
    assert moves(trial, invoiced(9, "paid")) == [(9, "new", "basic", 1000)]
    assert moves(trial, invoiced(0, "paid", amount=0)) == []


def test_no_event_after_the_end_counts() -> None:
    assert moves(subscribed(0), subscribed(5, type_="deleted"), subscribed(9), invoiced(11, "paid")) == [
        (0, "new", "basic", 1000),
        (5, "churn", "basic", -1000),
    ]


def test_currencies_are_never_added_up() -> None:
    yen = Price("price_basic", 1500, "jpy", "month")
    assert [
        (row.currency, str(row.kind), row.amount)
        for row in figures_of([subscribed(0), subscribed(5, yen, id_="sub_2")], CONFIG)
        if isinstance(row, Movement)
    ] == [("eur", "new", 1000), ("jpy", "new", 1500)]


def test_the_shapes_before_and_since_basil_give_the_same_figures() -> None:
    found = []
    for shape in ApiShape:
        make = StripeEvents(shape)
        obj = make.subscription(price=YEARLY, quantity=2)
        found.append(fact(make.event("customer.subscription.updated", obj, BEGIN, id_="evt_1")))
    assert found[0] == found[1]
    only_plan = StripeEvents(ApiShape.OLD).subscription(price=YEARLY, quantity=2)
    del only_plan["items"]
    oldest = fact(StripeEvents(ApiShape.OLD).event("customer.subscription.updated", only_plan, BEGIN, id_="evt_1"))
    assert oldest == found[0]


def test_only_the_latest_invoice_moves_the_status() -> None:
    """01, 108: MRR follows the subscription's row. An older invoice that is paid leaves it unpaid."""
    unpaid = [subscribed(0, latest_invoice="in_1"), subscribed(9, status="unpaid", latest_invoice="in_2")]
    lost = [(0, "new", "basic", 1000), (9, "churn", "basic", -1000)]
    assert moves(*unpaid, invoiced(20, "paid", "in_1")) == lost
    assert moves(*unpaid, invoiced(20, "paid", "in_2")) == [*lost, (20, "reactivation", "basic", 1000)]
    extra = [subscribed(0, latest_invoice="in_1"), invoiced(5, "payment_failed", "in_9")]
    assert figures(extra, Risk) == []


def test_past_due_is_revenue_at_risk_until_it_is_paid_or_lost() -> None:
    at_risk = [subscribed(0), invoiced(10, "payment_failed"), subscribed(11, status="past_due")]

    def risk(*more: Fact) -> list[tuple[Any, ...]]:
        found = figures([*at_risk, *more], Risk)
        return [(row.began_at, row.mrr, str(row.outcome), row.ended_at) for row in found if isinstance(row, Risk)]

    assert moves(*at_risk) == [(0, "new", "basic", 1000)]
    assert risk() == [(moment(10), 1000, "open", None)]
    assert risk(invoiced(99, "paid")) == [(moment(10), 1000, "recovered", moment(99))]
    assert risk(subscribed(99, type_="deleted")) == [(moment(10), 1000, "lost", moment(99))]


STATUSES = st.sampled_from(["trialing", "active", "past_due", "paused", "unpaid", "incomplete", "canceled"])
SECONDS = st.integers(0, 12)  # few values, so that many collide
FACTS = st.one_of(
    st.builds(
        lambda seconds, price, status, id_, quantity, type_: subscribed(
            seconds, price, status=status, id_=id_, quantity=quantity, type_=type_
        ),
        SECONDS,
        st.sampled_from([BASIC, TEAM, YEARLY, Price("price_us", 999, "usd", "month")]),
        STATUSES,
        st.sampled_from(["sub_1", "sub_2"]),
        st.integers(0, 3),
        st.sampled_from(["created", "updated", "updated", "deleted"]),
    ),
    st.builds(
        lambda seconds, what, id_, attempts: invoiced(seconds, what, id_, attempts=attempts),
        SECONDS,
        st.sampled_from(["paid", "payment_failed", "voided"]),
        st.sampled_from(["in_1", "in_2"]),
        st.integers(1, 5),
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(FACTS, max_size=14), st.randoms(use_true_random=False))
def test_any_order_and_repetition_give_the_same_figures(facts: list[Fact], chance: random.Random) -> None:
    delivered = facts + chance.choices(facts, k=len(facts)) if facts else []
    chance.shuffle(delivered)
    assert figures_of(delivered, CONFIG) == figures_of(facts, CONFIG)


@settings(max_examples=60, deadline=None)
@given(st.lists(FACTS, min_size=2, max_size=14), st.integers(1, 13))
def test_a_checkpoint_and_the_later_facts_give_the_same_figures(facts: list[Fact], keep: int) -> None:
    ordered = in_order(facts)
    owner, made_by = ordered[0].of, fingerprint(CONFIG)
    stored = checkpoint(owner, BEGINNING, ordered, CONFIG, keep=keep, made_by=made_by)
    assume(stored is not None)
    assert stored is not None
    before = running_of(replace(stored, state=orjson.loads(orjson.dumps(stored.state))))
    tail = [fact for fact in ordered if fact.created >= stored.since]
    continued = [row for row in figures_since(before, tail, ordered, CONFIG) if not isinstance(row, PaymentTotal)]
    assert continued == [
        row
        for row in figures_of(facts, CONFIG)
        if not isinstance(row, PaymentTotal)
        and not (isinstance(row, Movement) and row.at < stored.since)
        and not (isinstance(row, Risk) and row.ended_at is not None and row.ended_at < stored.since)
    ]


def test_a_state_that_is_too_large_has_no_checkpoint() -> None:
    facts = in_order(subscribed(n, id_=f"sub_{n}") for n in range(MOST_SUBSCRIPTIONS + 5))
    arguments: dict[str, Any] = {"keep": 2, "made_by": "a"}
    assert checkpoint(facts[0].of, BEGINNING, facts, CONFIG, **arguments) is None
    assert checkpoint(facts[0].of, BEGINNING, facts[:100], CONFIG, **arguments) is not None


def test_the_plans_and_the_dunning_steps_are_part_of_the_fingerprint() -> None:
    assert fingerprint(CONFIG) == fingerprint(CONFIG.model_copy())
    assert fingerprint(CONFIG) != fingerprint(CONFIG.model_copy(update={"plans": {}}))
    rules = CONFIG.rules.model_copy(update={"dunning": CONFIG.rules.dunning[:1]})
    assert fingerprint(CONFIG) != fingerprint(CONFIG.model_copy(update={"rules": rules}))


@settings(max_examples=60, deadline=None)
@given(st.lists(FACTS, max_size=14))
def test_the_movements_add_up(facts: list[Fact]) -> None:
    """MRR is never negative, each kind of movement has its sign, and each failed invoice has one outcome."""
    so_far: dict[tuple[str, str], int] = {}
    seconds: dict[tuple[Any, ...], int] = {}
    for row in figures_of(facts, CONFIG):
        if isinstance(row, Movement):
            place = (row.currency, row.plan)
            so_far[place] = so_far.get(place, 0) + row.amount
            assert so_far[place] >= 0
            second = (row.currency, row.at, str(row.kind))
            seconds[second] = seconds.get(second, 0) + row.amount
    for (_, _, kind), amount in seconds.items():
        assert amount > 0 if kind in ("new", "reactivation") else True
        assert amount >= 0 if kind == "expansion" else True
        assert amount < 0 if kind in ("churn", "contraction") else True
    invoices = [row.invoice_id for row in figures(facts, Recovery) if isinstance(row, Recovery)]
    assert len(invoices) == len(set(invoices))
