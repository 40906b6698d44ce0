"""Stream `checkout`: behaviours.md B2, in both API shapes."""

from __future__ import annotations

import pytest

from local.stripe.builder import Json, StripeEvents
from schemas.errors import MalformedEvent, RuleViolated
from schemas.settings import Config, Rules
from schemas.state import Customer, Organization, User
from schemas.statuses import PaymentStatus, SubscriptionStatus
from tests.kits.rulekit import DAY, MAKERS, NOW, RulesWorld, at, decide

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())


def session(make: StripeEvents, what: str = "completed", when: int = NOW, **more: object) -> Json:
    checkout = make.checkout_session(created=NOW, **more)  # type: ignore[arg-type]  # the builder's keywords
    return make.event(f"checkout.session.{what}", checkout, when)


def created(make: StripeEvents, when: int = NOW) -> Json:
    return make.event("customer.subscription.created", make.subscription(start=when), when)


def test_B2_links_user_customer_and_subscription(make: StripeEvents) -> None:
    world = RulesWorld().apply(session(make, user="user_7", plan="pro"))
    assert (world.customer().user_id, world.customer().email) == ("user_7", "jane@example.com")
    assert (world.subscription().customer_id, world.subscription().plan) == ("cus_1", "pro")
    assert world.admins() == ["user_7"]
    user = world.known.user("", "user_7")
    assert user is not None
    assert user.email == "jane@example.com"


def test_B2_the_plan_is_active_until_a_subscription_event_arrives(make: StripeEvents) -> None:
    world = RulesWorld().apply(session(make, plan="team"))
    assert (world.subscription().status, world.organization().limits) == (SubscriptionStatus.ACTIVE, {"seats": 50})
    trial = make.subscription(start=NOW, status="trialing", trial_end=NOW + 9 * DAY)
    world.apply(make.event("customer.subscription.created", trial, NOW - 5))
    assert world.subscription().status is SubscriptionStatus.TRIALING


DEFAULT = RulesWorld().config
LINKING = DEFAULT.model_copy(update={"rules": Rules(link_client_reference_id=True)})


def test_B2_client_reference_id_is_the_second_choice(make: StripeEvents) -> None:
    def linked(event: Json, config: Config) -> str | None:
        return RulesWorld(config=config).apply(event).customer().user_id

    alone = session(make, client_reference_id="user_8")
    assert linked(alone, LINKING) == "user_8"
    assert linked(alone, DEFAULT) is None, "a buyer can set it, so it links only if the config says so"
    assert linked(session(make, user="user_7", client_reference_id="user_8"), LINKING) == "user_7"


@pytest.mark.parametrize("config", [DEFAULT, LINKING], ids=["default", "linking"])
def test_B2_a_buyer_takes_over_no_user_of_another_customer(make: StripeEvents, config: Config) -> None:
    """The user keeps address and memberships, and the buyer gets a user of their own."""
    victim = [created(make), session(make, when=NOW + 2, user="user_7", email="ada@example.com")]
    world = RulesWorld(config=config).apply(*victim)
    before = world.known.user("", "user_7")
    mallory = {"customer": "cus_mallory", "subscription": "sub_mallory"}
    attack = session(make, when=NOW + 60, client_reference_id="user_7", email="mallory@evil.example")
    attack["data"]["object"] |= mallory
    world.apply(attack)
    assert world.known.user("", "user_7") == before
    own = world.known.user("", User.id_of("", "cus_mallory"))
    assert own is not None
    assert own.email == "mallory@evil.example"
    organization = Organization.id_of("", "cus_mallory")
    assert world.known.membership(organization, "user_7") is None


def test_B2_a_buyer_takes_over_no_stand_in_user_whose_id_anybody_can_compute(make: StripeEvents) -> None:
    """Not even if that customer has no address yet: the buyer's would become the one of the customer's ADMIN."""
    victim = session(make, when=NOW + 2)
    victim["data"]["object"] |= {"customer_email": None, "customer_details": None}
    world = RulesWorld(config=LINKING).apply(created(make), victim)
    stand_in = User.id_of("", "cus_1")
    assert world.admins() == [stand_in]
    before = world.known.user("", stand_in)
    attack = session(make, when=NOW + 60, client_reference_id=stand_in, email="mallory@evil.example")
    attack["data"]["object"] |= {"customer": "cus_mallory", "subscription": "sub_mallory"}
    world.apply(attack)
    assert world.known.user("", stand_in) == before
    assert world.known.membership(Organization.id_of("", "cus_mallory"), stand_in) is None


def test_B2_each_stand_in_user_is_recognised(make: StripeEvents) -> None:
    for number in range(50):
        stand_in = User.id_of("acct_1", f"cus_{number}")
        world = RulesWorld(config=LINKING).apply(session(make, client_reference_id=stand_in))
        assert world.customer().user_id is None


def test_B2_without_a_plan_the_price_decides(make: StripeEvents) -> None:
    events = [created(make), session(make, when=NOW + 2)]
    for order in (events, events[::-1]):
        assert RulesWorld().apply(*order).subscription().plan == "pro"


