"""Each further billing life in many orders with repeats: the rules alone."""

from __future__ import annotations

import random

import pytest

from local.stripe.builder import Json
from streams.rules.catalog import rule_of
from streams.rules.customers.cancellation import ERASE, WIN_BACK
from tests.field.harness import CONFIG
from tests.field.lives import FieldLife, lives, seen
from tests.kits.paymentkit import AT_ONCE, PatientWorld
from tests.kits.rulekit import DAY, NOW

ORDERS = 24


def orders(life: FieldLife) -> list[list[Json]]:
    """The order of Stripe, then random ones in which some events come twice."""
    chance = random.Random(life.name)
    shuffled = [
        chance.sample([*life.events, *chance.choices(life.events, k=2)], len(life.events) + 2) for _ in range(ORDERS)
    ]
    return [list(life.events), *shuffled]


@pytest.mark.parametrize("life", lives(), ids=lambda life: life.name.replace(" ", "_"))
def test_any_order_ends_as_stripe_does(life: FieldLife) -> None:
    for number, order in enumerate(orders(life)):
        world = PatientWorld(CONFIG).apply(*(event for event in order if rule_of(event["type"]) is not None))
        world.fire(*AT_ONCE).fire(WIN_BACK, ERASE, until=NOW + 60 * DAY)
        names = [event["id"] for event in order]
        assert seen(world.known, life) == life.expected, (number, names)
        assert world.waiting == [], (number, names)
        counts = {template: world.templates().count(template) for template in life.mails}
        if number == 0:
            assert counts == life.mails
        else:  # a failure that arrives after its payment is not mailed about
            assert all(counts[one] <= most for one, most in life.mails.items()), (number, names, counts)
