"""The figures of random lives agree with their tables and with the simulated Stripe, in every order of events (E2)."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings

from local.stripe.builder import ApiShape
from local.stripe.simulator import discounts
from local.stripe.simulator.books import DAY_S
from local.stripe.simulator.checkout import subscribe
from local.stripe.simulator.discounts import COUPONS
from local.stripe.simulator.stripe import SimulatedStripe
from schemas.state import Payment, Subscription
from tests.kits.lifekit import CONFIG, START, Course, is_sent, lived
from tests.oracle.discounts import discount_faults, recurring
from tests.oracle.figures import facts_by_owner, figure_faults, standings_of
from tests.unit.oracle.test_stripe_lives import courses

AMOUNTS = {
    "price_team": (29_700, {"QUARTER": 22_275, "FREE": 0, "FIVE": 29_200}),
    "price_pro_yearly": (7_250, {"QUARTER": 5_438, "FREE": 0, "FIVE": 7_208}),  # 5,437.50 and 7,208.33
}
"""MRR of three seats before and after each coupon that recurs, in cents."""


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=(HealthCheck.too_slow,))
@given(courses(("ordered", "shuffled")))
def test_E2_the_figures_of_lives_agree_with_the_tables(course: Course) -> None:
    stripe, world = lived(course)
    events = [event for event in course.deliver(stripe) if is_sent(event, course.shape)]
    assert figure_faults(events, world.rows(Subscription), world.rows(Payment), CONFIG) == []
    assert discount_faults(stripe.accounts[course.account], events, course.shape, CONFIG) == []


@pytest.mark.parametrize("shape", ApiShape)
@pytest.mark.parametrize("holder", ["subscription", "customer"])
@pytest.mark.parametrize("coupon", COUPONS)
@pytest.mark.parametrize("price", ["price_team", "price_pro_yearly"])
def test_G53_mrr_is_after_the_coupons_that_recur(price: str, coupon: str, holder: str, shape: ApiShape) -> None:
    """From the first invoice to the end of a repeating coupon, which is known by its events."""
    stripe = SimulatedStripe(START, seed=f"{coupon}/{holder}")
    books, name = stripe.books, "old" if shape is ApiShape.OLD else "new"
    own = coupon if holder == "subscription" else None
    subscription = subscribe(books, [(price, 3)], email="a@example.com", name="Ada", user=None, coupon=own)
    if holder == "customer":
        discounts.give(books, books.get("customer", subscription["customer"]), coupon)
    seen = set()
    for _ in range(5):
        stripe.clock.advance(31 * DAY_S)
        events = [event.render(shape) for event in stripe.events() if event.is_in(shape)]
        random.Random(1).shuffle(events)
        assert discount_faults(books, events, name, CONFIG) == []
        seen.add(sum(standings_of(facts_by_owner(events), CONFIG)[subscription["id"]].rates.values()))
    listed, left = AMOUNTS[price]
    is_proven = (
        shape is ApiShape.OLD or price == "price_team"
    )  # in five months a year has one invoice, which is no proof
    recurs = COUPONS[coupon]["duration"] != "once"
    assert min(seen) == (left[coupon.removesuffix("3")] if recurs and is_proven else listed)
    holders = [subscription, books.get("customer", subscription["customer"])]
    assert any(map(recurring, holders)) == (COUPONS[coupon]["duration"] == "forever")
