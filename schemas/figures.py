"""What analytics keeps: facts, one per event, and the rows of figures that follow from an owner's facts alone.

An owner is whoever's events are one sequence: the customer, or a digest of the ordering key where there is none.
Money is integer minor units with its currency in lower case; times and days are UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any, NamedTuple


class FactKind(StrEnum):
    """What an event told; the keys of `Fact.data` are in analytics/facts.py."""

    SUBSCRIPTION = "subscription"
    """How a subscription stands: `subject` is its id."""
    INVOICE_PAID = "invoice_paid"
    INVOICE_FAILED = "invoice_failed"
    INVOICE_GIVEN_UP = "invoice_given_up"
    """Voided or marked uncollectible."""
    PURCHASE = "purchase"
    """A one-time checkout that is paid: `subject` is the session's id."""
    REFUND = "refund"
    """What all refunds of a charge come to: `subject` is the charge's id."""


class Owner(NamedTuple):
    """Whose figures are one computation."""

    account: str
    livemode: bool
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What one event tells the figures. `created` is Stripe's second; `rank` orders facts within it."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """What one second changed of an owner's MRR in one plan. All rows of that second have the kind of their sum.

    So MRR at any time is the sum of `amount` up to it, by plan, currency, customer or kind.
    """

    account: str
    livemode: bool
    owner: str
    currency: str
    at: datetime
    plan: str
    kind: MovementKind
    amount: int
    day: date


class RiskOutcome(StrEnum):
    OPEN = "open"
    RECOVERED = "recovered"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """A time in which a subscription was past due. `mrr` is what it was worth at the end of it (now, if open)."""

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
    """What became of an invoice whose payment failed. `step` is the dunning step that was reached when it ended."""

    account: str
    livemode: bool
    owner: str
    invoice_id: str
    subscription_id: str | None
    currency: str
    amount: int
    attempts: int
    """Failed ones, as Stripe counts them."""
    first_failed_at: datetime
    step: str
    outcome: RiskOutcome
    ended_at: datetime | None
    seconds: int | None
    """From the first failure to the end."""


class PaymentKind(StrEnum):
    INVOICE = "invoice"
    PURCHASE = "purchase"
    FAILED = "failed"
    """An invoice that is not paid; `at` is its newest failure, `amount` what is due."""
    REFUND = "refund"
    """One step of a charge's refunds; `amount` is positive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFigure:
    """One movement of money. `subject` is the invoice, checkout session or charge."""

    account: str
    livemode: bool
    owner: str
    subject: str
    at: datetime
    kind: PaymentKind
    currency: str
    amount: int
    day: date


Figure = Movement | Risk | Recovery | PaymentFigure
FIGURE_TYPES: tuple[type[Figure], ...] = (Movement, Risk, Recovery, PaymentFigure)
"""In the order they are written."""

FIGURE_KEYS: Mapping[type[Figure], tuple[str, ...]] = {
    Movement: ("account", "livemode", "owner", "currency", "at", "plan"),
    Risk: ("account", "livemode", "owner", "subscription_id", "began_at"),
    Recovery: ("account", "livemode", "owner", "invoice_id"),
    PaymentFigure: ("account", "livemode", "owner", "subject", "at"),
}
