"""A recovery has its effects whatever brought it: the invoice's event, an update, or a fetched object (C1, C3)."""

from __future__ import annotations

import itertools

import pytest

from local.stripe.builder import Json, StripeEvents
from schemas.refetch import refetched_event
from schemas.statuses import SubscriptionStatus
from streams.rules.invoices.dunning import DUNNING_REMINDER
from tests.kits.paymentkit import PatientWorld
from tests.kits.rulekit import DAY, MAKERS, NOW, at

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=["old", "new"])


def subscription(make: StripeEvents, status: str, latest: str = "in_1") -> Json:
    return make.subscription(start=NOW, status=status, latest_invoice=latest)


def updated(make: StripeEvents, day: int, status: str, former: str, latest: str = "in_1") -> Json:
    made = subscription(make, status, latest)
    return make.event("customer.subscription.updated", made, NOW + day * DAY, previous={"status": former})


def fetched(make: StripeEvents, day: int, status: str, latest: str = "in_1") -> Json:
    made = subscription(make, status, latest)
    when = at(NOW + day * DAY)
    return refetched_event(
        "repair", made, at=when, account="", livemode=False, api_version=str(make.shape), request_id=None
    )


def failure(make: StripeEvents) -> list[Json]:
    created = make.event("customer.subscription.created", subscription(make, "active"), NOW)
    invoice = make.invoice(created=NOW + DAY, next_attempt=NOW + 9 * DAY)
    return [
        created,
        make.event("invoice.payment_failed", invoice, NOW + DAY),
        updated(make, 1, "past_due", "active"),
    ]


@pytest.mark.parametrize("is_fetched", [True, False])
def test_C3_a_recovery_ends_the_dunning_without_the_invoices_event(make: StripeEvents, is_fetched: bool) -> None:
    """`invoice.paid` was lost. Stripe makes a subscription active again only if its latest invoice is settled."""
    recovery = fetched(make, 2, "active") if is_fetched else updated(make, 2, "active", "past_due")
    for order in itertools.permutations([*failure(make), recovery]):
        world = PatientWorld().apply(*order).fire(DUNNING_REMINDER)
        row = world.subscription()
        assert (row.status, row.failed_invoice, row.payment_failed_at) == (SubscriptionStatus.ACTIVE, None, None)
        assert world.organization().billing_status is None
        assert "payment-reminder" not in world.templates()


def test_C3_a_failure_that_arrives_after_the_recovery_is_not_mailed_about(make: StripeEvents) -> None:
    created, failed, past_due = failure(make)
    world = PatientWorld().apply(created, past_due, updated(make, 2, "active", "past_due"), failed)
    assert "payment-failed" not in world.templates()


@pytest.mark.parametrize(
    ("status", "latest"),
    [
        pytest.param("trialing", "in_1", id="given a trial: Stripe goes on charging the open invoice"),
        pytest.param("active", "in_2", id="only the next invoice was paid"),
        pytest.param("unpaid", "in_1", id="Stripe has given up"),
    ],
)
def test_C3_other_changes_leave_the_invoice_owed(make: StripeEvents, status: str, latest: str) -> None:
    for order in itertools.permutations([*failure(make), fetched(make, 2, status, latest)]):
        world = PatientWorld().apply(*order).fire(DUNNING_REMINDER)
        assert world.subscription().failed_invoice == "in_1"
        assert "payment-reminder" in world.templates()


def test_C3_a_failure_after_the_recovery_is_owed(make: StripeEvents) -> None:
    """The same invoice cannot fail after it was settled, so what Stripe said of the subscription was about another."""
    later = make.event("invoice.payment_failed", make.invoice(created=NOW + DAY, attempts=2), NOW + 5 * DAY)
    for order in itertools.permutations([*failure(make), fetched(make, 2, "active"), later]):
        assert PatientWorld().apply(*order).subscription().failed_invoice == "in_1"
