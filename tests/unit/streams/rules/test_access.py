"""behaviours.md B7, B8, B9: the plan and the access of an organization, derived from its subscriptions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.stripe.builder import PRO, ApiShape, Json, Price, StripeEvents
from schemas.fast_row import replace
from schemas.settings import AccessPolicy
from tests.examples import examples
from tests.kits.rulekit import CONFIG, DAY, MAKERS, NOW, RulesWorld, at

TEAM = Price("price_team", 9900)
GRACE = timedelta(days=CONFIG.access.past_due_grace_days)

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())


def subscribed(make: StripeEvents, id_: str = "sub_1", when: int = NOW, **more: object) -> Json:
    subscription = make.subscription(id_, start=when, **more)  # type: ignore[arg-type]  # the builder's keywords
    return make.event("customer.subscription.created", subscription, when)


def updated(make: StripeEvents, when: int, previous: Json | None = None, id_: str = "sub_1", **more: object) -> Json:
    subscription = make.subscription(id_, start=NOW, **more)  # type: ignore[arg-type]  # the builder's keywords
    return make.event("customer.subscription.updated", subscription, when, previous=previous)


def failed(make: StripeEvents, when: int, id_: str = "in_1", **more: object) -> Json:
    invoice = make.invoice(id_, created=when, next_attempt=when + DAY, **more)  # type: ignore[arg-type]  # as above
    return make.event("invoice.payment_failed", invoice, when)


@pytest.mark.parametrize(
    ("status", "has_access", "plan"),
    [
        ("active", True, "pro"),
        ("trialing", True, "pro"),
        ("past_due", True, "pro"),
        ("unpaid", False, "free"),
        ("paused", False, "free"),
        ("incomplete", False, "free"),
        ("incomplete_expired", False, "free"),
        ("canceled", False, "free"),
    ],
)
def test_B8_each_status(make: StripeEvents, status: str, has_access: bool, plan: str) -> None:
    organization = RulesWorld().apply(subscribed(make), updated(make, NOW + 5, {}, status=status)).organization()
    assert (organization.has_access, organization.plan, organization.access_reason) == (has_access, plan, status)
    assert organization.limits == CONFIG.limits_of_plan(plan)


def test_B8_the_config_can_give_access_to_unpaid_and_paused(make: StripeEvents) -> None:
    """Then a grace time has no end: what follows it gives access as well."""
    for also in (("unpaid",), ("unpaid", "paused")):
        config = CONFIG.model_copy(update={"access": AccessPolicy(also=also)})
        for status in ("past_due", "unpaid", "paused", "canceled"):
            world = RulesWorld(config).apply(subscribed(make), updated(make, NOW + 5, {}, status=status))
            organization = world.organization()
            has_access = status in ("past_due", *also)
            assert (organization.has_access, organization.access_reason) == (has_access, status)
            assert organization.plan == ("pro" if has_access else "free")
            assert organization.access_until is None


def test_B8_a_past_due_subscription_gives_access_for_the_grace_time(make: StripeEvents) -> None:
    """From the first failure on. `access_after` is what applies then."""
    first, second = failed(make, NOW + DAY), failed(make, NOW + 3 * DAY, attempts=2)
    late = updated(make, NOW + 3 * DAY, {"status": "active"}, status="past_due")
    for order in itertools.permutations([first, second, late]):
        organization = RulesWorld().apply(subscribed(make), *order).organization()
        assert (organization.has_access, organization.access_until) == (True, at(NOW + DAY) + GRACE)
        assert organization.access_changes_at == organization.access_until
        after = organization.access_after
        assert (after["has_access"], after["plan"], after["reason"]) == (False, "free", "grace_ended")


def in_every_order(make: StripeEvents, *events: Json) -> Iterator[RulesWorld]:
    """Each order of arrival, also with the ids of the events of each second exchanged.

    Of the older API shape only the first and the last order: both shapes are one value before a rule gets them.
    """
    seconds: dict[int, list[Json]] = {}
    for event in events:
        seconds.setdefault(event["created"], []).append(event)
    groups = list(seconds.values())
    for ids in itertools.product(*(itertools.permutations([one["id"] for one in group]) for group in groups)):
        named = [
            one | {"id": id_}
            for group, names in zip(groups, ids, strict=True)
            for one, id_ in zip(group, names, strict=True)
        ]
        every = list(itertools.permutations(named))
        for order in every if make.shape is ApiShape.NEW else (every[0], every[-1]):
            yield RulesWorld().apply(*order)


def test_B8_the_grace_time_of_an_overdue_invoice_begins_when_it_is_due(make: StripeEvents) -> None:
    """Nothing was declined: the customer pays by hand and is late. A later update does not move it."""
    overdue = updated(make, NOW + 20 * DAY, {"status": "active"}, status="past_due")
    later = updated(make, NOW + 22 * DAY, {"metadata": {}}, status="past_due")
    for world in in_every_order(make, subscribed(make), overdue, later):
        assert world.organization().access_until == at(NOW + 20 * DAY) + GRACE


@pytest.mark.parametrize("is_named", [True, False])
def test_B8_a_further_failed_period_does_not_begin_the_grace_time_again(make: StripeEvents, is_named: bool) -> None:
    """Also if the update that says when the subscription became past due never arrived."""
    previous = {"status": "active"} if is_named else {}
    events = [
        failed(make, NOW + DAY),
        updated(make, NOW + DAY, previous, status="past_due"),
        updated(make, NOW + 31 * DAY, {"latest_invoice": "in_1"}, status="past_due", latest_invoice="in_2"),
        failed(make, NOW + 31 * DAY, "in_2"),
    ]
    for world in in_every_order(make, subscribed(make), *events):
        assert world.organization().access_until == at(NOW + DAY) + GRACE


def test_B8_the_grace_time_begins_with_what_a_fetch_shows(make: StripeEvents) -> None:
    """Without previous attributes, and without an invoice that failed: since the first object after the last active."""
    events = [updated(make, NOW + day * DAY, status=status) for day, status in ((5, "past_due"), (6, "active"))]
    events += [updated(make, NOW + day * DAY, status="past_due") for day in (20, 22)]
    for world in in_every_order(make, subscribed(make), *events):
        assert world.organization().access_until == at(NOW + 20 * DAY) + GRACE


def test_B8_a_recovery_ends_the_grace_time(make: StripeEvents) -> None:
    """The next one begins with the next failure, although the older invoice was written off and is still listed."""
    events = [
        failed(make, NOW + DAY),
        updated(make, NOW + DAY, {"status": "active"}, status="past_due"),
        updated(make, NOW + 20 * DAY, {"status": "past_due"}, status="active"),
        updated(make, NOW + 31 * DAY, {"status": "active"}, status="past_due", latest_invoice="in_2"),
    ]
    for world in in_every_order(make, subscribed(make), *events):
        assert world.organization().access_until == at(NOW + 31 * DAY) + GRACE


@pytest.mark.parametrize("later", [None, 22])
def test_B8_the_grace_time_begins_in_a_second_with_other_changes(make: StripeEvents, later: int | None) -> None:
    """The previous attributes say which of them came last, also after the subscription has a newer version."""
    events = [
        updated(make, NOW + 20 * DAY, {"latest_invoice": "in_0"}, latest_invoice="in_1"),
        updated(make, NOW + 20 * DAY, {"status": "active"}, status="past_due", latest_invoice="in_1"),
    ]
    if later is not None:
        events.append(updated(make, NOW + later * DAY, {"metadata": {}}, status="past_due", latest_invoice="in_1"))
    for world in in_every_order(make, subscribed(make), *events):
        assert world.organization().access_until == at(NOW + 20 * DAY) + GRACE


def test_B8_a_recovery_and_a_failure_of_one_second(make: StripeEvents) -> None:
    """The statuses of the second may have followed each other in a circle, but the next event shows how it ended."""
    events = [
        updated(make, NOW + 5 * DAY, {"status": "active"}, status="past_due"),
        updated(make, NOW + 20 * DAY, {"status": "past_due"}, status="active"),
        updated(make, NOW + 20 * DAY, {"status": "active"}, status="past_due"),
        updated(make, NOW + 22 * DAY, {"metadata": {}}, status="past_due"),
    ]
    for world in in_every_order(make, *events):
        assert world.organization().access_until == at(NOW + 20 * DAY) + GRACE


def test_C3_a_recovery_within_the_second_of_the_failure_ends_it(make: StripeEvents) -> None:
    """The update that shows it active is the later one, whatever the ids."""
    events = [
        failed(make, NOW + 20 * DAY),
        updated(
            make,
            NOW + 20 * DAY,
            {"status": "active", "latest_invoice": "in_0"},
            status="past_due",
            latest_invoice="in_1",
        ),
        updated(make, NOW + 20 * DAY, {"status": "past_due"}, latest_invoice="in_1"),
    ]
    for world in in_every_order(make, subscribed(make), *events):
        assert (world.subscription().status, world.subscription().failed_invoice) == ("active", None)


def test_B8_the_creation_comes_before_an_update_of_its_second(make: StripeEvents) -> None:
    for world in in_every_order(make, subscribed(make), updated(make, NOW, status="past_due")):
        assert world.organization().access_until == at(NOW) + GRACE


def test_B8_many_objects_that_are_past_due_and_a_late_one_that_is_not(make: StripeEvents) -> None:
    days = [*range(5, 14), *range(30, 36)]
    events = [updated(make, NOW + day * DAY, {"metadata": {}}, status="past_due") for day in days]
    active = updated(make, NOW + 20 * DAY, {"metadata": {}})
    world = RulesWorld().apply(subscribed(make), *events, active)
    assert world.organization().access_until == at(NOW + 30 * DAY) + GRACE


def test_B8_what_a_row_kept_before_it_knew_the_events_of_a_second(make: StripeEvents) -> None:
    """Entries of an earlier version: `other` is an event that is not past due, or the second of the change."""
    ends = []
    for rank, id_ in ((50, "evt_0"), (0, "")):
        world = RulesWorld().apply(updated(make, NOW + 22 * DAY, {"metadata": {}}, status="past_due"))
        row = world.subscription()
        other = f"0:{NOW + 20 * DAY:012d}:{rank:02d}:{id_}"
        since = [] if id_ else [f"0:{NOW + 20 * DAY:012d}:50:evt_1"]
        world.known.save(replace(row, newest={"past_due": {"other": other, "since": [*since, row.version]}}))
        for day in (23, 20):
            world.apply(updated(make, NOW + day * DAY, {"metadata": {}}, status="past_due"))
            ends.append(world.organization().access_until)
    assert ends == [at(NOW + day * DAY) + GRACE for day in (22, 20, 20, 20)]


@st.composite
def lives(draw: Callable[[st.SearchStrategy[Any]], Any]) -> list[tuple[int, str, str]]:
    """Seconds, and the statuses before and after each event; at last the subscription is past due."""
    second, status = 0, "active"
    life: list[tuple[int, str, str]] = []
    for _ in range(draw(st.integers(1, 24))):
        is_full = len(life) >= 8 and life[-8][0] == second
        second += 1 if is_full else draw(st.sampled_from([0, 1, 1, 3]))
        after = draw(st.sampled_from([status, status, "active", "past_due", "unpaid"]))
        life.append((second, status, after))
        status = after
    return [*life, (second + 1, status, "past_due"), (second + 2, "past_due", "past_due")]


@settings(max_examples=examples(15), deadline=None, suppress_health_check=(HealthCheck.too_slow,))
@given(life=lives(), chance=st.randoms(use_true_random=False))
def test_B8_the_grace_time_is_the_same_in_every_order(
    make: StripeEvents, life: list[tuple[int, str, str]], chance: random.Random
) -> None:
    """Events that share a second have any ids."""
    events = [
        updated(make, NOW + second * DAY, {"status": before} if before != after else {"metadata": {}}, status=after)
        for second, before, after in life
    ]
    ids = chance.sample([event["id"] for event in events], len(events))
    events = [event | {"id": id_} for event, id_ in zip(events, ids, strict=True)]
    began = max(second for second, before, after in life if (before != "past_due") and after == "past_due")
    expected = at(NOW + began * DAY) + GRACE
    for order in (events, events[::-1], chance.sample(events, len(events)), chance.sample(events, len(events))):
        assert RulesWorld().apply(*order).organization().access_until == expected


def test_B8_another_subscription_remains_after_the_grace_time(make: StripeEvents) -> None:
    world = RulesWorld().apply(subscribed(make, price=TEAM), subscribed(make, "sub_2"))
    world.apply(updated(make, NOW + 5, {}, status="past_due", price=TEAM))
    organization = world.organization()
    assert (organization.plan, organization.access_after["plan"]) == ("team", "pro")
    assert organization.access_after["has_access"]


def test_B8_each_grace_time_ends_on_its_own(make: StripeEvents) -> None:
    """The larger plan's ends first, then the smaller one's."""
    first = updated(make, NOW + DAY, {"status": "active"}, status="past_due", price=TEAM)
    second = updated(make, NOW + 4 * DAY, {"status": "active"}, "sub_2", status="past_due")
    for world in in_every_order(make, subscribed(make, price=TEAM), subscribed(make, "sub_2"), first, second):
        organization = world.organization()
        assert organization.plan == "team"
        steps = [(when, after["plan"], after["has_access"]) for when, after in organization.access_steps]
        assert steps == [(at(NOW + DAY) + GRACE, "pro", True), (at(NOW + 4 * DAY) + GRACE, "free", False)]


def test_B8_without_a_grace_time_the_access_ends_at_the_failure(make: StripeEvents) -> None:
    config = CONFIG.model_copy(update={"access": AccessPolicy(past_due_grace_days=0)})
    organization = RulesWorld(config).apply(subscribed(make), failed(make, NOW + DAY)).organization()
    assert (organization.access_until, organization.access_after["has_access"]) == (at(NOW + DAY), False)


def test_B8_a_deleted_customer_has_no_access(make: StripeEvents) -> None:
    gone = make.event("customer.deleted", {"id": "cus_1", "object": "customer", "deleted": True}, NOW + 5)
    organization = RulesWorld().apply(subscribed(make), gone).organization()
    assert (organization.has_access, organization.access_reason) == (False, "customer_deleted")


def test_B8_the_end_of_a_trial_is_known(make: StripeEvents) -> None:
    organization = RulesWorld().apply(subscribed(make, status="trialing", trial_end=NOW + 9 * DAY)).organization()
    assert organization.access_changes_at == at(NOW + 9 * DAY)


def test_B7_the_largest_plan_counts_in_any_position_and_order(make: StripeEvents) -> None:
    for prices in ((PRO, TEAM), (TEAM, PRO)):
        event = subscribed(make, price=prices[0])
        other = make.subscription("sub_1", price=prices[1])["items"]["data"][0]
        event["data"]["object"]["items"]["data"].append(other | {"id": "si_2"})
        world = RulesWorld().apply(event)
        assert (world.subscription().price_id, world.organization().plan) == ("price_team", "team")
        assert len(world.subscription().items) == 2


def test_B7_the_plan_of_a_subscription_that_gives_no_access_does_not_count(make: StripeEvents) -> None:
    world = RulesWorld().apply(subscribed(make, price=TEAM, status="unpaid"), subscribed(make, "sub_2"))
    assert (world.organization().plan, world.organization().access_reason) == ("pro", "active")


def test_B9_what_will_not_renew_has_no_next_billing_date(make: StripeEvents) -> None:
    end = NOW + 30 * DAY
    for more in ({"cancel_at": end}, {"cancel_at_period_end": True}, {"pause_collection": {"behavior": "void"}}):
        organization = RulesWorld().apply(subscribed(make), updated(make, NOW + 5, {}, **more)).organization()
        assert (organization.next_billing_at, organization.has_access) == (None, True)
    later = RulesWorld().apply(subscribed(make, cancel_at=end + 60 * DAY)).organization()
    assert later.next_billing_at == at(end)


def test_B3_a_change_of_plan_is_mailed_once_in_any_order(make: StripeEvents) -> None:
    """A fetch shows the change first, and the event that made it arrives late (or the other way round)."""
    fetched = updated(make, NOW + 10, price=TEAM)
    event = updated(make, NOW + 5, make.price_change(PRO), price=TEAM)
    for order in ([fetched, event], [event, fetched]):
        assert RulesWorld().apply(subscribed(make), *order).templates().count("plan-changed") == 1


def test_B3_changes_of_plan_within_one_second_are_mailed_once_each(make: StripeEvents) -> None:
    there = updated(make, NOW, make.price_change(PRO), price=TEAM) | {"id": "evt_2"}
    back = updated(make, NOW, make.price_change(TEAM)) | {"id": "evt_3"}
    noise = updated(make, NOW) | {"id": "evt_4"}
    for order in ([back, noise], [noise, back]):
        world = RulesWorld().apply(subscribed(make) | {"id": "evt_1"}, there, *order)
        assert world.templates().count("plan-changed") == 2


def test_B3_three_changes_are_three_mails(make: StripeEvents) -> None:
    world = RulesWorld().apply(
        subscribed(make),
        updated(make, NOW + 1, make.price_change(PRO), price=TEAM),
        updated(make, NOW + 2, make.price_change(TEAM)),
        updated(make, NOW + 3, make.price_change(PRO), price=TEAM),
    )
    assert world.templates().count("plan-changed") == 3


def test_C1_a_voided_invoice_that_was_never_paid_is_not_paid(make: StripeEvents) -> None:
    voided = make.event("invoice.voided", make.invoice(status="void", created=NOW), NOW + 2 * DAY)
    world = RulesWorld().apply(subscribed(make), failed(make, NOW + DAY), voided)
    assert world.organization().billing_status is None
    paid = make.event("invoice.paid", make.invoice("in_0", status="paid", created=NOW), NOW)
    assert RulesWorld().apply(subscribed(make), paid, voided).organization().billing_status == "paid"


def test_B7_a_list_of_items_that_is_cut_does_not_take_the_plan(make: StripeEvents) -> None:
    """A list in an event may have only the first items. One that shows the plan's item counts, also if it is cut."""

    def with_items(when: int, *prices: Price) -> Json:
        items = [make.subscription(price=price)["items"]["data"][0] for price in prices]
        listed = {"object": "list", "data": items, "has_more": True, "url": "/v1/subscription_items"}
        return updated(make, when, {"metadata": {}}, items=listed)

    add_ons = with_items(NOW + DAY, *(Price(f"price_add_on_{number}", 100) for number in range(10)))
    for world in in_every_order(make, subscribed(make), add_ons, with_items(NOW + 2 * DAY, TEAM)):
        assert world.subscription().plan == "team"
    for world in in_every_order(make, subscribed(make), add_ons):
        assert (world.subscription().plan, world.organization().plan) == ("pro", "pro")
    row = RulesWorld().apply(add_ons).subscription()
    assert (row.plan, len(row.items)) == (None, 10)


@pytest.mark.parametrize(("period", "reminders"), [(1, 0), (2, 1)])
def test_B9_no_renewal_is_announced_of_the_period_in_which_it_ends(
    make: StripeEvents, period: int, reminders: int
) -> None:
    """Flexible billing ends with `cancel_at` alone. An end in a later period renews before."""
    ends = updated(make, NOW + DAY, {"cancel_at": None}, cancel_at=NOW + period * 30 * DAY)
    upcoming = make.event(
        "invoice.upcoming", make.invoice(None, status="draft", next_attempt=NOW + 30 * DAY), NOW + 23 * DAY
    )
    world = RulesWorld().apply(subscribed(make), ends, upcoming)
    assert world.templates().count("renewal-reminder") == reminders
