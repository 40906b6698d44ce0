"""The values of the columns `status` and `kind` of the state tables."""

from __future__ import annotations

from enum import StrEnum


class SubscriptionStatus(StrEnum):
    """Stripe's eight statuses. Any other is an error (behaviours.md B3)."""

    INCOMPLETE = "incomplete"
    INCOMPLETE_EXPIRED = "incomplete_expired"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    CANCELED = "canceled"
    UNPAID = "unpaid"
    PAUSED = "paused"


class OrganizationStatus(StrEnum):
    """Derived from the customer's subscriptions in streams/rules/customers/organization.py."""

    ACTIVE = "active"
    TRIALING = "trialing"
    PAYMENT_FAILED = "payment_failed"
    PAUSED = "paused"
    INCOMPLETE = "incomplete"
    CANCELLED = "cancelled"


class PaymentStatus(StrEnum):
    """Derived from the payment's facts in schemas/payment_facts.py."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUNDED = "refunded"
    CLOSED = "closed"
    """No one is asked to pay it any more: voided, deleted, written off, or its authorization was canceled."""
    LOST = "lost"
    """It was paid, and a dispute took the money back."""


class LinkKind(StrEnum):
    """The kinds of Stripe objects that can be one payment. The first kind that it has gives the payment its id."""

    INVOICE = "invoice"
    SESSION = "session"
    INTENT = "intent"
    CHARGE = "charge"


class TimerStatus(StrEnum):
    PENDING = "pending"
    FIRED = "fired"
    """Appended to the log, not yet processed."""
    DONE = "done"
    CANCELLED = "cancelled"


OPEN_TIMERS = (TimerStatus.PENDING, TimerStatus.FIRED)
"""The statuses of a timer that can still be moved, cancelled or finished. Only these are loaded with a customer."""
