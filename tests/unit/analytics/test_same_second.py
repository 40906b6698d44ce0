"""Changes of a subscription within one second are put in the order in which they happened."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

import orjson
import pytest

from analytics.compute import BEGINNING, figures_of, figures_since
from analytics.facts import fact_of
from analytics.running import checkpoint, running_of
from analytics.timeline import in_order
from local.stripe.builder import ApiShape, Json, Price, StripeEvents
from schemas.figures import Fact, Movement
from streams.rules.precedence import SUBSCRIPTION_CREATED
from tests.kits.analyticskit import BASIC, BEGIN, CONFIG, TEAM, fact, make


def change(id_: str, status: str, was: str | None) -> bytes:
    obj = make.subscription("sub_1", price=BASIC, status=status, start=BEGIN)
    previous = {"latest_invoice": None} | ({"status": was} if was else {})
    return orjson.dumps(make.event("customer.subscription.updated", obj, BEGIN, previous=previous, id_=id_))


@pytest.mark.parametrize("ids", list(permutations(["evt_1", "evt_2", "evt_3"])))
def test_the_last_change_of_a_second_counts_whatever_the_ids(ids: tuple[str, ...]) -> None:
    """The invoice was made, the payment succeeded, and then something else changed."""
    changes = [("incomplete", None), ("active", "incomplete"), ("active", None)]
    values = [change(id_, status, was) for id_, (status, was) in zip(ids, changes, strict=True)]
    facts = [fact for value in values if (fact := fact_of(value)) is not None]
    for arrived in permutations(facts):
        rows = [row for row in figures_of(arrived, CONFIG) if isinstance(row, Movement)]
        assert sum(row.amount for row in rows) == 1000


@dataclass(frozen=True)
class Shown:
    """What an event shows of the subscription."""

    price: Price = BASIC
    quantity: int = 1
    status: str = "active"
    is_paused: bool = False


def made(shape: ApiShape, shown: Shown, second: int, id_: str, former: Shown | None = None) -> Fact:
    """An update, or without `former` the creation, `second` seconds after BEGIN."""
    make = StripeEvents(shape)

    def of(one: Shown) -> Json:
        pause = {"behavior": "void", "resumes_at": None} if one.is_paused else None
        obj = make.subscription("sub_1", price=one.price, status=one.status, quantity=one.quantity, start=BEGIN)
        return obj | {"pause_collection": pause}

    now = of(shown)
    previous = {name: value for name, value in of(former).items() if value != now[name]} if former else None
    kind = "created" if former is None else "updated"
    return fact(make.event(f"customer.subscription.{kind}", now, BEGIN + second, previous=previous, id_=id_))


def mrr_of(facts: Iterable[Fact]) -> int:
    """The MRR after the facts, in cents."""
    return sum(row.amount for row in figures_of(facts, CONFIG) if isinstance(row, Movement))


@pytest.mark.parametrize("shape", ApiShape)
@pytest.mark.parametrize(
    ("states", "expected"),
    [
        pytest.param(
            [Shown(), Shown(TEAM), Shown(BASIC, 2)], 2000, id="a larger price, then a smaller one with two seats"
        ),
        pytest.param([Shown(), Shown(quantity=5), Shown(quantity=3)], 3000, id="seats"),
        pytest.param([Shown(), Shown(TEAM), Shown()], 1000, id="a change and its reversal"),
        pytest.param([Shown(), Shown(is_paused=True), Shown()], 1000, id="paused and resumed"),
        pytest.param([Shown(), Shown(status="past_due"), Shown(status="unpaid"), Shown()], 1000, id="unpaid and paid"),
        pytest.param([Shown(), Shown(is_paused=True), Shown(TEAM, is_paused=True)], 0, id="another price while paused"),
        pytest.param([Shown(quantity=at % 7 + 1) for at in range(12)], 5000, id="eleven changes"),
        pytest.param([Shown(), Shown(TEAM), Shown(), Shown(TEAM), Shown(), Shown(TEAM)], 3000, id="to and fro"),
    ],
)
def test_the_last_of_many_changes_counts(states: list[Shown], expected: int, shape: ApiShape) -> None:
    """The state before the second says where the changes begin. So their order is known even if they form a circle."""
    chance = random.Random(len(states))
    for _ in range(20):
        ids = [f"evt_{number}" for number in chance.sample(range(100), len(states))]
        pairs = itertools.pairwise(states)
        facts = [made(shape, states[0], 0, ids[0])]
        changes = [(now, id_, former) for id_, (former, now) in zip(ids[1:], pairs, strict=True)]
        facts += [made(shape, now, 1, id_, former) for now, id_, former in changes]
        chance.shuffle(facts)
        assert mrr_of(facts) == expected
        in_one_second = [one for one in facts if one.rank == SUBSCRIPTION_CREATED]
        in_one_second += [made(shape, now, 0, id_, former) for now, id_, former in changes]
        assert mrr_of(in_one_second) == expected
        ordered = in_order(facts)
        stored = checkpoint(ordered[0].of, BEGINNING, ordered, CONFIG, keep=len(states) - 1, made_by="")
        assert stored is not None
        tail = figures_since(running_of(stored), ordered[1:], [], CONFIG)
        assert sum(row.amount for row in tail if isinstance(row, Movement)) == expected - 1000


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param([(1, 5), (5, 1), (3, 2)], 2, id="away and back, then from a state that no event shows"),
        pytest.param([(1, 5), (5, 1), (3, 2), (2, 4)], 4, id="and one change more"),
        pytest.param([(3, 1), (1, 5), (5, 1)], 1, id="from a state that no event shows, then away and back"),
        pytest.param([(7, 2), (2, 4)], 4, id="the first change is missing"),
        pytest.param([(1, 2), (3, 4)], 4, id="the change in the middle is missing"),
        pytest.param([(3, 1), (1, 5)], 5, id="like the row: the first change is missing, not the one in the middle"),
    ],
)
def test_missing_changes_leave_as_few_gaps_as_possible(changes: list[tuple[int, int]], expected: int) -> None:
    """By numbers of seats. The subscription had one before the second."""
    for ids in permutations([f"evt_{number}" for number in range(len(changes))]):
        facts = [made(ApiShape.NEW, Shown(), 0, "evt_9")]
        facts += [
            made(ApiShape.NEW, Shown(quantity=now), 1, id_, Shown(quantity=former))
            for id_, (former, now) in zip(ids, changes, strict=True)
        ]
        assert mrr_of(facts) == expected * 1000


def test_a_difference_of_unknown_shape_is_no_reason_to_count_nothing() -> None:
    for previous in ({"items": 7}, {"items": {"data": [7]}}, {"items": {"data": [{"price": 7}]}}, {"status": "new"}):
        obj = make.subscription("sub_1", price=BASIC, start=BEGIN)
        found = fact(make.event("customer.subscription.updated", obj, BEGIN, previous=previous))
        assert found.data["status"] == "active"
        assert not {"was", "rates_were"} & found.data.keys()
