"""Reads the present rows of what mails are about, for the checks right before they leave (checks.py).

A check asks as if it were alone: `await present.customer()`. The questions of all mails of a claim are collected, and
each kind of question is one query for all of them. All reads of a claim are one transaction. Ids are Stripe's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from schemas.state import Customer, Dispute, Organization, Payment, PaymentMethod, Row, Subscription
from schemas.statuses import SubscriptionStatus
from sinks.email.charging import has_access_at
from sinks.outbox.truth import Answer
from sinks.postgres.loading import SHAPES
from sinks.postgres.statements import as_texts, texts
from sinks.postgres.tables import OPEN_TIMER_STATUSES

if TYPE_CHECKING:
    import asyncpg

    from sinks.outbox.truth import Connection

# ruff: noqa: S608 - built from constants and names of our own tables

T = TypeVar("T")
R = TypeVar("R", bound=Row)

ENDED = frozenset({SubscriptionStatus.CANCELED, SubscriptionStatus.INCOMPLETE_EXPIRED})
NOT_LIVING = ENDED | {SubscriptionStatus.INCOMPLETE}
"""Statuses of a subscription that has ended or has not begun."""


class Query(Generic[T]):
    """A kind of question. `select` names the parts of its key as `k.a`, `k.b` and `k.c`."""

    def __init__(self, select: str, read: Callable[[Sequence[asyncpg.Record]], T], *, parts: int = 2) -> None:
        """`read` makes the answer of the records that were selected for one key."""
        lists = ", ".join(map(texts, range(1, parts + 1)))
        names = ", ".join("abc"[:parts])
        self.read = read
        self.statement = (
            f"SELECT k.n, found.* FROM ROWS FROM ({lists}) WITH ORDINALITY AS k ({names}, n), LATERAL ({select}) found"
        )


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """A question that a check waits for. Two equal ones are asked once."""

    query: Query[T]
    key: tuple[str, ...]

    def __await__(self) -> Generator[Question[Any], T, T]:
        return (yield self)


@dataclass(frozen=True, slots=True)
class Addressee:
    """Whom a mail goes to."""

    email: str | None = None
    locale: str | None = None
    name: str | None = None
    organization: str | None = None
    """The name of the customer's organization."""
    has_unsubscribed: bool = False
    """From mails of this template."""
    is_erased: bool = False
    is_deleted: bool = False
    """At Stripe."""


Check = Coroutine[Question[Any], Any, Answer]


async def answers(checks: Sequence[Check], connection: Connection) -> Sequence[Answer | Exception]:
    """Run the checks, in one transaction, and return their answers. An exception of a check is its answer.

    Raises the exceptions of queries.
    """
    results: dict[int, Answer | Exception] = {}
    waiting = _continued({at: (check, None) for at, check in enumerate(checks)}, results)
    if waiting:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            while waiting:
                found = await _found({question for _, question in waiting.values()}, connection)
                waiting = _continued(
                    {at: (check, found[question]) for at, (check, question) in waiting.items()}, results
                )
    return [results[at] for at in range(len(checks))]


def _continued(
    checks: Mapping[int, tuple[Check, Any]], results: dict[int, Answer | Exception]
) -> dict[int, tuple[Check, Question[Any]]]:
    """Continue each check with the answer to its question, until its next question or its end, stored in `results`."""
    waiting: dict[int, tuple[Check, Question[Any]]] = {}
    for at, (check, value) in checks.items():
        try:
            waiting[at] = check, check.send(value)
        except StopIteration as end:
            results[at] = end.value
        except Exception as error:  # noqa: BLE001  # the loop logs it, and fails the mail
            results[at] = error
    return waiting


async def _found(questions: set[Question[Any]], connection: Connection) -> Mapping[Question[Any], Any]:
    """Return the answers to all questions, by one statement for each kind."""
    by_query: dict[Query[Any], list[Question[Any]]] = {}
    for question in questions:
        by_query.setdefault(question.query, []).append(question)
    found: dict[Question[Any], Any] = {}
    for query, asked in by_query.items():
        columns = zip(*(question.key for question in asked), strict=True)
        records: list[list[asyncpg.Record]] = [[] for _ in asked]
        for record in await connection.fetch(query.statement, *map(as_texts, columns)):
            records[record["n"] - 1].append(record)
        found.update(zip(asked, map(query.read, records), strict=True))
    return found


