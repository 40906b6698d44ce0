"""Stream `invoices`: behaviours.md C1 to C5, in both API shapes."""

from __future__ import annotations

import itertools

import pytest

from local.stripe.builder import Json, Price, StripeEvents
from schemas.errors import MalformedEvent, RuleViolated
from schemas.settings import DunningStep
from schemas.state import Subscription
from schemas.statuses import OrganizationStatus, PaymentStatus, SubscriptionStatus
from tests.kits.paymentkit import PatientWorld
from tests.kits.rulekit import CONFIG, DAY, MAKERS, NOW, RulesWorld, at, decide

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())


def subscribed(make: StripeEvents, **more: object) -> Json:
    subscription = make.subscription(start=NOW, **more)  # type: ignore[arg-type]  # the builder's keywords
    return make.event("customer.subscription.created", subscription, NOW)


def paid(make: StripeEvents, when: int, type_: str = "invoice.paid", **more: object) -> Json:
    invoice = make.invoice(status="paid", created=when, **more)  # type: ignore[arg-type]  # the builder's keywords
    return make.event(type_, invoice, when)


def failed(make: StripeEvents, when: int, attempts: int = 1, retry: int | None = 3 * DAY, **more: object) -> Json:
    next_attempt = when + retry if retry is not None else None
    invoice = make.invoice(created=when, attempts=attempts, next_attempt=next_attempt, **more)  # type: ignore[arg-type]  # as above
    return make.event("invoice.payment_failed", invoice, when)


def test_C1_both_types_make_one_payment_and_one_receipt(make: StripeEvents) -> None:
    """Stripe sends invoice.paid and invoice.payment_succeeded for one payment."""
    when = NOW + 30 * DAY
    twins = [paid(make, when), paid(make, when + 1, "invoice.payment_succeeded", paid_at=when)]
    for order in (twins, twins[::-1]):
        world = RulesWorld().apply(subscribed(make), *order)
        payment = world.payment()
        assert (payment.status, payment.amount, payment.currency) == (PaymentStatus.SUCCEEDED, 2900, "eur")
        assert (payment.paid_at, payment.customer_id, payment.subscription_id) == (at(when), "cus_1", "sub_1")
        assert world.stale == []
        assert world.data("payment-receipt") == {
            "name": "Jane Doe",
            "number": "R-1",
            "amount": {"amount": 2900, "currency": "eur"},
            "paid_at": at(when).isoformat(),
            "hosted_url": "https://invoice.stripe.com/i/acct_1/in_1",
            "pdf_url": "https://invoice.stripe.com/i/acct_1/in_1/pdf",
            "plan": "Pro",
            "tax": None,
        }


def test_C1_a_receipt_goes_to_the_address_on_the_invoice(make: StripeEvents) -> None:
    (email,) = RulesWorld().apply(paid(make, NOW, email="accounts@example.com")).emails.values()
    assert email.recipient == "accounts@example.com"


def test_C1_minor_units_stay_as_they_are(make: StripeEvents) -> None:
    """Yen have no minor unit, dinars have thousandths. Amounts are never divided."""
    world = RulesWorld().apply(paid(make, NOW, price=Price("price_jp", 1999, "jpy")))
    assert (world.payment().amount, world.payment().currency) == (1999, "jpy")


def test_C1_a_payment_reactivates_subscription_and_organization(make: StripeEvents) -> None:
    world = RulesWorld().apply(subscribed(make), failed(make, NOW + 30 * DAY))
    assert {timer.kind for timer in world.pending().values()} == {"dunning-reminder"}
    world.apply(paid(make, NOW + 32 * DAY))
    row, organization = world.subscription(), world.organization()
    assert (row.status, row.payment_failed_at, row.payment_attempts) == (SubscriptionStatus.ACTIVE, None, 0)
    assert (organization.status, organization.billing_status) == (OrganizationStatus.ACTIVE, "paid")
    assert organization.next_billing_at == row.current_period_end
    assert world.pending() == {}


