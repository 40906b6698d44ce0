"""What a subscription showed before the second of its version, as far as its events say so (D2)."""

from __future__ import annotations

import random

import pytest

from local.stripe.builder import Json, Price, StripeEvents
from streams.rules.same_second import MOST
from tests.kits.paymentkit import PatientWorld
from tests.kits.rulekit import DAY, MAKERS, NOW

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=["old", "new"])


def seats(make: StripeEvents, at: int, id_: str, former: int | None, now: int) -> Json:
    made = make.subscription(start=NOW, status="active", quantity=now)
    kind, previous = ("created", None) if former is None else ("updated", {"quantity": former})
    return make.event(f"customer.subscription.{kind}", made, at, previous=previous) | {"id": id_}


@pytest.mark.parametrize("count", [MOST + 1, MOST + 2, 2 * MOST + 1])
def test_D2_the_second_before_a_reversal_may_have_had_more_updates_than_are_kept(
    make: StripeEvents, count: int
) -> None:
    """How that second ended is not known then: what is left of it must not decide the reversal, in any order."""
    created = seats(make, NOW, "evt_0", None, 0)
    filled = [seats(make, NOW + DAY, f"evt_{99 - number}", number, number + 1) for number in range(count)]
    kept = MOST  # seats after the last update that is kept: of the others, the ids are smaller
    reversal = [
        seats(make, NOW + 2 * DAY, "evt_1", count, kept),
        seats(make, NOW + 2 * DAY, "evt_2", kept, count),
    ]
    chance = random.Random(count)
    shuffled = [chance.sample([*filled, *reversal], count + 2) for _ in range(6)]
    for order in ([*filled, *reversal], [*reversal, *filled], [*reversal, *filled[::-1]], *shuffled):
        world = PatientWorld().apply(created, *order)
        assert world.subscription().quantity == count, [event["id"] for event in order]  # the greater id
        assert f"tie::sub_1:{NOW + 2 * DAY}" in world.calls


def test_D2_a_reversal_is_decided_by_as_many_updates_as_are_kept(make: StripeEvents) -> None:
    filled = [seats(make, NOW + DAY, f"evt_{99 - number}", number, number + 1) for number in range(MOST)]
    reversal = [seats(make, NOW + 2 * DAY, "evt_2", MOST, 50), seats(make, NOW + 2 * DAY, "evt_1", 50, MOST)]
    for order in ([*filled, *reversal], [*reversal, *filled], [*reversal, *filled[::-1]]):
        world = PatientWorld().apply(seats(make, NOW, "evt_0", None, 0), *order)
        assert world.subscription().quantity == MOST, [event["id"] for event in order]


def test_D2_a_late_event_that_settles_a_newer_second_is_not_stale(make: StripeEvents) -> None:
    """The row changes by it, and the ledger is where an operator looks for the reason."""
    starter, pro, team = Price("price_starter", 900), Price("price_pro", 2900), Price("price_team", 4900)

    def changed(at: int, id_: str, former: Price, price: Price) -> Json:
        made = make.subscription(start=NOW, status="active", price=price)
        previous = make.price_change(former)
        return make.event("customer.subscription.updated", made, at, previous=previous) | {"id": id_}

    created = make.event("customer.subscription.created", make.subscription(start=NOW, price=pro), NOW)
    reversal = [changed(NOW + DAY, "evt_z", team, starter), changed(NOW + DAY, "evt_a", starter, team)]
    world = PatientWorld().apply(created, *reversal)
    assert world.subscription().price_id == "price_starter"  # what came first is not known: the greater id
    world.apply(changed(NOW + 900, "evt_late", pro, team))
    assert (world.subscription().price_id, world.subscription().plan) == ("price_team", "team")
    assert world.stale == []
    world.apply(changed(NOW + 800, "evt_later", team, pro))  # older than the second before that of the row
    assert world.subscription().price_id == "price_team"
    assert len(world.stale) == 1
