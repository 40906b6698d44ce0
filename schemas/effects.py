"""What a rule orders to be done: frozen values, carried out by `streams/process.py` in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from schemas.state import (
    Customer,
    Dispute,
    Membership,
    Organization,
    Payment,
    PaymentMethod,
    Subscription,
    User,
)


@dataclass(frozen=True, slots=True)
class SaveCustomer:
    row: Customer


@dataclass(frozen=True, slots=True)
class SaveOrganization:
    row: Organization


@dataclass(frozen=True, slots=True)
class SaveUser:
    row: User


@dataclass(frozen=True, slots=True)
class SaveMembership:
    row: Membership


@dataclass(frozen=True, slots=True)
class RemoveMembership:
    row: Membership


@dataclass(frozen=True, slots=True)
class SaveSubscription:
    row: Subscription


@dataclass(frozen=True, slots=True)
class SavePayment:
    row: Payment


@dataclass(frozen=True, slots=True)
class SavePaymentMethod:
    row: PaymentMethod


@dataclass(frozen=True, slots=True)
class SaveDispute:
    row: Dispute


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEmail:
    """One e-mail, once: `key` is unique for ever, so whoever asks again changes nothing.

    `recipient` None means the customer's address, taken when the mail is sent (it may be known only by then).
    `data` is JSON for the template: times as ISO 8601 UTC, money as {"amount": minor units, "currency": "eur"}.
    """

    key: str
    template: str
    account: str
    customer_id: str | None
    recipient: str | None = None
    locale: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimer:
    """Sets a timer, or moves an open one; one that is done or cancelled stays so.

    Open is pending, or fired and not acted on yet: its event is on its way then, and finds the timer moved.
    """

    key: str
    account: str
    customer_id: str
    kind: str
    subject: str
    due_at: datetime
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTimers:
    """Cancels the customer's open timers of these kinds about this subject ('' means any)."""

    account: str
    customer_id: str
    kinds: tuple[str, ...]
    subject: str = ""


@dataclass(frozen=True, slots=True)
class FinishTimer:
    """The timer that fired has been acted on, or there was nothing to do: it is done. A cancelled one stays so."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStripe:
    """One call of Stripe's API, done later by the dispatcher with `key` as its idempotency key."""

    key: str
    method: str
    """`GET` or `POST`."""
    path: str
    """`/v1/subscriptions/sub_…`"""
    account: str
    customer_id: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    purpose: str = ""
    """Why, for people: one of PURPOSES."""


SETTLE_A_TIE = "settle a tie"
SET_DEFAULT_METHOD = "set the default payment method"
FIND_RECIPIENT = "find the recipient of a mail"
"""Ordered by the mail dispatcher, of a customer whom events only name."""
PURPOSES = (SETTLE_A_TIE, SET_DEFAULT_METHOD, FIND_RECIPIENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderExport:
    """An archive of all that is held on the customer and their organization, made later by the dispatcher, once.

    `key` is the id in its link (schemas/export_link.py); the archive is deleted at `keep_until`.
    """

    key: str
    account: str
    customer_id: str
    keep_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase:
    """The customer's personal data goes from every table, and what is pending about them is cancelled.

    The rows that rules know are saved without it by the same rule; this is for all that no rule sees. It ends its
    transaction: what came before it is erased with the rest, what comes behind it is not.
    """

    account: str
    customer_id: str
    asked_at: datetime
    """Since when it was to be: when they left."""


@dataclass(frozen=True, slots=True)
class NoteStale:
    """The event is older than what is stored: its verdict is `stale`; what it orders besides still holds."""

    reason: str


Effect = (
    SaveCustomer
    | SaveOrganization
    | SaveUser
    | SaveMembership
    | RemoveMembership
    | SaveSubscription
    | SavePayment
    | SavePaymentMethod
    | SaveDispute
    | QueueEmail
    | StartTimer
    | CancelTimers
    | FinishTimer
    | CallStripe
    | OrderExport
    | Erase
    | NoteStale
)
