"""What the pipeline holds on customers: one frozen value per row of the state tables (design.md, contracts).

Every row knows its own key. Times are UTC; money is integer minor units with its currency in lower case, as Stripe has
it. `account` is the connected account, '' for one's own. Columns called `…_version` are schemas/version.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, ClassVar
from uuid import UUID, uuid5

from schemas.fast_row import value
from schemas.version import UNSEEN, Version

Key = tuple[str, ...]

_NAMESPACE = UUID("6f6c7d5e-5b1f-4c55-9a5e-2f1c3f0b8a11")


@lru_cache(maxsize=65_536)  # a customer's events come in runs, and each needs the same few ids
def derived_id(prefix: str, *parts: str) -> str:
    """An id of our own that the same Stripe ids always lead to, so that a replay names the same row."""
    return f"{prefix}_{uuid5(_NAMESPACE, '/'.join(parts)).hex}"


class SubscriptionStatus(StrEnum):
    """Stripe's eight. A ninth is an error (behaviours.md B3)."""

    INCOMPLETE = "incomplete"
    INCOMPLETE_EXPIRED = "incomplete_expired"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    CANCELED = "canceled"
    UNPAID = "unpaid"
    PAUSED = "paused"


class OrganizationStatus(StrEnum):
    """Derived from the customer's subscriptions, see streams/rules/customers/organization.py."""

    ACTIVE = "active"
    TRIALING = "trialing"
    PAYMENT_FAILED = "payment_failed"
    PAUSED = "paused"
    INCOMPLETE = "incomplete"
    CANCELLED = "cancelled"