def test_C1_the_first_invoice_of_a_trial_costs_and_changes_nothing(make: StripeEvents) -> None:
    world = RulesWorld().apply(
        subscribed(make, status="trialing", trial_end=NOW + 14 * DAY),
        paid(make, NOW, amount=0, reason="subscription_create"),
    )
    assert world.subscription().status is SubscriptionStatus.TRIALING
    assert (world.payment().status, world.payment().amount) == (PaymentStatus.SUCCEEDED, 0)
    assert "payment-receipt" not in world.templates()


def test_C1_an_invoice_may_come_before_its_subscription(make: StripeEvents) -> None:
    """A placeholder row represents the subscription until its own events arrive."""
    events = [paid(make, NOW + 1), subscribed(make)]
    early, late = RulesWorld().apply(*events), RulesWorld().apply(*events[::-1])
    assert early.subscription().status is SubscriptionStatus.ACTIVE
    assert early.state() == late.state()


def test_C1_limits_follow_the_plan_after_an_update_is_paid(make: StripeEvents) -> None:
    change = make.subscription(start=NOW, price=Price("price_team", 9900))
    world = RulesWorld().apply(
        subscribed(make),
        make.event("customer.subscription.updated", change, NOW + DAY, previous=make.price_change(Price())),
        paid(make, NOW + DAY, reason="subscription_update"),
    )
    assert world.organization().limits == {"seats": 50}


def test_C1_an_invoice_outside_any_subscription(make: StripeEvents) -> None:
    world = RulesWorld().apply(paid(make, NOW, subscription=None, reason="manual"))
    assert (world.payment().subscription_id, world.payment().customer_id) == (None, "cus_1")
    assert world.templates() == ["payment-receipt"]


def test_C1_an_invoice_without_a_customer_is_still_a_payment(make: StripeEvents) -> None:
    world = RulesWorld().apply(paid(make, NOW, customer=None))
    assert (world.payment().status, world.payment().customer_id) == (PaymentStatus.SUCCEEDED, None)


def test_C2_a_failure_marks_payment_subscription_and_organization(make: StripeEvents) -> None:
    when = NOW + 30 * DAY
    reason = {"message": "Your card was declined."}
    world = RulesWorld().apply(subscribed(make), failed(make, when, attempts=2, last_finalization_error=reason))
    row, payment = world.subscription(), world.payment()
    assert (payment.status, payment.failure_reason) == (PaymentStatus.FAILED, "Your card was declined.")
    assert (payment.amount, payment.attempt_count, payment.first_failed_at) == (2900, 2, at(when))
    assert (row.status, row.payment_failed_at, row.payment_attempts) == (SubscriptionStatus.PAST_DUE, at(when), 2)
    assert (world.organization().status, world.organization().billing_status) == (
        OrganizationStatus.PAYMENT_FAILED,
        "failed",
    )


def test_C2_the_reason_comes_from_the_expanded_charge_or_intent(make: StripeEvents) -> None:
    charge = {"id": "ch_9", "failure_message": "Insufficient funds."}
    assert RulesWorld().apply(failed(make, NOW, charge=charge)).payment().failure_reason == "Insufficient funds."
    intent = {"id": "pi_9", "last_payment_error": {"message": "Expired card."}}
    payment = RulesWorld().apply(failed(make, NOW, charge=None, payment_intent=intent)).payment()
    assert (payment.failure_reason, payment.payment_intent_id) == ("Expired card.", "pi_9")


def test_C2_a_subscription_without_a_first_payment_stays_incomplete(make: StripeEvents) -> None:
    """Stripe leaves a subscription incomplete if its first payment fails. `billing_status` says that it failed."""
    first = subscribed(make, status="incomplete"), failed(make, NOW + 5, reason="subscription_create")
    for order in (first, first[::-1]):
        world = RulesWorld().apply(*order)
        assert world.subscription().status is SubscriptionStatus.INCOMPLETE
        assert world.organization().status is OrganizationStatus.INCOMPLETE
        assert (world.organization().billing_status, world.organization().has_access) == ("failed", False)
    begun = subscribed(make), failed(make, NOW + 5, reason="subscription_create")
    for order in (begun, begun[::-1]):
        assert RulesWorld().apply(*order).subscription().status is SubscriptionStatus.PAST_DUE


