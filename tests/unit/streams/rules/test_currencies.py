"""behaviours.md C16: a price in several currencies is stored, mailed and counted in the subscription's own currency."""

from __future__ import annotations

from typing import Any

import pytest

from local.stripe.builder import Json, StripeEvents
from schemas.state import Subscription
from tests.kits.rulekit import DAY, MAKERS, NOW, RulesWorld


def priced(make: StripeEvents, **price: Any) -> Json:
    """A trial in US dollars whose price is made in euros: 20 EUR, and other currencies as given."""
    found = make.subscription(status="trialing", start=NOW, trial_end=NOW + 7 * DAY, currency="usd")
    item = found["items"]["data"][0]
    for name in ("price", "plan"):
        item[name] |= {"currency": "eur", "unit_amount": 2000, "amount": 2000} | price
    return found


def stored(make: StripeEvents, subscription: Json) -> tuple[RulesWorld, Subscription]:
    world = RulesWorld().apply(
        make.event("customer.subscription.created", subscription, NOW),
        make.event("customer.subscription.trial_will_end", subscription, NOW + 4 * DAY),
    )
    (row,) = world.rows(Subscription)
    return world, row


def prices(world: RulesWorld) -> list[Any]:
    """The prices that the mails name."""
    return [mail.data["price"] for mail in world.emails.values() if mail.data.get("price") is not None]


@pytest.mark.parametrize("make", MAKERS)
def test_C16_the_amount_is_that_of_the_subscriptions_currency(make: StripeEvents) -> None:
    world, row = stored(make, priced(make, currency_options={"usd": {"unit_amount": 2200}}))
    assert (row.unit_amount, row.currency) == (2200, "usd")
    assert prices(world) == [{"amount": 2200, "currency": "usd"}] * 2  # welcome, and the trial's end


@pytest.mark.parametrize(
    "options", [{}, {"gbp": {"unit_amount": 1800}}, {"usd": {"unit_amount": None}}, {"usd": None}, None]
)
@pytest.mark.parametrize("make", MAKERS)
def test_C16_an_amount_that_the_event_does_not_name_is_unknown(make: StripeEvents, options: Any) -> None:
    world, row = stored(make, priced(make, currency_options=options))
    assert (row.unit_amount, row.currency) == (None, "usd")
    assert prices(world) == []
    assert "2000" not in str([mail.data for mail in world.emails.values()])