class PaymentStatus(StrEnum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUNDED = "refunded"


class TimerStatus(StrEnum):
    PENDING = "pending"
    FIRED = "fired"
    """Appended to the log, not yet acted on."""
    DONE = "done"
    CANCELLED = "cancelled"


@value(frozen=True, slots=True, kw_only=True)
class Customer:
    key_columns: ClassVar[Key] = ("account", "customer_id")
    account: str
    customer_id: str
    email: str | None = None
    name: str | None = None
    user_id: str | None = None
    locale: str | None = None
    default_payment_method: str | None = None
    deleted_at: datetime | None = None
    erased_at: datetime | None = None
    """What events up to here say of the person is not to be kept again (behaviours.md B6)."""
    profile_version: Version = UNSEEN
    """Of e-mail, name and locale."""
    user_version: Version = UNSEEN
    """Of `user_id`: which checkout linked it."""
    default_version: Version = UNSEEN
    """Of `default_payment_method`."""
    last_default: str | None = None
    """The newest that was ever the default, also when it is gone and nothing has replaced it."""
    last_default_version: Version = UNSEEN

    @property
    def key(self) -> Key:
        return (self.account, self.customer_id)


@value(frozen=True, slots=True, kw_only=True)
class Organization:
    key_columns: ClassVar[Key] = ("organization_id",)
    organization_id: str
    account: str
    customer_id: str
    name: str
    billing_email: str | None = None
    status: OrganizationStatus = OrganizationStatus.INCOMPLETE
    billing_status: str | None = None
    """`paid` or `failed`, after the newest invoice event."""
    plan: str | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    next_billing_at: datetime | None = None
    cancelled_at: datetime | None = None

    @property
    def key(self) -> Key:
        return (self.organization_id,)

    @staticmethod
    def id_of(account: str, customer_id: str) -> str:
        return derived_id("org", account, customer_id)


@value(frozen=True, slots=True, kw_only=True)
class User:
    key_columns: ClassVar[Key] = ("user_id",)
    user_id: str
    email: str | None = None

    @property
    def key(self) -> Key:
        return (self.user_id,)

    @staticmethod
    def id_of(account: str, customer_id: str) -> str:
        """The stand-in for a customer whom no checkout has linked to a user of the product."""
        return derived_id("usr", account, customer_id)


@value(frozen=True, slots=True, kw_only=True)
class Membership:
    key_columns: ClassVar[Key] = ("organization_id", "user_id")
    organization_id: str
    user_id: str
    role: str = "ADMIN"

    @property
    def key(self) -> Key:
        return (self.organization_id, self.user_id)


@value(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Subscription events write under `version`, invoices under `billing_version`, both under `status_version`."""

    key_columns: ClassVar[Key] = ("account", "subscription_id")
    account: str
    subscription_id: str
    customer_id: str
    status: SubscriptionStatus = SubscriptionStatus.INCOMPLETE
    price_id: str | None = None
    first_price_id: str | None = None
    """The price it began with: while it stays, the plan named at checkout holds."""
    checkout_plan: str | None = None
    plan: str | None = None
    quantity: int | None = None
    unit_amount: int | None = None
    currency: str | None = None
    interval: str | None = None
    interval_count: int | None = None
    current_period_start: datetime | None = None
    current_period_end: datetime | None = None
    trial_end: datetime | None = None
    cancel_at_period_end: bool = False
    canceled_at: datetime | None = None
    ended_at: datetime | None = None
    payment_failed_at: datetime | None = None
    payment_attempts: int = 0
    version: Version = UNSEEN
    first_version: Version = UNSEEN
    status_version: Version = UNSEEN
    billing_version: Version = UNSEEN
    checkout_version: Version = UNSEEN

    @property
    def key(self) -> Key:
        return (self.account, self.subscription_id)


@value(frozen=True, slots=True, kw_only=True)
class Payment:
    """One per invoice, or one per one-time checkout (then `invoice_id` is None and `checkout_session_id` is set).

    Of a payment that is neither's there is a row once it is refunded or disputed, under its intent or charge.
    """

    key_columns: ClassVar[Key] = ("payment_id",)
    payment_id: str
    account: str
    invoice_id: str | None = None
    checkout_session_id: str | None = None
    customer_id: str | None = None
    subscription_id: str | None = None
    payment_intent_id: str | None = None
    charge_id: str | None = None
    amount: int = 0
    currency: str = ""
    status: PaymentStatus = PaymentStatus.PENDING
    failure_reason: str | None = None
    attempt_count: int = 0
    first_failed_at: datetime | None = None
    paid_at: datetime | None = None
    closed_at: datetime | None = None
    """Voided, marked uncollectible or deleted: it is not asked for any more, though it may still be paid."""
    dunning_steps: Mapping[str, str] = field(default_factory=dict)
    """Template of a dunning step → when the failures lead to it (ISO 8601), whether or not it was sent."""
    recovered_by: str | None = None
    """The last step before it was paid; how long it took is `paid_at` less `first_failed_at`."""
    lost_at: datetime | None = None
    """When the final step was reached or the invoice closed; None once it is paid."""
    refunded_amount: int = 0
    on_hold: bool = False
    """A dispute is open on it."""
    fulfilled_at: datetime | None = None
    refunds: Mapping[str, Any] = field(default_factory=dict)
    """What `refunded_amount` follows from, by refund or charge id (streams/rules/payments/refund_total.py)."""
    open_disputes: Mapping[str, str] = field(default_factory=dict)
    """Those that hold it, id → status."""
    version: Version = UNSEEN
    failure_version: Version = UNSEEN
    """Of `failure_reason`."""

    @property
    def key(self) -> Key:
        return (self.payment_id,)

    @staticmethod
    def id_of(account: str, stripe_id: str) -> str:
        return derived_id("pay", account, stripe_id)


@value(frozen=True, slots=True, kw_only=True)
class PaymentMethod:
    key_columns: ClassVar[Key] = ("account", "payment_method_id")
    account: str
    payment_method_id: str
    customer_id: str | None = None
    type: str | None = None
    brand: str | None = None
    last4: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None
    detached_at: datetime | None = None
    version: Version = UNSEEN

    @property
    def key(self) -> Key:
        return (self.account, self.payment_method_id)


@value(frozen=True, slots=True, kw_only=True)
class Dispute:
    key_columns: ClassVar[Key] = ("account", "dispute_id")
    account: str
    dispute_id: str
    charge_id: str | None = None
    payment_intent_id: str | None = None
    payment_id: str | None = None
    customer_id: str | None = None
    amount: int = 0
    currency: str = ""
    reason: str | None = None
    status: str = ""
    due_by: datetime | None = None
    closed_at: datetime | None = None
    funds_withdrawn_at: datetime | None = None
    funds_reinstated_at: datetime | None = None
    version: Version = UNSEEN

    @property
    def key(self) -> Key:
        return (self.account, self.dispute_id)


@value(frozen=True, slots=True, kw_only=True)
class Timer:
    """Something to look at again at `due_at`; its rule decides then, on the state of then."""

    key_columns: ClassVar[Key] = ("timer_key",)
    timer_key: str
    account: str
    customer_id: str
    kind: str
    subject: str
    """The Stripe id it is about: a subscription, an invoice."""
    due_at: datetime
    status: TimerStatus = TimerStatus.PENDING
    livemode: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    event_id: str = ""

    @property
    def key(self) -> Key:
        return (self.timer_key,)


Row = Customer | Organization | User | Membership | Subscription | Payment | PaymentMethod | Dispute | Timer
ROW_TYPES: tuple[type[Row], ...] = (
    Customer, Organization, User, Membership, Subscription, Payment, PaymentMethod, Dispute, Timer,
)  # fmt: skip
"""In the order they are locked and written, so that two workers never wait for each other."""