def test_C2_a_paid_invoice_stays_paid(make: StripeEvents) -> None:
    """A late failure of a paid invoice changes no status, sends no mail and starts no timer."""
    world = RulesWorld().apply(subscribed(make), paid(make, NOW + 32 * DAY))
    mails = set(world.emails)
    world.apply(failed(make, NOW + 30 * DAY))
    assert world.payment().status is PaymentStatus.SUCCEEDED
    assert (len(world.stale), set(world.emails), world.pending()) == (1, mails, {})
    assert world.payment().first_failed_at == at(NOW + 30 * DAY)


@pytest.mark.parametrize(
    ("attempts", "retry", "template"),
    [
        (0, DAY, "payment-failed"),
        (1, DAY, "payment-failed"),
        (2, DAY, "payment-urgent"),
        (3, DAY, "payment-urgent"),
        (4, DAY, "payment-final"),
        (9, DAY, "payment-final"),
        (1, None, "payment-failed"),
        (2, None, "payment-final"),
    ],
)
def test_C3_the_notice_of_each_attempt(make: StripeEvents, attempts: int, retry: int | None, template: str) -> None:
    assert RulesWorld().apply(failed(make, NOW, attempts, retry)).templates() == [template]


def test_C3_the_notice_contains_the_data_of_the_attempt(make: StripeEvents) -> None:
    assert RulesWorld().apply(failed(make, NOW, due_date=NOW + DAY)).data("payment-failed") == {
        "name": "Jane Doe",
        "number": "R-1",
        "amount": {"amount": 2900, "currency": "eur"},
        "due_at": at(NOW + DAY).isoformat(),
        "next_attempt_at": at(NOW + 3 * DAY).isoformat(),
        "hosted_url": "https://invoice.stripe.com/i/acct_1/in_1",
        "update_url": CONFIG.mail.update_payment_url,
        "attempt": 1,
        "is_sent": False,
        "reason": None,
    }


def test_C3_each_step_once_per_invoice(make: StripeEvents) -> None:
    tries = [failed(make, NOW + number * DAY, number) for number in (1, 2, 3, 4)]
    world = RulesWorld().apply(*tries, *tries)
    assert world.templates() == ["payment-failed", "payment-final", "payment-urgent"]
    assert RulesWorld().apply(tries[0], failed(make, NOW, id_="in_2")).templates() == [
        "payment-failed",
        "payment-failed",
    ]


def test_C3_the_reminder_is_due_three_days_after_the_first_failure(make: StripeEvents) -> None:
    first, second = failed(make, NOW), failed(make, NOW + 2 * DAY, 2)
    for order in ([first, second], [second, first]):
        (timer,) = RulesWorld().apply(*order).pending().values()
        assert (timer.kind, timer.subject, timer.due_at) == ("dunning-reminder", "in_1", at(NOW + 3 * DAY))
        assert (timer.data["template"], timer.data["mail"]["attempt"]) == ("payment-reminder", 2)


def test_C3_an_invoice_to_be_paid_manually_is_not_lost(make: StripeEvents) -> None:
    event = failed(make, NOW, retry=None, collection_method="send_invoice")
    assert RulesWorld().apply(event).templates() == ["payment-failed"]


def test_C3_the_steps_are_configuration(make: StripeEvents) -> None:
    steps = (DunningStep(template="payment-urgent", attempts=(1,)), DunningStep(template="payment-final", after_days=9))
    config = CONFIG.model_copy(update={"rules": CONFIG.rules.model_copy(update={"dunning": steps})})
    world = RulesWorld(config).apply(failed(make, NOW), failed(make, NOW + DAY, 2))
    assert world.templates() == ["payment-urgent"]
    assert [timer.due_at for timer in world.pending().values()] == [at(NOW + 9 * DAY)]


def closed(make: StripeEvents, when: int, type_: str = "invoice.voided") -> Json:
    return make.event(type_, make.invoice(status="void", created=NOW), when)


