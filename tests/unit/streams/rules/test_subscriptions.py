"""Stream `subscriptions`: behaviours.md B1, B3, B4, B5 and the guard of D2, in both API shapes."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from local.stripe.builder import PRO, Json, Price, StripeEvents
from schemas.effects import NoteStale
from schemas.errors import MalformedEvent, RuleViolated
from schemas.state import User, derived_id
from schemas.statuses import OrganizationStatus, SubscriptionStatus
from tests.kits.rulekit import CONFIG, DAY, MAKERS, NOW, RulesWorld, at, decide

TEAM = Price("price_team", 9900)

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())


def created(make: StripeEvents, when: int = NOW, id_: str = "sub_1", **more: object) -> Json:
    subscription = make.subscription(id_, start=when, **more)  # type: ignore[arg-type]  # the builder's keywords
    return make.event("customer.subscription.created", subscription, when)


def updated(make: StripeEvents, when: int, previous: Json | None = None, id_: str = "sub_1", **more: object) -> Json:
    subscription = make.subscription(id_, start=NOW, **more)  # type: ignore[arg-type]  # the builder's keywords
    return make.event("customer.subscription.updated", subscription, when, previous=previous)


def deleted(make: StripeEvents, when: int, id_: str = "sub_1", **more: object) -> Json:
    ended = {"status": "canceled", "canceled_at": when, "ended_at": when}
    subscription = make.subscription(id_, start=NOW, **(ended | more))  # type: ignore[arg-type]  # as above
    return make.event("customer.subscription.deleted", subscription, when)


def test_B1_everything_about_a_new_subscription_is_saved(make: StripeEvents) -> None:
    """Customer, organization, user, membership and subscription exist after the first event alone."""
    world = RulesWorld().apply(created(make, quantity=3))
    row, organization = world.subscription(), world.organization()
    assert (row.status, row.price_id, row.plan, row.quantity) == (SubscriptionStatus.ACTIVE, "price_pro", "pro", 3)
    assert (row.unit_amount, row.currency, row.interval, row.interval_count) == (2900, "eur", "month", 1)
    assert (row.current_period_start, row.current_period_end) == (at(NOW), at(NOW + 30 * DAY))
    assert organization.name == "Organization sub_1"
    assert (organization.status, organization.plan) == (OrganizationStatus.ACTIVE, "pro")
    assert organization.limits == {"seats": 5}
    assert organization.next_billing_at == at(NOW + 30 * DAY)
    assert world.admins() == [User.id_of("", "cus_1")]


def test_B1_the_organization_gets_the_customers_name(make: StripeEvents) -> None:
    world = RulesWorld().apply(make.event("customer.created", make.customer(), NOW), created(make))
    assert (world.organization().name, world.organization().billing_email) == ("Jane Doe", "jane@example.com")


def test_B1_one_welcome_with_plan_and_interval(make: StripeEvents) -> None:
    event = created(make)
    world = RulesWorld().apply(event, event, updated(make, NOW + 5, {"metadata": {}}))
    assert world.templates() == ["subscription-welcome"]
    assert world.data("subscription-welcome") == {
        "name": None,
        "plan": "Pro",
        "interval": "month",
        "interval_count": 1,
        "price": {"amount": 2900, "currency": "eur"},
        "quantity": 1,
        "trial_end": None,
        "organization": "Organization sub_1",
    }


def test_B1_no_welcome_before_the_first_payment(make: StripeEvents) -> None:
    """An incomplete subscription may never start. The welcome is sent when it does."""
    world = RulesWorld().apply(created(make, status="incomplete"))
    assert world.templates() == []
    assert (world.organization().status, world.organization().plan) == (OrganizationStatus.INCOMPLETE, "free")
    world.apply(updated(make, NOW + 60, {"status": "incomplete"}))
    assert world.templates() == ["subscription-welcome"]
    assert world.organization().plan == "pro"


@pytest.mark.parametrize("previous", [None, {"status": "incomplete"}, {"latest_invoice": "in_0"}])
def test_B1_a_late_creation_sends_the_welcome_of_the_active_subscription(
    make: StripeEvents, previous: Json | None
) -> None:
    """The late `created` event still has status `incomplete`; an earlier update shows the payment."""
    paid = make.event("invoice.paid", make.invoice(status="paid", reason="subscription_create"), NOW + 60)
    events = [created(make, status="incomplete"), paid, updated(make, NOW + 61, previous)]
    for order in itertools.permutations(events):
        assert RulesWorld().apply(*order).templates().count("subscription-welcome") == 1


def test_B1_an_old_subscription_gets_no_welcome(make: StripeEvents) -> None:
    """The first event received for a subscription may come years after its start."""
    assert RulesWorld().apply(updated(make, NOW + 9, {"metadata": {}})).templates() == []


def test_B1_trial_reminder_seven_days_before_its_end(make: StripeEvents) -> None:
    end = NOW + 14 * DAY
    world = RulesWorld().apply(created(make, status="trialing", trial_end=end))
    (timer,) = world.pending().values()
    assert (timer.kind, timer.subject, timer.due_at) == ("trial-reminder", "sub_1", at(end - 7 * DAY))
    assert world.data("subscription-welcome")["trial_end"] == at(end).isoformat()
    assert world.organization().status is OrganizationStatus.TRIALING


def test_B1_trial_reminder_is_due_at_once_in_a_short_trial(make: StripeEvents) -> None:
    world = RulesWorld().apply(created(make, status="trialing", trial_end=NOW + 3 * DAY))
    (timer,) = world.pending().values()
    assert timer.due_at < at(NOW)


def test_B1_no_trial_reminder_when_the_trial_is_over(make: StripeEvents) -> None:
    world = RulesWorld().apply(created(make, status="trialing", trial_end=NOW - 1))
    assert world.pending() == {}


def test_B1_a_moved_trial_end_starts_a_new_reminder(make: StripeEvents) -> None:
    """Each reminder stores its trial end, so an outdated one is recognized when it fires."""
    world = RulesWorld().apply(created(make, status="trialing", trial_end=NOW + 14 * DAY))
    world.apply(updated(make, NOW + 5, {"trial_end": 1}, status="trialing", trial_end=NOW + 21 * DAY))
    due = {timer.data["trial_end"]: timer.due_at for timer in world.pending().values()}
    assert due == {at(NOW + end * DAY).isoformat(): at(NOW + (end - 7) * DAY) for end in (14, 21)}


def test_B3_an_update_may_come_first(make: StripeEvents) -> None:
    """The late `created` overwrites nothing, but still sends the welcome mail and provides the initial price."""
    world = RulesWorld().apply(updated(make, NOW + 60, make.price_change(PRO), price=TEAM), created(make))
    assert (world.subscription().plan, world.organization().limits) == ("team", {"seats": 50})
    assert world.subscription().first_price_id == "price_pro"
    assert len(world.stale) == 1
    assert world.templates() == ["plan-changed", "subscription-welcome"]


def test_B3_a_plan_change_is_mailed_once_and_moves_the_limits(make: StripeEvents) -> None:
    change = updated(make, NOW + 60, make.price_change(PRO), price=TEAM)
    world = RulesWorld().apply(created(make), change, change, updated(make, NOW + 90, {"metadata": {}}, price=TEAM))
    assert world.data("plan-changed") == {
        "name": None,
        "plan": "Team",
        "previous_plan": "Pro",
        "price": {"amount": 9900, "currency": "eur"},
        "previous_price": {"amount": 2900, "currency": "eur"},
        "interval": "month",
        "interval_count": 1,
        "previous_interval": "month",
        "previous_interval_count": 1,
        "quantity": 1,
        "previous_quantity": None,
    }
    assert world.organization().limits == {"seats": 50}


def test_B3_a_plan_change_shows_in_the_stored_price_too(make: StripeEvents) -> None:
    """An event without `previous_attributes` is compared with the stored row."""
    world = RulesWorld().apply(created(make), updated(make, NOW + 60, price=TEAM))
    assert world.data("plan-changed")["previous_plan"] == "Pro"


def test_B3_a_quantity_change_sends_no_plan_change(make: StripeEvents) -> None:
    world = RulesWorld().apply(created(make), updated(make, NOW + 60, make.price_change(PRO), quantity=9))
    assert "plan-changed" not in world.templates()
    assert world.subscription().quantity == 9


def test_B3_an_unknown_price_is_kept_and_no_plan_is_guessed(make: StripeEvents) -> None:
    world = RulesWorld().apply(created(make, price=Price("price_odd", 100, nickname="Odd one")))
    assert (world.subscription().price_id, world.subscription().plan) == ("price_odd", None)
    assert (world.organization().plan, world.organization().limits) == (None, {})
    assert world.data("subscription-welcome")["plan"] == "Odd one"


@pytest.mark.parametrize("status", list(SubscriptionStatus))
def test_B3_each_of_the_eight_statuses_is_kept(make: StripeEvents, status: SubscriptionStatus) -> None:
    assert RulesWorld().apply(updated(make, NOW + 1, {}, status=str(status))).subscription().status is status


def test_B3_a_ninth_status_is_an_error(make: StripeEvents) -> None:
    with pytest.raises(MalformedEvent, match="status"):
        decide(updated(make, NOW, status="hibernating"))


def test_B3_the_plan_of_the_checkout_ends_with_its_price(make: StripeEvents) -> None:
    session = make.event("checkout.session.completed", make.checkout_session(plan="team"), NOW + 1)
    world = RulesWorld().apply(created(make), session)
    assert world.subscription().plan == "team"
    odd = Price("price_odd", 9900, nickname="Odd one")
    world.apply(updated(make, NOW + 60, make.price_change(PRO), price=odd))
    assert world.subscription().plan is None
    assert world.data("plan-changed")["previous_plan"] == "Team"


def test_B4_a_cancellation_downgrades_and_sends_its_mail(make: StripeEvents) -> None:
    end = NOW + 10 * DAY
    world = RulesWorld().apply(created(make), deleted(make, end))
    row, organization = world.subscription(), world.organization()
    assert (row.status, row.plan, row.ended_at) == (SubscriptionStatus.CANCELED, "free", at(end))
    assert (organization.status, organization.plan) == (OrganizationStatus.CANCELLED, "free")
    assert (organization.limits, organization.next_billing_at) == ({"seats": 1}, None)
    assert organization.cancelled_at == at(end)
    assert world.templates() == ["churn-survey", "subscription-canceled", "subscription-welcome"]
    assert world.data("subscription-canceled") == {
        "name": None,
        "plan": "Pro",
        "canceled_at": at(end).isoformat(),
        "access_until": None,
        "export_id": derived_id("exp", "", "sub_1"),
        "erase_at": at(end + 30 * DAY).isoformat(),
        "reason": None,
        "update_url": CONFIG.mail.update_payment_url,
    }
    due = {timer.kind: timer.due_at for timer in world.pending().values()}
    assert due == {"win-back": at(end + 14 * DAY), "erase": at(end + 30 * DAY)}


def test_B4_no_event_changes_a_deleted_subscription(make: StripeEvents) -> None:
    """A cancelled subscription never becomes active again under its id, whatever the time of later events."""
    world = RulesWorld().apply(deleted(make, NOW + 60), updated(make, NOW + 90, {}), created(make))
    assert world.subscription().status is SubscriptionStatus.CANCELED
    assert len(world.stale) == 2
    assert "subscription-welcome" not in world.templates()


def test_B4_deleted_means_canceled_whatever_the_object_contains(make: StripeEvents) -> None:
    world = RulesWorld().apply(deleted(make, NOW + 60, status="active"))
    assert world.subscription().status is SubscriptionStatus.CANCELED


def test_B6_a_new_subscription_cancels_pending_timers(make: StripeEvents) -> None:
    gone, back = deleted(make, NOW + 60), created(make, NOW + 5 * DAY, "sub_2")
    assert RulesWorld().apply(created(make), gone, back).pending() == {}
    assert RulesWorld().apply(created(make), back, gone).pending() == {}


def test_B6_an_incomplete_subscription_cancels_nothing(make: StripeEvents) -> None:
    later = NOW + 5 * DAY
    world = RulesWorld().apply(
        created(make), deleted(make, NOW + 60), created(make, later, "sub_2", status="incomplete")
    )
    world.apply(updated(make, later + DAY, {"status": "incomplete"}, "sub_2", status="incomplete_expired"))
    assert {timer.kind for timer in world.pending().values()} == {"win-back", "erase"}


def test_B6_another_active_subscription_keeps_the_data(make: StripeEvents) -> None:
    """The mail announces no erasure while another subscription is active."""
    world = RulesWorld().apply(created(make), created(make, NOW + 5, "sub_2"), deleted(make, NOW + 60, "sub_2"))
    assert world.data("subscription-canceled")["erase_at"] is None
    assert (world.organization().status, world.organization().plan) == (OrganizationStatus.ACTIVE, "pro")


def test_B5_one_mail_with_the_days_left(make: StripeEvents) -> None:
    end = NOW + 3 * DAY - 60
    subscription = make.subscription(start=NOW - DAY, status="trialing", trial_end=end)
    event = make.event("customer.subscription.trial_will_end", subscription, NOW)
    world = RulesWorld().apply(event, event)
    assert world.data("trial-ending") == {
        "name": None,
        "plan": "Pro",
        "trial_end": at(end).isoformat(),
        "days_left": 3,
        "price": {"amount": 2900, "currency": "eur"},
        "interval": "month",
        "interval_count": 1,
        "quantity": 1,
    }


def test_B5_a_trial_that_has_ended_is_not_announced(make: StripeEvents) -> None:
    """Stripe also sends trial_will_end when a trial is ended immediately."""
    subscription = make.subscription(start=NOW - DAY, status="trialing", trial_end=NOW)
    event = make.event("customer.subscription.trial_will_end", subscription, NOW)
    assert RulesWorld().apply(event).templates() == []


@pytest.mark.parametrize(
    ("type_", "status"),
    [
        ("paused", "paused"),
        ("resumed", "active"),
        ("pending_update_applied", "active"),
        ("pending_update_expired", "active"),
    ],
)
def test_B5_the_other_types_are_recorded(make: StripeEvents, type_: str, status: str) -> None:
    event = make.event(f"customer.subscription.{type_}", make.subscription(start=NOW, status=status), NOW + 5)
    world = RulesWorld().apply(created(make), event)
    assert (world.subscription().status, world.calls, world.stale) == (SubscriptionStatus(status), {}, [])


def test_D2_an_older_update_overwrites_nothing(make: StripeEvents) -> None:
    newer, older = updated(make, NOW + 60, {}, status="past_due"), updated(make, NOW + 30, {}, quantity=7)
    effects = decide(older, RulesWorld().apply(newer).known)
    assert effects[-1] == NoteStale("sub_1 already has a newer version")
    world = RulesWorld().apply(newer, older)
    assert (world.subscription().status, world.subscription().quantity) == (SubscriptionStatus.PAST_DUE, 1)


def test_D2_a_real_tie_refetches_from_stripe(make: StripeEvents) -> None:
    one, other = updated(make, NOW + 5, {}, quantity=1), updated(make, NOW + 5, {}, quantity=2)
    for order in ([one, other], [other, one]):
        (call,) = RulesWorld().apply(*order).calls.values()
        assert (call.method, call.path, call.purpose) == ("GET", "/v1/subscriptions/sub_1", "settle a tie")
    assert RulesWorld().apply(one, other).state() == RulesWorld().apply(other, one).state()


def test_D2_a_tie_with_equal_content_refetches_nothing(make: StripeEvents) -> None:
    assert RulesWorld().apply(updated(make, NOW + 5, {}), updated(make, NOW + 5, {})).calls == {}


def test_a_subscription_without_a_customer_violates_a_rule(make: StripeEvents) -> None:
    event = created(make)
    event["data"]["object"]["customer"] = None
    with pytest.raises(RuleViolated, match="sub_1"):
        decide(event)


def test_C12_one_id_under_two_accounts_is_two_rows(make: StripeEvents) -> None:
    connected = StripeEvents(make.shape, account="acct_9")
    world = RulesWorld().apply(created(make), created(connected, price=TEAM))
    assert (world.subscription().plan, world.subscription(account="acct_9").plan) == ("pro", "team")
    assert world.organization().organization_id != world.organization(account="acct_9").organization_id
    assert len(world.emails) == 2


def test_the_days_come_from_the_configuration(make: StripeEvents) -> None:
    config = CONFIG.model_copy(update={"rules": CONFIG.rules.model_copy(update={"erase_after_days": 3})})
    timers = RulesWorld(config).apply(deleted(make, NOW)).pending()
    assert timers["erase::sub_1"].due_at == at(NOW) + timedelta(days=3)
