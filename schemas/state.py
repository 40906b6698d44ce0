"""The rows of the state tables that rules read and write: one value class per table.

Times are UTC. Money is integer minor units with its currency in lower case, as in Stripe. `account` is the connected
account, '' for the platform's own. Columns named `…version` contain a version (schemas/version.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import datetime
from functools import lru_cache
from hashlib import sha1
from typing import Any, ClassVar
from uuid import UUID

from schemas.fast_row import value
from schemas.statuses import OPEN_TIMERS, LinkKind, OrganizationStatus, PaymentStatus, SubscriptionStatus, TimerStatus
from schemas.version import UNSEEN, Version

Key = tuple[str, ...]

_NAMESPACE = UUID("6f6c7d5e-5b1f-4c55-9a5e-2f1c3f0b8a11").bytes


@lru_cache(maxsize=65_536)  # several events of one customer often follow each other, and all need the same few ids
def derived_id(prefix: str, *parts: str) -> str:
    """Returns an id derived from Stripe ids: the same ids always give the same id, so a replay finds the same row."""
    digest = bytearray(sha1(_NAMESPACE + "/".join(parts).encode(), usedforsecurity=False).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x50, digest[8] & 0x3F | 0x80  # a UUID of version 5, as `uuid5` makes it
    return f"{prefix}_{digest.hex()}"


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
    """When the personal data was erased. `is_erased` says whether it is stored again (behaviours.md B6)."""
    returned_at: datetime | None = None
    """When the latest subscription or purchase began after an erasure."""
    address: Mapping[str, Any] = field(default_factory=dict)
    """The billing address, as Stripe has it; {} if there is none."""
    profile_version: Version = UNSEEN
    """The version of e-mail and locale, and of the name in a `customer.*` event."""
    name_version: Version = UNSEEN
    """The version of the name, because an invoice may have an address and no name."""
    address_version: Version = UNSEEN
    user_version: Version = UNSEEN
    """The version of `user_id`: the newest event that links it."""
    linked_since: Version = UNSEEN
    """The oldest event that links this `user_id`."""
    default_version: Version = UNSEEN
    """The version of `default_payment_method`."""
    last_default: str | None = None
    """The latest default payment method, kept when it was removed without a replacement."""
    last_default_version: Version = UNSEEN
    newest: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By group of columns: what orders events of the second of its version (streams/rules/same_second.py)."""

    @property
    def key(self) -> Key:
        return (self.account, self.customer_id)

    @property
    def is_erased(self) -> bool:
        """Whether the customer was erased and has not returned since. Then no personal data is stored."""
        return self.erased_at is not None and (self.returned_at is None or self.returned_at <= self.erased_at)


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
    """`failed` while a failed invoice is owed, else `paid` if any invoice was paid, else None."""
    plan: str | None = None
    """The largest plan among the subscriptions that give access. None for a price that no plan names."""
    limits: Mapping[str, int] = field(default_factory=dict)
    has_access: bool = False
    access_reason: str = ""
    """Why there is access, or why not (streams/rules/customers/access.py)."""
    access_changes_at: datetime | None = None
    """When Stripe is going to change it next, as far as is known: a trial's end, a scheduled end, the grace time."""
    access_until: datetime | None = None
    """When the grace time of a failed payment ends. From then on, `access_after` applies."""
    access_after: Mapping[str, Any] = field(default_factory=dict)
    """Plan, limits, has_access, reason and changes_at from `access_until` on. If further grace times end later, `then`
    is a list of the same with `until` (ISO 8601)."""
    next_billing_at: datetime | None = None
    cancelled_at: datetime | None = None

    @property
    def key(self) -> Key:
        return (self.organization_id,)

    @property
    def access_steps(self) -> list[tuple[datetime, dict[str, Any]]]:
        """What applies from the end of each grace time on, in order."""
        if self.access_until is None:
            return []
        first = {name: value for name, value in self.access_after.items() if name != "then"}
        later = [dict(step) for step in self.access_after.get("then", ())]
        return [(self.access_until, first), *((datetime.fromisoformat(step.pop("until")), step) for step in later)]

    @staticmethod
    def id_of(account: str, customer_id: str) -> str:
        return derived_id("org", account, customer_id)