@pytest.mark.parametrize("type_", ["invoice.voided", "invoice.marked_uncollectible", "invoice.deleted"])
def test_C3_a_closed_invoice_sends_no_reminder(make: StripeEvents, type_: str) -> None:
    tries = [failed(make, NOW + DAY), failed(make, NOW + 2 * DAY, 2)]
    end = closed(make, NOW + 3 * DAY, type_)
    action_required = make.event("invoice.payment_action_required", make.invoice(created=NOW), NOW + DAY)
    begun = subscribed(make)
    ordered = RulesWorld().apply(begun, *tries, end)
    assert (ordered.pending(), ordered.payment().status) == ({}, PaymentStatus.CLOSED)
    assert ordered.payment().closed_at == ordered.payment().lost_at == at(NOW + 3 * DAY)
    for order in itertools.permutations([*tries, end]):
        world = RulesWorld().apply(begun, *order)
        assert world.state() == ordered.state()
        assert set(world.emails) <= set(ordered.emails)
    assert RulesWorld().apply(end, *tries, action_required).templates() == []


def test_C3_only_a_voided_invoice_is_no_longer_due(make: StripeEvents) -> None:
    def after(type_: str) -> Subscription:
        return (
            RulesWorld()
            .apply(subscribed(make), failed(make, NOW + DAY), closed(make, NOW + 3 * DAY, type_))
            .subscription()
        )

    assert after("invoice.voided").payment_failed_at is None
    assert after("invoice.marked_uncollectible").payment_failed_at == at(NOW + DAY)


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_C2_a_failed_try_of_a_written_off_invoice_changes_no_status(make: StripeEvents, order: tuple[int, ...]) -> None:
    """Writing off the latest invoice makes the subscription active at Stripe; a later decline changes nothing."""
    active = make.subscription(start=NOW, latest_invoice="in_1")
    events = [
        closed(make, NOW + DAY, "invoice.marked_uncollectible"),
        make.event("customer.subscription.updated", active, NOW + DAY, previous={"status": "past_due"}),
        failed(make, NOW + 9 * DAY, 5, None, status="uncollectible"),
    ]
    world = RulesWorld().apply(subscribed(make), failed(make, NOW + 60), *(events[one] for one in order))
    assert (world.subscription().status, world.organization().status) == ("active", "active")
    assert [mail for mail in world.emails.values() if mail.template in ("payment-urgent", "payment-final")] == []


def test_C3_a_written_off_invoice_may_still_be_paid(make: StripeEvents) -> None:
    events = [failed(make, NOW), closed(make, NOW + DAY, "invoice.marked_uncollectible"), paid(make, NOW + 2 * DAY)]
    for order in itertools.permutations(events):
        payment = RulesWorld().apply(*order).payment()
        assert (payment.status, payment.lost_at) == (PaymentStatus.SUCCEEDED, None)


@pytest.mark.parametrize(
    ("tries", "paid_after", "step"),
    [
        ([], 1, None),
        ([0], 0, "payment-failed"),
        ([0], 1, "payment-failed"),
        ([0], 4, "payment-reminder"),
        ([0, 5], 4, "payment-reminder"),
        ([0, 5], 6, "payment-urgent"),
        ([0, 1, 2, 9], 10, "payment-final"),
    ],
)
def test_C3_the_step_that_recovered_the_payment_is_recorded(
    make: StripeEvents, tries: list[int], paid_after: int, step: str | None
) -> None:
    """It is the last step before the payment, in any order of arrival. A failure after the payment does not count."""
    events = [failed(make, NOW + day * DAY, number) for number, day in enumerate(tries, 1)]
    events.append(paid(make, NOW + paid_after * DAY))
    for order in itertools.permutations(events):
        payment = RulesWorld().apply(*order).payment()
        assert (payment.recovered_by, payment.lost_at) == (step, None)
        assert payment.paid_at == at(NOW + paid_after * DAY)
        assert payment.first_failed_at == (at(NOW) if tries else None)


def test_C3_an_invoice_is_lost_when_the_last_step_is_reached(make: StripeEvents) -> None:
    tries = [failed(make, NOW), failed(make, NOW + 2 * DAY, 2), failed(make, NOW + 5 * DAY, 3, retry=None)]
    for order in itertools.permutations(tries):
        payment = RulesWorld().apply(*order).payment()
        assert (payment.recovered_by, payment.lost_at) == (None, at(NOW + 5 * DAY))


