"""Each further life ends as at Stripe: in many orders, with repeats, in both shapes, with and without a key (D2)."""

from __future__ import annotations

import pytest

from local.stripe.builder import ApiShape
from tests.field.further import (
    beginnings,
    checkouts,
    disputes,
    endings,
    invoices,
    mixtures,
    payments,
    people,
    plans,
    recoveries,
    seconds,
    statuses,
    together,
)
from tests.field.further.kit import Life, orders, play, seen

ORDERS = {ApiShape.NEW: 5, ApiShape.OLD: 1}
"""Random ones. Both shapes are one value before a rule gets them, so the older one needs fewer."""
MODULES = (
    *(beginnings, statuses, recoveries, endings, plans, seconds),
    *(invoices, payments, disputes, checkouts, people, together, mixtures),
)
LIVES = [(shape, life) for shape in ApiShape for module in MODULES for life in module.lives(shape)]


@pytest.mark.parametrize(("shape", "life"), LIVES, ids=lambda value: getattr(value, "name", str(value)))
def test_any_order_ends_as_stripe_does(shape: ApiShape, life: Life) -> None:  # names the test
    for number, order in enumerate(orders(life, ORDERS[shape])):
        for has_key in (False, True):
            if life.needs_key and not has_key:
                continue
            world = play(life, order, has_key=has_key)
            where = (number, has_key, [(event["type"], event["created"]) for event in order])
            assert seen(world.known, life) == life.expected, where
            assert world.waiting == [], where
            counts = {template: world.templates().count(template) for template in life.mails}
            if number == 0:
                assert counts == life.mails, where
            else:
                assert all(counts[one] <= most for one, most in life.mails.items()), (where, counts)
            if not world.calls:
                break  # a key makes no difference


def test_each_life_has_its_own_name() -> None:
    names = [life.name for shape, life in LIVES if shape is ApiShape.NEW]
    assert len(names) == len(set(names)) >= 100
