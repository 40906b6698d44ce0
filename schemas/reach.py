"""Which rows the references of one event reach: the rows that the store loads for it, and no others.

It is the docstring of `References` as code. In a batch more rows are loaded, for other events; a rule that relied on
them would decide differently in another batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Protocol, TypeVar

from schemas.errors import NotReferred
from schemas.references import Ref, References
from schemas.state import (
    Customer,
    Dispute,
    Key,
    Membership,
    Organization,
    Payment,
    PaymentLink,
    PaymentMethod,
    Row,
    Subscription,
    Timer,
    User,
)

R = TypeVar("R", bound=Row)

PAYMENT_IDS = ("invoice_id", "checkout_session_id", "charge_id", "payment_intent_id")
"""The columns of a payment by which events refer to it."""
_FIRST_WORD = re.compile("[a-z0-9]*")
"""Of a timer's kind: the name of the plugin that it belongs to, if any (schemas/plugin_names.py)."""


class Rows(Protocol):
    """The rows that are known before the event."""

    def find(self, kind: type[R], key: Key) -> R | None: ...
    def find_payment(self, ref: Ref) -> Payment | None: ...
    def find_payment_by_column(self, ref: Ref) -> Payment | None: ...


class Reach:
    """Checks reads and writes of one event. Every method returns normally or raises NotReferred.

    A row that is reached through another row is looked up only if the references do not name it themselves.
    """

    __slots__ = ("_customers", "_linked_ids", "_payment_ids", "_references", "_rows")

    def __init__(self, references: References, rows: Rows) -> None:
        self._references = references
        self._rows = rows
        self._customers: set[Ref] | None = None
        self._linked_ids: set[str] | None = None
        self._payment_ids: set[str] | None = None

    def customer(self, ref: Ref, reading: str = "customer") -> None:
        if ref not in self._references.customers and ref not in self._brought():
            raise _missing("customers", ref, reading)

    def user(self, ref: Ref, reading: str = "user") -> None:
        if ref in self._references.users:
            return
        if not self._is_user_of(ref, self._references.customers) and not self._is_user_of(ref, self._brought()):
            raise _missing("users", ref, reading)

    def _is_user_of(self, user: Ref, customers: set[Ref]) -> bool:
        find, (account, user_id) = self._rows.find, user
        for ref in customers:
            if ref[0] != account:
                continue
            row = find(Customer, ref)
            if user_id == User.id_of(*ref) or (row is not None and row.user_id == user_id):
                return True
            if find(Membership, (Organization.id_of(*ref), user_id)) is not None:
                return True
        return False

    def organization(self, organization_id: str, reading: str = "organization") -> None:
        for ref in self._references.customers:
            if Organization.id_of(*ref) == organization_id:
                return
        if all(Organization.id_of(*ref) != organization_id for ref in self._brought()):
            raise _missing("customers", organization_id, reading)

    def subscription(self, ref: Ref) -> None:
        if ref not in self._references.subscriptions:
            self._through_customer(Subscription, ref, "subscriptions")

    def payment(self, ref: Ref) -> None:
        if ref in self._references.payments or self._is_linked(ref):
            return
        row = self._rows.find_payment(ref)
        if row is None or row.payment_id not in self._payments():
            raise _missing("payments", ref, "payment")

    def payment_link(self, ref: Ref) -> None:
        if ref not in self._references.payments and not self._is_linked(ref):
            raise _missing("payments", ref, "payment link")

    def _is_linked(self, ref: Ref) -> bool:
        """Whether the id is linked to the same payment as a named one. The payment may have no row yet."""
        link = self._rows.find(PaymentLink, ref)
        return link is not None and link.payment_id in self._linked()

    def payment_method(self, ref: Ref) -> None:
        if ref not in self._references.payment_methods:
            self._through_customer(PaymentMethod, ref, "payment_methods")

    def dispute(self, ref: Ref) -> None:
        if ref not in self._references.disputes and ref not in self._disputes():
            raise _missing("disputes", ref, "dispute")

    def timer(self, key: str) -> None:
        """A customer brings the open timers of `timers_of` along. A key that is not found could be of a closed one."""
        if key not in self._references.timers:
            row = self._rows.find(Timer, (key,))
            if row is None or not row.is_open or not row.customer_id:
                raise _missing("timers", key, "timer")
            if not self._names_timers(row.kind, row.subject) or not self._has((row.account, row.customer_id)):
                raise _missing("timers", key, "timer")

    def timers(self, customer: Ref, kind: str, subject: str) -> None:
        """Checks a look at all of a customer's open timers of this kind and subject."""
        self.customer(customer, "the timers of")
        if not self._names_timers(kind, subject):
            raise _missing("timers_of", (kind, subject), "the timers of")

    def started(self, key: str, customer: Ref, kind: str, subject: str) -> None:
        """Checks a timer that the event starts: an open one with this key must be loaded, so that it can be moved.

        One without a customer comes with no row. The store moves it all the same.
        """
        if key in self._references.timers or not customer[1]:
            return
        if not self._names_timers(kind, subject) or not self._has(customer):
            raise _missing("timers", key, "timer")

    def _names_timers(self, kind: str, subject: str) -> bool:
        named = self._references.timers_of
        if (kind, subject) in named or (kind, "") in named:
            return True
        return (f"{_FIRST_WORD.match(kind)[0]}*", "") in named  # type: ignore[index]  # it also matches ''

    def row(self, row: Row) -> None:
        """Checks a row that the event saves or removes: the store must know whether it is new."""
        _CHECKS[type(row)](self, row)

    def saved_payment(self, row: Payment) -> None:
        refs = payment_refs(row)
        if self._references.payments.isdisjoint(refs) and row.payment_id not in self._payments():
            raise _missing("payments", refs[0] if refs else row.key, "payment")

    def _has(self, ref: Ref) -> bool:
        return ref in self._references.customers or ref in self._brought()

    def _through_customer(self, kind: type[Any], ref: Ref, name: str) -> None:
        row = self._rows.find(kind, ref)
        if row is None or not row.customer_id or not self._has((row.account, row.customer_id)):
            raise _missing(name, ref, name.removesuffix("s").replace("_", " "))

    def _linked(self) -> set[str]:
        """The ids of the payments that the named ids are linked to. Their rows may not exist yet."""
        if self._linked_ids is None:
            links = [self._rows.find(PaymentLink, ref) for ref in self._references.payments]
            self._linked_ids = {link.payment_id for link in links if link is not None}
        return self._linked_ids

    def _payments(self) -> set[str]:
        """The ids of the payments that are loaded."""
        if self._payment_ids is None:
            rows = [self._rows.find_payment_by_column(ref) for ref in self._references.payments]
            self._payment_ids = self._linked() | {row.payment_id for row in rows if row is not None}
        return self._payment_ids

    def _disputes(self) -> set[Ref]:
        """The disputes of the loaded payments."""
        rows = (self._rows.find(Payment, (payment_id,)) for payment_id in self._payments())
        return {(row.account, id_) for row in rows if row is not None for id_ in {**row.open_disputes, **row.disputes}}

    def _brought(self) -> set[Ref]:
        """The customers of the named rows."""
        if self._customers is None:
            named, find = self._references, self._rows.find
            rows: Iterable[Any] = chain(
                (find(Subscription, ref) for ref in named.subscriptions),
                (find(Payment, (payment_id,)) for payment_id in (self._payments() if named.payments else ())),
                (find(PaymentMethod, ref) for ref in named.payment_methods),
                (find(Dispute, ref) for ref in named.disputes),
                (find(Timer, (key,)) for key in named.timers),
            )
            self._customers = {(row.account, row.customer_id) for row in rows if row is not None and row.customer_id}
        return self._customers


_CHECKS: dict[type[Any], Callable[[Reach, Any], None]] = {
    Customer: lambda reach, row: reach.customer(row.key),
    Organization: lambda reach, row: reach.organization(row.organization_id),
    User: lambda reach, row: reach.user((row.account, row.user_id)),
    Membership: lambda reach, row: reach.organization(row.organization_id, "membership"),
    Subscription: lambda reach, row: reach.subscription(row.key),
    PaymentLink: lambda reach, row: reach.payment_link(row.key),
    Payment: Reach.saved_payment,
    PaymentMethod: lambda reach, row: reach.payment_method(row.key),
    Dispute: lambda reach, row: reach.dispute(row.key),
    Timer: lambda reach, row: reach.timer(row.timer_key),
}


def payment_refs(row: Payment) -> list[Ref]:
    """Returns the references that lead to the payment."""
    return [(row.account, stripe_id) for name in PAYMENT_IDS if (stripe_id := getattr(row, name))]


def _missing(name: str, row: object, kind: str) -> NotReferred:
    return NotReferred(f"the rule uses {kind} {row!r}, which its `refer` does not name: add it to References.{name}")
