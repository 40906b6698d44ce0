"""How the simulator delivers: the same for the same seed, and with the troubles that were asked for."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest

from local.stripe.simulator.company import Company
from local.stripe.simulator.delivery import DISORDER_S, DeliveryPlan, Trouble, plan_delivery
from local.stripe.simulator.run import prices_of, renamed
from schemas.settings import Config, Plan

UNTIL = 1_790_000_000


@pytest.fixture(scope="module")
def company() -> Company:
    company = Company(10, 6, 7, UNTIL)
    company.run()
    return company


def _plan(company: Company, trouble: Trouble, seed: str = "1") -> DeliveryPlan:
    return plan_delivery(company.stripe.events(), trouble, seed)


def test_without_trouble_everything_arrives_once_in_order(company: Company) -> None:
    plan = _plan(company, Trouble())
    assert [one.event.id for one in plan.deliveries] == [event.id for event in company.stripe.events()]
    assert plan.lost == []


def test_the_same_seed_gives_the_same_plan(company: Company) -> None:
    trouble = Trouble(duplicates=0.2, disorder=0.2, outages=1)
    assert _plan(company, trouble) == _plan(company, trouble)
    assert _plan(company, trouble) != _plan(company, trouble, "2")


def test_duplicates_and_disorder(company: Company) -> None:
    plan = _plan(company, Trouble(duplicates=0.3, disorder=0.3))
    counts = Counter(one.event.id for one in plan.deliveries)
    assert set(counts.values()) == {1, 2}
    assert set(counts) == {event.id for event in company.stripe.events()}
    created = [one.event.created for one in plan.deliveries]
    assert created != sorted(created)
    assert all(0 <= one.at - one.event.created < 2 * DISORDER_S for one in plan.deliveries)


def test_what_falls_into_an_outage_is_lost(company: Company) -> None:
    plan = _plan(company, Trouble(outages=2))
    assert plan.lost
    arrived = {one.event.id for one in plan.deliveries}
    assert arrived.isdisjoint(event.id for event in plan.lost)
    assert len(arrived) + len(plan.lost) == len(company.stripe.events())


def test_a_company_lives_up_to_its_end_and_no_further(company: Company) -> None:
    events = company.stripe.events()
    assert [event.created for event in events] == sorted(event.created for event in events)
    assert events[-1].created <= UNTIL
    again = Company(10, 6, 7, UNTIL)
    assert [event.id for event in again.run()] == [event.id for event in events]


def test_prices_are_named_as_in_the_config() -> None:
    plans = {
        "free": Plan(name="Free"),
        "small": Plan(name="Small", prices=("price_s",)),
        "large": Plan(name="Large", prices=("price_l", "price_l2")),
    }
    prices = prices_of(Config(plans=plans))
    assert (prices["price_pro"], prices["price_team"]) == ("price_s", "price_l")
    body = orjson.dumps({"price": "price_pro", "text": "price_pro is kept here"})
    assert orjson.loads(renamed(body, prices)) == {"price": "price_s", "text": "price_pro is kept here"}
