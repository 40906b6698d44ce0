"""Reads the present rows of what a mail is about, for the checks right before it leaves (checks.py).

All methods read through one connection, in the transaction of one check. Ids are Stripe's.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from schemas.state import Customer, Dispute, Payment, PaymentMethod, Row, Subscription
from schemas.statuses import SubscriptionStatus
from sinks.postgres.loading import SHAPES
from sinks.postgres.tables import OPEN_TIMER_STATUSES

if TYPE_CHECKING:
    from sinks.outbox.truth import Connection

R = TypeVar("R", bound=Row)

ENDED = frozenset({SubscriptionStatus.CANCELED, SubscriptionStatus.INCOMPLETE_EXPIRED})
NOT_LIVING = ENDED | {SubscriptionStatus.INCOMPLETE}
"""Statuses of a subscription that has ended or has not begun."""

# The ledger has these events whether or not a rule exists. They name no customer (index events_customer).
_AUTHORIZATION = """
SELECT type FROM billing.events WHERE account = $1 AND customer_id IS NULL AND outcome <> 'dead'
    AND type IN ('account.application.deauthorized', 'account.application.authorized')
ORDER BY created DESC, type DESC LIMIT 1
"""

# The backfill of links may still be running, so a payment without a link is found by the id that its invoice gives it.
_PAYMENT = (
    f"SELECT {SHAPES[Payment].selected} FROM billing.payments AS t WHERE t.payment_id = coalesce("  # noqa: S608  # names of our own tables
    "(SELECT l.payment_id FROM billing.payment_links l WHERE l.account = $1 AND l.stripe_id = $2), $3)"
)
# The customer's other subscriptions, and those of other Stripe customers of the same user (behaviours.md B4).
_OF_PERSON = f"""
SELECT {SHAPES[Subscription].selected} FROM billing.subscriptions AS t WHERE (t.account, t.customer_id) IN (
    SELECT $1, $2 UNION
    SELECT other.account, other.customer_id FROM billing.customers own
    JOIN billing.customers other ON other.account = own.account AND other.user_id = own.user_id
    WHERE own.account = $1 AND own.customer_id = $2)
"""  # noqa: S608  # names of our own tables
_ERASURE = f"""
SELECT max(due_at) FROM billing.timers
WHERE account = $1 AND customer_id = $2 AND kind = 'erase' AND status IN {OPEN_TIMER_STATUSES}
"""  # noqa: S608  # a constant


# Stripe cancels the subscriptions of a customer who is deleted, and sends both events.
_CANCELLATION = """
SELECT EXISTS (SELECT 1 FROM billing.emails WHERE account = $1 AND customer_id = $2
    AND template = 'subscription-canceled' AND email_key LIKE 'canceled:%' AND status <> 'withheld'
    AND queued_at > now() - interval '1 day')
"""


class Present:
    """The rows of one mail's customer and account, as they are now."""

    def __init__(self, connection: Connection, account: str, customer_id: str | None) -> None:
        self._connection = connection
        self.account = account
        self.customer_id = customer_id or ""

    async def customer(self) -> Customer | None:
        return await self._row(Customer, self.customer_id)

    async def has_account_left(self) -> bool:
        """Whether the connected account has withdrawn its authorization, and has not given it again since."""
        if not self.account:
            return False
        newest = await self._connection.fetchval(_AUTHORIZATION, self.account)
        return bool(newest == "account.application.deauthorized")

    async def subscription(self, subscription_id: str | None) -> Subscription | None:
        return await self._row(Subscription, subscription_id) if subscription_id else None

    async def payment_method(self, method_id: str) -> PaymentMethod | None:
        return await self._row(PaymentMethod, method_id)

    async def dispute(self, dispute_id: str) -> Dispute | None:
        return await self._row(Dispute, dispute_id)

    async def payment(self, invoice_id: str) -> Payment | None:
        """Return the payment of an invoice."""
        by_invoice = Payment.id_of(self.account, invoice_id)
        record = await self._connection.fetchrow(_PAYMENT, self.account, invoice_id, by_invoice)
        return SHAPES[Payment].row(record) if record is not None else None

    async def has_living_subscription(self) -> bool:
        """Whether the customer, or another Stripe customer of the same user, has a subscription that runs."""
        records = await self._connection.fetch(_OF_PERSON, self.account, self.customer_id)
        return any(SHAPES[Subscription].row(record).status not in NOT_LIVING for record in records)

    async def payment_methods(self) -> list[PaymentMethod]:
        shape = SHAPES[PaymentMethod]
        records = await self._connection.fetch(
            f"SELECT {shape.selected} FROM {shape.table.fullname} AS t WHERE t.account = $1 AND t.customer_id = $2",  # noqa: S608  # names of our own tables
            self.account,
            self.customer_id,
        )
        return [shape.row(record) for record in records]

    async def erased_at(self) -> datetime | None:
        """Return when the customer's data is due for erasure; None if no erasure is planned."""
        due: datetime | None = await self._connection.fetchval(_ERASURE, self.account, self.customer_id)
        return due

    async def has_mail_of_cancellation(self) -> bool:
        """Whether a mail about the end of one of the customer's subscriptions was queued within a day."""
        found: bool = await self._connection.fetchval(_CANCELLATION, self.account, self.customer_id)
        return found

    async def export_status(self, export_key: str) -> str | None:
        status: str | None = await self._connection.fetchval(
            "SELECT status FROM billing.exports WHERE export_key = $1", export_key
        )
        return status

    async def _row(self, kind: type[R], stripe_id: str) -> R | None:
        shape = SHAPES[kind]
        record = await self._connection.fetchrow(
            f"SELECT {shape.selected} FROM {shape.table.fullname} AS t WHERE t.account = $1 AND t.{shape.key[1]} = $2",  # noqa: S608  # as above
            self.account,
            stripe_id,
        )
        found: R | None = shape.row(record) if record is not None else None
        return found