def test_C4_one_mail_with_the_hosted_page(make: StripeEvents) -> None:
    event = make.event("invoice.payment_action_required", make.invoice(created=NOW), NOW)
    world = RulesWorld().apply(event, event)
    assert world.data("payment-action-required") == {
        "name": "Jane Doe",
        "number": "R-1",
        "amount": {"amount": 2900, "currency": "eur"},
        "hosted_url": "https://invoice.stripe.com/i/acct_1/in_1",
        "subscription_id": "sub_1",
    }
    assert RulesWorld().apply(paid(make, NOW + 5), event).templates() == ["payment-receipt"]


def test_C5_a_renewal_reminder_per_event(make: StripeEvents) -> None:
    """An upcoming invoice has no id. Two of them a year apart are two reminders."""
    event = make.event("invoice.upcoming", make.invoice(None, status="draft", next_attempt=NOW + 7 * DAY), NOW)
    world = RulesWorld().apply(subscribed(make), event, event)
    assert world.data("renewal-reminder") == {
        "name": "Jane Doe",
        "amount": {"amount": 2900, "currency": "eur"},
        "renews_at": at(NOW + 7 * DAY).isoformat(),
        "is_sent": False,
        "due_at": None,
        "plan": "Pro",
        "subscription_id": "sub_1",
        "billed": ("price_pro:1",),
        "announced_at": at(NOW).isoformat(),
        "items": ["price_pro:1"],
    }
    later = make.event("invoice.upcoming", make.invoice(None, status="draft"), NOW + 300 * DAY)
    assert world.apply(later).templates().count("renewal-reminder") == 2


def test_only_an_upcoming_invoice_may_lack_an_id(make: StripeEvents) -> None:
    with pytest.raises(RuleViolated, match="no id"):
        decide(make.event("invoice.paid", make.invoice(None, status="paid"), NOW))


@pytest.mark.parametrize("amount", [29.0, True, "2900", None, 2**63])
def test_an_amount_is_an_integer_or_an_error(make: StripeEvents, amount: object) -> None:
    event = paid(make, NOW)
    event["data"]["object"]["amount_due"] = amount
    with pytest.raises(MalformedEvent, match="amount_due"):
        decide(event)


@pytest.mark.parametrize("currency", ["euro", "EUR", "xyz", "", None, 978])
def test_an_unknown_currency_is_an_error(make: StripeEvents, currency: object) -> None:
    event = paid(make, NOW)
    event["data"]["object"]["currency"] = currency
    with pytest.raises(MalformedEvent, match="currency"):
        decide(event)


def test_C3_nothing_is_dunned_after_the_subscription_has_ended(make: StripeEvents) -> None:
    """G3: the payment still failed, whichever event comes first in time."""
    ended = make.event("customer.subscription.deleted", make.subscription(status="canceled"), NOW + 1)
    world = PatientWorld().apply(subscribed(make), ended, failed(make, NOW + 50))
    world.fire("dunning-reminder")
    assert world.payment().status is PaymentStatus.FAILED
    assert not {name for name in world.templates() if name.startswith("payment-")}


def test_C3_an_overdue_invoice_is_mailed_once_until_it_is_paid(make: StripeEvents) -> None:
    """Only if the customer pays by hand: an automatic charge has its own mails."""
    sent = {"collection_method": "send_invoice", "due_date": NOW - DAY, "attempts": 0}
    overdue = [make.event("invoice.overdue", make.invoice(created=NOW - 30 * DAY, **sent), NOW + n) for n in (0, 9)]  # type: ignore[arg-type]
    world = RulesWorld().apply(*overdue)
    (mail,) = world.emails.values()
    assert (mail.template, mail.data["amount"]) == ("invoice-overdue", {"amount": 2900, "currency": "eur"})
    late = RulesWorld().apply(paid(make, NOW), overdue[0])
    assert (late.stale, "invoice-overdue" in str(late.emails)) == ([overdue[0]["id"]], False)
    charged = make.event("invoice.overdue", make.invoice(created=NOW - 30 * DAY), NOW)
    assert RulesWorld().apply(charged).emails == {}
