"""What the customer's application learns of a change: the body of notifications and of the topic of changes (F3).

A message is thin: ids, statuses and amounts, no data on a person. `data` begins with what all types have:

    {"type": "access.changed", "timestamp": "2026-03-01T12:30:15Z",
     "data": {"account": "", "customer_id": "cus_…", "user_id": "42", "event_id": "evt_…", "livemode": true,
              "version": 1772368215000, "organization_id": "org_…", "has_access": true, …}}
"""

from __future__ import annotations

from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.feed_settings import NotificationType


class _Open(BaseModel):
    """Later versions add fields."""

    model_config = ConfigDict(extra="allow")


class ChangeOrigin(_Open):
    """What each change has."""

    account: str
    """The connected account; '' for one's own."""
    customer_id: str | None = None
    event_id: str
    """The event that caused the change."""
    livemode: bool
    version: int
    """Grows with each change of the customer. Ignore a change whose version is not above the newest one applied."""


class _OfUser(_Open):
    user_id: str | None = None
    """The user of the product, if a checkout has linked one."""


class AccessFacts(_OfUser):
    """What the customer may use from now on, as in the view billing.access."""

    organization_id: str
    has_access: bool
    plan: str | None = None
    """None for a price that no plan of the config names."""
    limits: dict[str, int] = Field(default_factory=dict)
    reason: str
    changes_at: AwareDatetime | None = None
    previous_user_id: str | None = None
    """The user who had this access, if it belongs to another one now."""


class SubscriptionFacts(_OfUser):
    """A subscription after the change. `status` is Stripe's."""

    subscription_id: str
    status: str
    plan: str | None = None
    price_id: str | None = None
    quantity: int | None = None
    current_period_end: AwareDatetime | None = None
    trial_end: AwareDatetime | None = None
    cancel_at: AwareDatetime | None = None
    cancel_at_period_end: bool = False
    pause_collection: str | None = None
    ended_at: AwareDatetime | None = None


class PaymentFacts(_OfUser):
    """A payment after the change. Amounts are in minor units of the currency."""

    payment_id: str
    status: str
    amount: int
    currency: str
    refunded_amount: int = 0
    attempt_count: int = 0
    invoice_id: str | None = None
    checkout_session_id: str | None = None
    subscription_id: str | None = None


class DunningFacts(_OfUser):
    """A step of the dunning sequence that an unpaid invoice has reached. `step` is its template in the config."""

    invoice_id: str
    step: str


class AccessData(ChangeOrigin, AccessFacts):
    pass


class SubscriptionData(ChangeOrigin, SubscriptionFacts):
    pass


class PaymentData(ChangeOrigin, PaymentFacts):
    pass


class DunningData(ChangeOrigin, DunningFacts):
    pass


class ChangeMessage(_Open):
    """The body of a notification, and the value of a record of the topic of changes."""

    type: NotificationType
    timestamp: AwareDatetime
    """When it happened. It is not in the order of the changes: `data.version` is."""
    data: AccessData | SubscriptionData | PaymentData | DunningData


Facts = AccessFacts | SubscriptionFacts | PaymentFacts | DunningFacts


def facts_json(facts: Facts) -> dict[str, Any]:
    """Returns the facts as JSON, with times in ISO 8601."""
    return facts.model_dump(mode="json")
