"""One example of each event type that has a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from local.stripe.builder import DAY_S, PRO, Json, Price, StripeEvents
from local.stripe.payments import PAYMENT_EXAMPLES

Example = Callable[[StripeEvents, int], tuple[Json, Json | None]]
"""Takes a builder and the event's time; returns the event's object and its `previous_attributes`."""


EXAMPLES: Mapping[str, Example] = {
    **PAYMENT_EXAMPLES,
    "customer.created": lambda make, at: (make.customer(created=at), None),
    "customer.updated": lambda make, at: (make.customer(created=at), {"email": "old@example.com"}),
    "customer.deleted": lambda _, __: ({"id": "cus_1", "object": "customer", "deleted": True}, None),
    "customer.subscription.created": lambda make, at: (make.subscription(start=at), None),
    "customer.subscription.updated": lambda make, at: (
        make.subscription(start=at, price=Price("price_team", 9900)),
        make.price_change(PRO),
    ),
    "customer.subscription.deleted": lambda make, at: (
        make.subscription(start=at - DAY_S, status="canceled", canceled_at=at, ended_at=at),
        None,
    ),
    "customer.subscription.trial_will_end": lambda make, at: (
        make.subscription(
            start=at - 4 * DAY_S, status="trialing", trial_start=at - 4 * DAY_S, trial_end=at + 3 * DAY_S
        ),
        None,
    ),
    "customer.subscription.paused": lambda make, at: (make.subscription(start=at, status="paused"), None),
    "customer.subscription.resumed": lambda make, at: (make.subscription(start=at), None),
    "customer.subscription.pending_update_applied": lambda make, at: (make.subscription(start=at), None),
    "customer.subscription.pending_update_expired": lambda make, at: (make.subscription(start=at), None),
    "invoice.paid": lambda make, at: (make.invoice(status="paid", created=at), None),
    "invoice.payment_succeeded": lambda make, at: (make.invoice(status="paid", created=at), None),
    "invoice.payment_failed": lambda make, at: (make.invoice(created=at, next_attempt=at + 3 * DAY_S), None),
    "invoice.voided": lambda make, at: (make.invoice(status="void", created=at - DAY_S), None),
    "invoice.marked_uncollectible": lambda make, at: (make.invoice(status="uncollectible", created=at - DAY_S), None),
    "invoice.deleted": lambda make, at: (make.invoice(status="draft", created=at - DAY_S, attempts=0), None),
    "invoice.payment_action_required": lambda make, at: (make.invoice(created=at), None),
    "invoice.overdue": lambda make, at: (
        make.invoice(
            created=at - 30 * DAY_S,
            attempts=0,
            collection_method="send_invoice",
            due_date=at - DAY_S,
            next_attempt=None,
        ),
        None,
    ),
    "invoice.updated": lambda make, at: (make.invoice(amount=2000, created=at - DAY_S), {"amount_due": 2900}),
    "invoice.finalization_failed": lambda make, at: (
        make.invoice(
            status="draft",
            created=at - DAY_S,
            attempts=0,
            last_finalization_error={"code": "tax_id_invalid", "message": "The tax id is invalid.", "type": "x"},
        ),
        None,
    ),
    "invoice.upcoming": lambda make, at: (
        make.invoice(None, status="draft", created=at, attempts=0, next_attempt=at + 7 * DAY_S, reason="upcoming"),
        None,
    ),
    "checkout.session.completed": lambda make, at: (make.checkout_session(created=at, plan="pro", user="user_1"), None),
    "checkout.session.async_payment_succeeded": lambda make, at: (
        make.checkout_session(created=at, mode="payment"),
        None,
    ),
    "checkout.session.async_payment_failed": lambda make, at: (
        make.checkout_session(created=at, mode="payment", payment_status="unpaid"),
        None,
    ),
    "checkout.session.expired": lambda make, at: (
        make.checkout_session(created=at, customer=None, payment_status="unpaid", status="expired", email=None),
        None,
    ),
    "account.application.authorized": lambda _, __: ({"id": "ca_1", "object": "application"}, None),
    "account.application.deauthorized": lambda _, __: ({"id": "ca_1", "object": "application"}, None),
}
"""The events that `billing trigger TYPE` can create: one of each type that has a rule."""


_ENVELOPES: Mapping[str, Json] = {
    "account.application.authorized": {"account": "acct_1"},
    "account.application.deauthorized": {"account": "acct_1"},
}
"""Fields of the event itself: Stripe sends these types only about connected accounts."""


def example(type_: str, created: int, make: StripeEvents | None = None) -> Json:
    """Return an event of this type for customer `cus_1`. Raises KeyError if the type is not in EXAMPLES."""
    make = make or StripeEvents()
    obj, previous = EXAMPLES[type_](make, created)
    return _ENVELOPES.get(type_, {}) | make.event(type_, obj, created, previous=previous)