@value(frozen=True, slots=True, kw_only=True)
class User:
    """A user of the product. Several customers of an account may be linked to one user."""

    key_columns: ClassVar[Key] = ("account", "user_id")
    account: str
    user_id: str
    email: str | None = None
    """The address of the customer `address_of`: the first one that was linked and has an address."""
    address_of: str | None = None
    address_since: Version = UNSEEN
    """`linked_since` of that customer."""

    @property
    def key(self) -> Key:
        return (self.account, self.user_id)

    @staticmethod
    def id_of(account: str, customer_id: str) -> str:
        """Returns the placeholder id for a customer that no checkout has linked to a user of the product."""
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
    """The newest subscription object sets the columns up to `version`; streams/rules/subscription_row.py has the rest.

    Columns from `price_id` to `interval_count` are those of the item that decides the plan.
    """

    key_columns: ClassVar[Key] = ("account", "subscription_id")
    account: str
    subscription_id: str
    customer_id: str
    status: SubscriptionStatus = SubscriptionStatus.INCOMPLETE
    """Stripe's status, unless a newer event of the latest invoice has changed it."""
    stripe_status: SubscriptionStatus | None = None
    """The status in the newest subscription object; None before the first one."""
    price_id: str | None = None
    first_price_id: str | None = None
    """The first price. While the price is the same, the plan named at checkout applies."""
    checkout_plan: str | None = None
    """`metadata.planId` of the checkout. It may name a plan that the config does not have."""
    plan: str | None = None
    quantity: int | None = None
    unit_amount: int | None = None
    currency: str | None = None
    interval: str | None = None
    interval_count: int | None = None
    items: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """All items, as in schemas/stripe/subscription.py."""
    current_period_start: datetime | None = None
    current_period_end: datetime | None = None
    trial_end: datetime | None = None
    latest_invoice: str | None = None
    default_payment_method: str | None = None
    """The subscription's own card. None: the customer's default is charged."""
    pending_update: bool = False
    cancel_at: datetime | None = None
    cancel_at_period_end: bool = False
    canceled_at: datetime | None = None
    cancellation_reason: str | None = None
    ended_at: datetime | None = None
    pause_collection: str | None = None
    """How Stripe treats its invoices while the collection is paused; None if it is not paused."""
    resumes_at: datetime | None = None
    collection_method: str | None = None
    """`charge_automatically` or `send_invoice`. None: no event since revision 0037 has named it."""
    trial_end_behavior: str | None = None
    """What happens if the trial ends without a payment method: `create_invoice`, `pause` or `cancel`."""
    failed_invoice: str | None = None
    """The invoice to which `payment_failed_at` and `payment_attempts` belong."""
    payment_failed_at: datetime | None = None
    """The first failure of that invoice, while it is owed."""
    payment_attempts: int = 0
    invoices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The newest facts of its latest invoices, by id."""
    price_changes: Mapping[str, Any] = field(default_factory=dict)
    """The prices that it has had, in order (streams/rules/subscriptions/price_changes.py)."""
    newest: Mapping[str, Any] = field(default_factory=dict)
    """What orders events of the second of `version`, and its unpaid time (streams/rules/subscriptions)."""
    earlier: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """The events of the newest second before that of `version` (streams/rules/subscriptions/earlier_state.py)."""
    version: Version = UNSEEN
    first_version: Version = UNSEEN
    items_version: Version = UNSEEN
    status_version: Version = UNSEEN
    """The version of the event that set `status`."""
    billing_version: Version = UNSEEN
    """The version of the newest invoice event."""
    checkout_version: Version = UNSEEN

    @property
    def item_quantities(self) -> list[str]:
        """`price:quantity` of each item."""
        return sorted(f"{item['price']}:{item['quantity']}" for item in self.items)

    @property
    def price_of_unit(self) -> int | None:
        """Minor units for one unit and period. None for usage, for packages of units, and if it is not known."""
        item: Mapping[str, Any] = next((item for item in self.items if item["price"] == self.price_id), {})
        is_other = item.get("usage_type") == "metered" or item.get("divide_by") is not None
        return None if is_other or self.currency is None else self.unit_amount

    @property
    def key(self) -> Key:
        return (self.account, self.subscription_id)


@value(frozen=True, slots=True, kw_only=True)
class PaymentLink:
    """A Stripe object and the payment that it belongs to. The payment's row may come later than its links."""

    key_columns: ClassVar[Key] = ("account", "stripe_id")
    account: str
    stripe_id: str
    payment_id: str
    kind: LinkKind

    @property
    def key(self) -> Key:
        return (self.account, self.stripe_id)


