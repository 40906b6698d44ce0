"""The rows that rules can read while a batch is decided, including the changes of earlier events in the batch.

Rules read it. `streams/process.py` fills it from the store and writes back the rows that `changed` returns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from schemas.reach import Reach
from schemas.references import Ref
from schemas.settings import Config
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
from schemas.statuses import LinkKind

R = TypeVar("R", bound=Row)

_OF_CUSTOMERS = (Subscription, PaymentMethod, Timer)
"""Row types that are also looked up by customer. A tuple, because isinstance would build `X | Y` again for each row."""


class Known:
    """An in-memory view of the state tables with secondary indexes. Do not use it for more than one batch.

    While a rule decides, every read raises NotReferred for a row that the rule's `refer` does not cover, found or not.
    """

    def __init__(self, config: Config, rows: Iterable[Row] = ()) -> None:
        self.config = config
        self._stored: dict[type[Any], dict[Key, Any]] = defaultdict(dict)
        self._now: dict[type[Any], dict[Key, Any]] = defaultdict(dict)
        self._by_customer: dict[tuple[type[Any], str, str], dict[Key, None]] = defaultdict(dict)
        self._payment_by: dict[tuple[str, str], Key] = {}
        self._links_of: dict[str, dict[Key, None]] = defaultdict(dict)
        self._reach: Reach | None = None
        self._linked_to: dict[tuple[str, str], dict[Key, None]] = defaultdict(dict)
        for row in rows:
            self._stored[type(row)][row.key] = row
            self._put(row)

    # -- for rules ----------------------------------------------------------------------------------------------

    def customer(self, account: str, customer_id: str) -> Customer | None:
        if self._reach is not None:
            self._reach.customer((account, customer_id))
        return self.find(Customer, (account, customer_id))

    def organization(self, account: str, customer_id: str) -> Organization | None:
        if self._reach is not None:
            self._reach.customer((account, customer_id), "the organization of")
        return self.find(Organization, (Organization.id_of(account, customer_id),))

    def user(self, account: str, user_id: str) -> User | None:
        if self._reach is not None:
            self._reach.user((account, user_id))
        return self.find(User, (account, user_id))

    def customers_of_user(self, account: str, user_id: str) -> list[Customer]:
        """Returns the customers that are linked to the user, ordered by id. Only those referred to are locked.

        At most `loading.MOST_LINKED` of them are loaded.
        """
        if self._reach is not None:
            self._reach.user((account, user_id), "the customers of user")
        found = (self.find(Customer, key) for key in self._linked_to.get((account, user_id), ()))
        return sorted((row for row in found if row is not None), key=lambda row: row.key)

    def subscriptions_of_user(self, account: str, user_id: str) -> list[Subscription]:
        """Returns the subscriptions of these customers, ordered by id, without those of deleted customers."""
        customers = [row for row in self.customers_of_user(account, user_id) if row.deleted_at is None]
        rows = (row for one in customers for row in self._of(Subscription, account, one.customer_id))
        return sorted(rows, key=lambda row: row.key)

    def membership(self, organization_id: str, user_id: str) -> Membership | None:
        if self._reach is not None:
            self._reach.organization(organization_id, "membership")
        return self.find(Membership, (organization_id, user_id))

    def subscription(self, account: str, subscription_id: str) -> Subscription | None:
        if self._reach is not None:
            self._reach.subscription((account, subscription_id))
        return self.find(Subscription, (account, subscription_id))

    def subscriptions_of(self, account: str, customer_id: str) -> list[Subscription]:
        """Returns all subscriptions of the customer, ordered by id."""
        if self._reach is not None:
            self._reach.customer((account, customer_id), "the subscriptions of")
        return sorted(self._of(Subscription, account, customer_id), key=lambda row: row.key)

    def payment(self, account: str, stripe_id: str) -> Payment | None:
        """Returns the payment with this invoice, checkout session, charge or payment intent."""
        if self._reach is not None:
            self._reach.payment((account, stripe_id))
        return self.find_payment((account, stripe_id))

    def payment_link(self, account: str, stripe_id: str) -> PaymentLink | None:
        if self._reach is not None:
            self._reach.payment_link((account, stripe_id))
        return self.find(PaymentLink, (account, stripe_id))

    def payment_ids(self, account: str, stripe_id: str) -> dict[str, LinkKind]:
        """Returns the ids that are linked to the same payment as this one, itself included, with their kinds."""
        link = self.payment_link(account, stripe_id)
        found = (self.find(PaymentLink, key) for key in self._links_of[link.payment_id]) if link is not None else ()
        return {row.stripe_id: row.kind for row in found if row is not None}

    def payment_method(self, account: str, payment_method_id: str) -> PaymentMethod | None:
        if self._reach is not None:
            self._reach.payment_method((account, payment_method_id))
        return self.find(PaymentMethod, (account, payment_method_id))

    def payment_methods_of(self, account: str, customer_id: str) -> list[PaymentMethod]:
        if self._reach is not None:
            self._reach.customer((account, customer_id), "the payment methods of")
        return sorted(self._of(PaymentMethod, account, customer_id), key=lambda row: row.key)

    def dispute(self, account: str, dispute_id: str) -> Dispute | None:
        if self._reach is not None:
            self._reach.dispute((account, dispute_id))
        return self.find(Dispute, (account, dispute_id))

    def timer(self, timer_key: str) -> Timer | None:
        if self._reach is not None:
            self._reach.timer(timer_key)
        return self.find(Timer, (timer_key,))

    def timers_of(self, account: str, customer_id: str, kind: str, subject: str = "") -> list[Timer]:
        """Returns the customer's open timers of this kind and subject, ordered by key.

        '' means any, but a rule has to name a kind. Closed timers are not loaded with a customer.
        """
        if self._reach is not None:
            self._reach.timers((account, customer_id), kind, subject)
        found = (
            row
            for row in self._of(Timer, account, customer_id)
            if row.is_open and kind in ("", row.kind) and subject in ("", row.subject)
        )
        return sorted(found, key=lambda row: row.key)

    # -- for streams/apply.py and streams/process.py -------------------------------------------------------------

    def limit_to(self, reach: Reach | None) -> None:
        """Limits the reads to these rows; None ends the limit."""
        self._reach = reach

    def find(self, kind: type[R], key: Key) -> R | None:
        """Returns a row without the check of `limit_to`."""
        row: R | None = self._now[kind].get(key)
        return row

    def find_payment(self, ref: Ref) -> Payment | None:
        link = self.find(PaymentLink, ref)
        linked = self.find(Payment, (link.payment_id,)) if link is not None else None
        return linked or self.find_payment_by_column(ref)

    def find_payment_by_column(self, ref: Ref) -> Payment | None:
        """Returns a payment that may have been stored before it had links: its own columns link it."""
        key = self._payment_by.get(ref)
        return self.find(Payment, key) if key else None

    def save(self, row: Row) -> None:
        self._put(row)

    def remove(self, row: Row) -> None:
        self._now[type(row)].pop(row.key, None)
        self._unindex(row)

    def changed(self, kind: type[R]) -> tuple[list[R], list[R], list[R]]:
        """Returns the (new, altered, removed) rows of one table compared with the loaded ones, each in key order."""
        stored, now = self._stored[kind], self._now[kind]
        new = [now[key] for key in sorted(now.keys() - stored.keys())]
        touched = [key for key, row in stored.items() if now.get(key, row) is not row]
        altered = [now[key] for key in sorted(touched) if now[key] != stored[key]]
        removed = [stored[key] for key in sorted(stored.keys() - now.keys())]
        return new, altered, removed

    def loaded(self, row: R) -> R | None:
        """Returns the row with the same key as it was loaded, or None if it is new."""
        found: R | None = self._stored[type(row)].get(row.key)
        return found

    def _of(self, kind: type[R], account: str, customer_id: str) -> Iterator[R]:
        for key in self._by_customer.get((kind, account, customer_id), ()):
            row = self.find(kind, key)
            if row is not None:
                yield row

    def _put(self, row: Row) -> None:
        kind, key = type(row), row.key
        rows = self._now[kind]
        previous = rows.get(key)
        if previous is not None:
            self._unindex(previous)
        rows[key] = row
        if isinstance(row, _OF_CUSTOMERS) and row.customer_id:
            self._by_customer[kind, row.account, row.customer_id][key] = None
        elif isinstance(row, Customer) and row.user_id is not None:
            self._linked_to[row.account, row.user_id][key] = None
        elif isinstance(row, PaymentLink):
            self._links_of[row.payment_id][key] = None
        elif isinstance(row, Payment):
            for named in _ids_in(row):
                self._payment_by[named] = key

    def _unindex(self, row: Row) -> None:
        if isinstance(row, _OF_CUSTOMERS) and row.customer_id:
            self._by_customer[type(row), row.account, row.customer_id].pop(row.key, None)
        elif isinstance(row, Customer) and row.user_id is not None:
            self._linked_to[row.account, row.user_id].pop(row.key, None)
        elif isinstance(row, PaymentLink):
            self._links_of[row.payment_id].pop(row.key, None)
        elif isinstance(row, Payment):
            for named in _ids_in(row):
                if self._payment_by.get(named) == row.key:
                    del self._payment_by[named]


def _ids_in(row: Payment) -> list[tuple[str, str]]:
    named = (row.invoice_id, row.checkout_session_id, row.payment_intent_id, row.charge_id)
    return [(row.account, stripe_id) for stripe_id in named if stripe_id]