def _row_of(kind: type[R]) -> Callable[[Sequence[asyncpg.Record]], R | None]:
    return lambda records: _rows_of(kind)(records[:1])[0] if records else None


def _rows_of(kind: type[R]) -> Callable[[Sequence[asyncpg.Record]], list[R]]:
    return lambda records: [SHAPES[kind].row(tuple(record)[1:]) for record in records]


def _value(records: Sequence[asyncpg.Record]) -> Any:
    return records[0][1] if records else None


def _by_id(kind: type[R]) -> Query[R | None]:
    shape = SHAPES[kind]
    where = f"t.account = k.a AND t.{shape.key[1]} = k.b"
    return Query(f"SELECT {shape.selected} FROM {shape.table.fullname} AS t WHERE {where}", _row_of(kind))


# The ledger has these events whether or not a rule exists. They name no customer (index events_customer).
_AUTHORIZATION: Query[str | None] = Query(
    """
SELECT type FROM billing.events WHERE account = k.a AND customer_id IS NULL AND outcome <> 'dead'
    AND type IN ('account.application.deauthorized', 'account.application.authorized')
ORDER BY created DESC, type DESC LIMIT 1
""",
    _value,
    parts=1,
)

# The backfill of links may still be running, so a payment without a link is found by the id that its invoice gives it.
_PAYMENT = Query(
    f"SELECT {SHAPES[Payment].selected} FROM billing.payments AS t WHERE t.payment_id = coalesce("
    "(SELECT l.payment_id FROM billing.payment_links l WHERE l.account = k.a AND l.stripe_id = k.b), k.c)",
    _row_of(Payment),
    parts=3,
)
# The customer's other subscriptions, and those of other Stripe customers of the same user (behaviours.md B4).
_OF_PERSON = Query(
    f"""
SELECT {SHAPES[Subscription].selected} FROM billing.subscriptions AS t WHERE (t.account, t.customer_id) IN (
    SELECT k.a, k.b UNION
    SELECT other.account, other.customer_id FROM billing.customers own
    JOIN billing.customers other ON other.account = own.account AND other.user_id = own.user_id
    WHERE own.account = k.a AND own.customer_id = k.b)
""",
    _rows_of(Subscription),
)
_METHODS = Query(
    f"SELECT {SHAPES[PaymentMethod].selected} FROM billing.payment_methods AS t "
    "WHERE t.account = k.a AND t.customer_id = k.b",
    _rows_of(PaymentMethod),
)
_SUBSCRIPTIONS = Query(
    f"SELECT {SHAPES[Subscription].selected} FROM billing.subscriptions AS t "
    "WHERE t.account = k.a AND t.customer_id = k.b",
    _rows_of(Subscription),
)
_ORGANIZATION = Query(
    f"SELECT {SHAPES[Organization].selected} FROM billing.organizations AS t "
    "WHERE t.account = k.a AND t.customer_id = k.b",
    _row_of(Organization),
)
_ERASURE: Query[datetime | None] = Query(
    f"""
SELECT max(due_at) FROM billing.timers
WHERE account = k.a AND customer_id = k.b AND kind = 'erase' AND status IN {OPEN_TIMER_STATUSES}
""",
    _value,
)
# Stripe cancels the subscriptions of a customer who is deleted, and sends both events. With LIKE, Postgres might read
# all cancellations by the primary key, in place of the customer's mails.
_CANCELLATION: Query[bool] = Query(
    """
SELECT EXISTS (SELECT 1 FROM billing.emails WHERE account = k.a AND customer_id = k.b
    AND template = 'subscription-canceled' AND split_part(email_key, ':', 1) = 'canceled' AND status <> 'withheld'
    AND queued_at > now() - interval '1 day')
""",
    _value,
)
_EXPORT: Query[str | None] = Query("SELECT status FROM billing.exports WHERE export_key = k.a", _value, parts=1)
# The condition of is_erased is that of `Customer.is_erased`.
_ADDRESSEE: Query[Addressee] = Query(
    """
SELECT c.email, c.locale, c.name, o.name AS organization, EXISTS (
        SELECT FROM billing.unsubscribed u WHERE u.account = k.a AND u.customer_id = k.b AND u.template = k.c
    ) AS has_unsubscribed,
    coalesce(c.erased_at >= coalesce(c.returned_at, c.erased_at), false) AS is_erased,
    c.deleted_at IS NOT NULL AS is_deleted
FROM (VALUES (1)) AS one LEFT JOIN billing.customers c ON c.account = k.a AND c.customer_id = k.b
    LEFT JOIN billing.organizations o ON o.account = k.a AND o.customer_id = k.b
LIMIT 1
""",
    lambda records: Addressee(*tuple(records[0])[1:]),
    parts=3,
)
_CUSTOMER, _SUBSCRIPTION = _by_id(Customer), _by_id(Subscription)
_METHOD, _DISPUTE = _by_id(PaymentMethod), _by_id(Dispute)


