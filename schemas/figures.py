"""The rows that analytics stores: one fact per event, and figures that are computed from the facts of one owner.

An owner is the customer, or a digest of the ordering key if there is no customer. Its events are one ordered sequence.
Money is integer minor units with its currency in lower case. Times and days are UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any, NamedTuple


class FactKind(StrEnum):
    """What an event reports. analytics/facts.py lists the keys of `Fact.data`."""

    SUBSCRIPTION = "subscription"
    """The state of a subscription. `subject` is its id."""
    INVOICE_PAID = "invoice_paid"
    INVOICE_FAILED = "invoice_failed"
    INVOICE_GIVEN_UP = "invoice_given_up"
    """Voided or marked uncollectible."""
    PURCHASE = "purchase"
    """A paid one-time checkout. `subject` is the session's id."""
    REFUND = "refund"
    """The sum of all refunds of a charge, or the state of one refund. `subject` is the id of the charge or refund."""
    DISCOUNT = "discount"
    """What a discount deducts, or which discounts a customer has. `subject` is its id or the customer's."""


class Owner(NamedTuple):
    """The key by which facts are grouped: the figures of one owner are computed together."""

    account: str
    livemode: bool
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What one event adds to the figures. `created` is Stripe's, in whole seconds; `rank` orders facts within one."""

    event_id: str
    account: str
    livemode: bool
    owner: str
    kind: FactKind
    subject: str
    created: datetime
    rank: int
    data: Mapping[str, Any]

    @property
    def of(self) -> Owner:
        return Owner(self.account, self.livemode, self.owner)


class MovementKind(StrEnum):
    NEW = "new"
    EXPANSION = "expansion"
    CONTRACTION = "contraction"
    CHURN = "churn"
    REACTIVATION = "reactivation"
    PAUSE = "pause"
    """Collection is paused, or the subscription is. It is no churn: the customer has not left yet."""
    RESUME = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """The change of an owner's MRR in one plan within one second. All rows of that second have the kind of their sum.

    The MRR at any time is the sum of `amount` up to that time, by plan, currency, customer or kind. `list_amount` is
    the change before discounts; None in rows of versions without discounts, where `amount` is that. `paused_lost` is
    the MRR, negative, of subscriptions that ended in this second while they were paused: the pause has taken it out of
    `amount` before. None in rows of versions without it.
    """

    account: str
    livemode: bool
    owner: str
    currency: str
    at: datetime
    plan: str
    kind: MovementKind
    amount: int
    list_amount: int | None
    paused_lost: int | None
    day: date


class RiskOutcome(StrEnum):
    OPEN = "open"
    RECOVERED = "recovered"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """A period in which a subscription was past due. `mrr` is its MRR at the end of the period (now, if open)."""

    account: str
    livemode: bool
    owner: str
    subscription_id: str
    began_at: datetime
    currency: str
    mrr: int
    outcome: RiskOutcome
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """The outcome of an invoice with a failed payment. `step` is the last dunning step that was reached."""

    account: str
    livemode: bool
    owner: str
    invoice_id: str
    subscription_id: str | None
    currency: str
    amount: int
    attempts: int
    """Failed attempts, as Stripe counts them."""
    first_failed_at: datetime
    step: str
    outcome: RiskOutcome
    ended_at: datetime | None
    seconds: int | None
    """Seconds from the first failure to the end."""


class PaymentKind(StrEnum):
    INVOICE = "invoice"
    PURCHASE = "purchase"
    FAILED = "failed"
    """An unpaid invoice. `at` is its latest failure, `amount` the amount due."""
    REFUND = "refund"
    """One increase of a charge's refunds. `amount` is positive; it is negative for a refund that failed afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFigure:
    """One payment, failure or refund. `subject` is the id of the invoice, checkout session or charge."""

    account: str
    livemode: bool
    owner: str
    subject: str
    at: datetime
    kind: PaymentKind
    currency: str
    amount: int
    day: date


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentTotal:
    """The sums of an owner's payment figures in one currency, so that a report reads one row for each customer."""

    account: str
    livemode: bool
    owner: str
    currency: str
    payments: int
    """Number of paid invoices and purchases; `amount` is their sum."""
    amount: int
    unpaid: int
    """Number of unpaid invoices; `unpaid_amount` is their sum."""
    unpaid_amount: int
    refunded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the newest paid invoice of a living subscription billed by usage and by tiers, which is no MRR."""

    account: str
    livemode: bool
    owner: str
    subscription_id: str
    currency: str
    amount: int
    invoice_id: str
    at: datetime


Figure = Movement | Risk | Recovery | PaymentFigure | PaymentTotal | Usage
FIGURE_TYPES: tuple[type[Figure], ...] = (Movement, Risk, Recovery, PaymentFigure, PaymentTotal, Usage)
"""In the order in which they are written."""

FIGURE_KEYS: Mapping[type[Figure], tuple[str, ...]] = {
    Movement: ("account", "livemode", "owner", "currency", "at", "plan"),
    Risk: ("account", "livemode", "owner", "subscription_id", "began_at"),
    Recovery: ("account", "livemode", "owner", "invoice_id"),
    PaymentFigure: ("account", "livemode", "owner", "subject", "at"),
    PaymentTotal: ("account", "livemode", "owner", "currency"),
    Usage: ("account", "livemode", "owner", "subscription_id"),
}