@value(frozen=True, slots=True, kw_only=True)
class Payment:
    """One row per invoice, or per one-time checkout (then `invoice_id` is None and `checkout_session_id` is set).

    A payment with neither invoice nor checkout gets a row once it is refunded or disputed, under its intent or charge.
    `payment_intent_id` and `charge_id` are the first in alphabetical order; PaymentLink has all of them.
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
    amount_remaining: int | None = None
    """What an invoice still asks for, after partial payments and credit notes. None for a payment without invoice."""
    owed: Mapping[str, Any] = field(default_factory=dict)
    """The newest state of the unpaid invoice: `due`, `remaining`, `at` (epoch seconds), `version`."""
    credits: Mapping[str, Any] = field(default_factory=dict)
    """By credit note: `amount` credited before the payment, `created`, `voided` (epoch seconds), `version`."""
    failure_reason: str | None = None
    attempt_count: int = 0
    first_failed_at: datetime | None = None
    paid_at: datetime | None = None
    closed_at: datetime | None = None
    """When the invoice was voided, marked uncollectible or deleted, or the authorization canceled. An invoice that was
    marked uncollectible may still be paid."""
    dunning_steps: Mapping[str, str] = field(default_factory=dict)
    """Template of a dunning step → when the step was reached (ISO 8601), whether or not its mail was sent."""
    recovered_by: str | None = None
    """The last step before it was paid. The duration is `paid_at` minus `first_failed_at`."""
    lost_at: datetime | None = None
    """When the final step was reached or the invoice was closed; None once it is paid."""
    refunded_amount: int = 0
    on_hold: bool = False
    """Whether a dispute of it is open."""
    fulfilled_at: datetime | None = None
    refunds: Mapping[str, Any] = field(default_factory=dict)
    """By refund or charge id: the data for `refunded_amount` (schemas/payment_facts.py)."""
    disputes: Mapping[str, str] = field(default_factory=dict)
    """All disputes of the payment: id → status."""
    open_disputes: Mapping[str, str] = field(default_factory=dict)
    """Those of `disputes` that are open."""
    version: Version = UNSEEN
    failure_version: Version = UNSEEN
    """The version of `failure_reason`."""

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
    newest: Mapping[str, Any] = field(default_factory=dict)
    """What orders events of the second of `version` (streams/rules/same_second.py)."""
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
    newest: Mapping[str, Any] = field(default_factory=dict)
    """What orders events of the second of `version` (streams/rules/same_second.py)."""
    version: Version = UNSEEN

    @property
    def key(self) -> Key:
        return (self.account, self.dispute_id)


@value(frozen=True, slots=True, kw_only=True)
class Timer:
    """A timer. At `due_at` its rule runs and decides from the state at that time."""

    key_columns: ClassVar[Key] = ("timer_key",)
    timer_key: str
    account: str
    customer_id: str
    kind: str
    subject: str
    """The Stripe id that the timer is about, for example a subscription or an invoice."""
    due_at: datetime
    status: TimerStatus = TimerStatus.PENDING
    livemode: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    event_id: str = ""

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_TIMERS

    @property
    def key(self) -> Key:
        return (self.timer_key,)


Row = (
    Customer | Organization | User | Membership | Subscription | PaymentLink | Payment | PaymentMethod | Dispute | Timer
)
ROW_TYPES: tuple[type[Row], ...] = (
    Customer, Organization, User, Membership, Subscription, PaymentLink, Payment, PaymentMethod, Dispute, Timer,
)  # fmt: skip
"""In the order in which rows are locked and written, so that two workers can't deadlock."""
