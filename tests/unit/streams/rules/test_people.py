"""A person with several Stripe customers: the user's address is that of the first one that has one, in any order."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from local.stripe.builder import Json, StripeEvents
from schemas.state import User
from tests.kits.rulekit import MAKERS, NOW, RulesWorld

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())

FIRST, SECOND = "cus_first", "cus_second"


def of(user: str) -> Json:
    return {"metadata": {"userId": user}}


def created(make: StripeEvents, id_: str, email: str | None, when: int) -> Json:
    return make.event("customer.created", make.customer(id_, email=email, created=when, **of("user_1")), when)


def updated(make: StripeEvents, id_: str, previous: Json, when: int, **now: Any) -> Json:
    customer = make.customer(id_, **{**of("user_1"), **now})
    return make.event("customer.updated", customer, when, previous=previous)


def subscribed(make: StripeEvents, id_: str, when: int) -> Json:
    return make.event(
        "customer.subscription.created",
        make.subscription(f"sub_{id_}", customer=id_, start=when, **of("user_1")),
        when,
    )


def both(make: StripeEvents) -> list[Json]:
    """Two customers of one user, of whom only the second one has a subscription."""
    return [
        created(make, FIRST, "first@example.com", NOW),
        created(make, SECOND, "second@example.com", NOW + 10),
        subscribed(make, SECOND, NOW + 11),
    ]


def addresses(user: str, *events: Json) -> set[str | None]:
    """The user's address after these events in every order."""
    found: set[str | None] = set()
    for order in permutations(events):
        row = RulesWorld().apply(*order).known.user("", user)
        assert row is not None
        found.add(row.email)
    return found


def test_a_customer_without_a_subscription_changes_the_users_address(make: StripeEvents) -> None:
    change = updated(make, FIRST, {"email": "first@example.com"}, NOW + 20, email="new@example.com")
    assert addresses("user_1", *both(make), change) == {"new@example.com"}


def test_an_address_that_is_removed_is_replaced_by_that_of_the_next_customer(make: StripeEvents) -> None:
    change = updated(make, FIRST, {"email": "first@example.com"}, NOW + 20, email=None)
    assert addresses("user_1", *both(make), change) == {"second@example.com"}


def test_a_customer_without_an_address_takes_none_away(make: StripeEvents) -> None:
    change = updated(make, SECOND, {"email": "second@example.com"}, NOW + 20, email=None)
    assert addresses("user_1", *both(make), change) == {"first@example.com"}


def test_a_customer_that_moves_to_another_user_takes_its_address_along(make: StripeEvents) -> None:
    change = updated(
        make, FIRST, {"metadata": {"userId": "user_1"}}, NOW + 20, email="first@example.com", **of("user_2")
    )
    assert addresses("user_1", *both(make), change) == {"second@example.com"}


def test_no_user_is_stored_before_the_first_subscription(make: StripeEvents) -> None:
    world = RulesWorld().apply(*both(make)[:2])
    assert world.rows(User) == []