async def _ask(query: Query[T], *key: str) -> T:
    answer: T = await Question(query, key)
    return answer


class Present:
    """The rows of one mail's customer and account, as they are now."""

    def __init__(self, account: str, customer_id: str | None) -> None:
        self.account = account
        self.customer_id = customer_id or ""
        self._addressee: Addressee | None = None

    async def addressee(self, template: str) -> Addressee:
        """Return the customer as the addressee of the mail, whose template it is. Asked once."""
        if self._addressee is None:
            self._addressee = await _ask(_ADDRESSEE, self.account, self.customer_id, template)
        return self._addressee

    async def customer(self) -> Customer | None:
        return await _ask(_CUSTOMER, self.account, self.customer_id)

    async def has_account_left(self) -> bool:
        """Whether the connected account has withdrawn its authorization, and has not given it again since."""
        if not self.account:
            return False
        return await _ask(_AUTHORIZATION, self.account) == "account.application.deauthorized"

    async def subscription(self, subscription_id: str | None) -> Subscription | None:
        return await _ask(_SUBSCRIPTION, self.account, subscription_id) if subscription_id else None

    async def payment_method(self, method_id: str) -> PaymentMethod | None:
        return await _ask(_METHOD, self.account, method_id)

    async def dispute(self, dispute_id: str) -> Dispute | None:
        return await _ask(_DISPUTE, self.account, dispute_id)

    async def payment(self, invoice_id: str) -> Payment | None:
        """Return the payment of an invoice."""
        return await _ask(_PAYMENT, self.account, invoice_id, Payment.id_of(self.account, invoice_id))

    async def subscriptions(self) -> list[Subscription]:
        """Return the customer's subscriptions, running or ended."""
        return await _ask(_SUBSCRIPTIONS, self.account, self.customer_id)

    async def has_access(self, now: datetime) -> bool:
        """Whether the customer has access at this time, as in the view `billing.access`."""
        row = await _ask(_ORGANIZATION, self.account, self.customer_id)
        return row is not None and has_access_at(row, now)

    async def has_living_subscription(self) -> bool:
        """Whether the customer, or another Stripe customer of the same user, has a subscription that runs."""
        rows = await _ask(_OF_PERSON, self.account, self.customer_id)
        return any(row.status not in NOT_LIVING for row in rows)

    async def payment_methods(self) -> list[PaymentMethod]:
        return await _ask(_METHODS, self.account, self.customer_id)

    async def erased_at(self) -> datetime | None:
        """Return when the customer's data is due for erasure; None if no erasure is planned."""
        return await _ask(_ERASURE, self.account, self.customer_id)

    async def has_mail_of_cancellation(self) -> bool:
        """Whether a mail about the end of one of the customer's subscriptions was queued within a day."""
        return await _ask(_CANCELLATION, self.account, self.customer_id)

    async def export_status(self, export_key: str) -> str | None:
        return await _ask(
            _EXPORT,
            export_key,
        )