def test_B2_the_linked_user_replaces_the_placeholder_user(make: StripeEvents) -> None:
    """In either order, the same users are in the same organization."""
    events = [created(make), session(make, when=NOW + 2, user="user_7")]
    before, after = RulesWorld().apply(*events), RulesWorld().apply(*events[::-1])
    assert before.admins() == after.admins() == ["user_7"]
    assert before.state() == after.state()
    stand_in = before.known.user("", User.id_of("", "cus_1"))
    assert stand_in is not None
    assert stand_in.email is None


def test_B2_the_newest_link_wins(make: StripeEvents) -> None:
    events = [created(make), session(make, when=NOW + 2, user="user_7"), session(make, when=NOW + 9, user="user_8")]
    for order in (events, events[::-1]):
        world = RulesWorld().apply(*order)
        assert (world.customer().user_id, world.admins()) == ("user_8", ["user_8"])


def test_B2_one_welcome_mail_in_either_order(make: StripeEvents) -> None:
    events = [created(make), session(make, when=NOW + 2, plan="pro")]
    for order in (events, events[::-1]):
        world = RulesWorld().apply(*order)
        assert list(world.emails) == ["welcome::sub_1"]
        assert world.data("subscription-welcome")["plan"] == "Pro"


def test_B2_the_welcome_mail_waits_until_the_plan_is_known(make: StripeEvents) -> None:
    world = RulesWorld().apply(session(make))
    assert world.templates() == []
    assert world.apply(created(make)).templates() == ["subscription-welcome"]


def test_B2_a_subscription_checkout_without_a_customer_violates_a_rule(make: StripeEvents) -> None:
    with pytest.raises(RuleViolated, match="cs_test_1"):
        decide(session(make, customer=None))


def test_B2_a_paid_purchase_is_recorded_and_fulfilled(make: StripeEvents) -> None:
    payment = RulesWorld().apply(session(make, mode="payment")).payment("cs_test_1")
    assert (payment.status, payment.amount, payment.currency) == (PaymentStatus.SUCCEEDED, 2900, "eur")
    assert (payment.fulfilled_at, payment.paid_at) == (at(NOW), at(NOW))
    assert (payment.invoice_id, payment.payment_intent_id, payment.customer_id) == (None, "pi_cs_test_1", "cus_1")


def test_B2_a_delayed_purchase_is_fulfilled_when_it_is_paid(make: StripeEvents) -> None:
    pending = session(make, mode="payment", payment_status="unpaid")
    world = RulesWorld().apply(pending)
    assert (world.payment("cs_test_1").status, world.payment("cs_test_1").fulfilled_at) == (PaymentStatus.PENDING, None)
    done = session(make, "async_payment_succeeded", NOW + DAY, mode="payment")
    for order in ([pending, done], [done, pending]):
        payment = RulesWorld().apply(*order).payment("cs_test_1")
        assert (payment.status, payment.fulfilled_at) == (PaymentStatus.SUCCEEDED, at(NOW + DAY))
    assert RulesWorld().apply(pending, done).state() == RulesWorld().apply(done, pending).state()


def test_B2_a_delayed_payment_that_fails_is_recorded(make: StripeEvents) -> None:
    pending = session(make, mode="payment", payment_status="unpaid")
    lost = session(make, "async_payment_failed", NOW + DAY, mode="payment", payment_status="unpaid")
    for order in ([pending, lost], [lost, pending]):
        payment = RulesWorld().apply(*order).payment("cs_test_1")
        assert (payment.status, payment.fulfilled_at) == (PaymentStatus.FAILED, None)


def test_B2_an_expired_session_orders_nothing(make: StripeEvents) -> None:
    """The ledger row `applied` is the only record."""
    assert decide(session(make, "expired", status="expired", customer=None, email=None)) == []


def test_B2_a_guest_buys_without_a_customer(make: StripeEvents) -> None:
    bought = session(make, mode="payment", customer=None)
    world = RulesWorld().apply(bought, bought)
    assert (world.payment("cs_test_1").customer_id, world.rows(Customer)) == (None, [])
    (mail,) = world.emails.values()
    assert (mail.template, mail.customer_id, mail.recipient) == ("payment-receipt", None, "jane@example.com")


def test_B2_a_purchase_with_an_invoice_counts_once(make: StripeEvents) -> None:
    invoice = make.invoice(status="paid", subscription=None, created=NOW + 1, reason="manual")
    events = [
        session(make, mode="payment", invoice="in_1", payment_intent="pi_1"),
        make.event("invoice.paid", invoice, NOW + 1),
    ]
    for order in (events, events[::-1]):
        world = RulesWorld().apply(*order)
        assert world.payment("in_1") == world.payment("cs_test_1")
        assert world.payment("in_1").fulfilled_at == at(NOW)
    assert RulesWorld().apply(*events).state() == RulesWorld().apply(*events[::-1]).state()


@pytest.mark.parametrize(
    ("field", "value"),
    [("payment_status", "maybe"), ("mode", "barter"), ("amount_total", 29.5), ("currency", "euro"), ("id", "")],
)
def test_a_session_with_an_invalid_field_is_an_error(make: StripeEvents, field: str, value: object) -> None:
    event = session(make, mode="payment")
    event["data"]["object"][field] = value
    with pytest.raises(MalformedEvent, match=field):
        decide(event)


def test_a_purchase_without_an_amount_violates_a_rule(make: StripeEvents) -> None:
    with pytest.raises(RuleViolated, match="amount_total"):
        decide(session(make, mode="payment", amount=None))
