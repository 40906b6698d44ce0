"""Loads and locks the rows that a batch refers to, before the rules run.

A first query finds the customers of the references; then each table is read once, by index. Rows are locked in the
order of ROW_TYPES and, within a table, in key order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from schemas.ordering import GUEST
from schemas.reach import payment_refs
from schemas.references import Ref, References
from schemas.state import (
    ROW_TYPES,
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
from sinks.postgres.rows import Erased
from sinks.postgres.statements import RowShape, as_texts, texts
from sinks.postgres.tables import OPEN_TIMER_STATUSES, STATE_TABLES

R = TypeVar("R", bound=Row)

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

SHAPES: dict[type[Any], RowShape[Any]] = {
    kind: RowShape(STATE_TABLES[kind], kind, kind.key_columns)
    for kind in ROW_TYPES
}  # fmt: skip

_LOCK = " FOR UPDATE OF t"
_PAYMENT_REFS = ("invoice_id", "checkout_session_id", "charge_id", "payment_intent_id")


def _pairs_in(first: int) -> str:
    """Returns SQL for (account, id) pairs that are passed as two lists, in parameters `first` and `first + 1`."""
    return f"ROWS FROM ({texts(first)}, {texts(first + 1)})"


def _refs(first: int) -> str:
    return f"{_pairs_in(first)} AS r (account, id)"


def _customers_of(table: str, column: str, first: int) -> str:
    return (
        f"SELECT t.account, t.customer_id FROM {_refs(first)} "  # noqa: S608  # names of our own tables
        f"JOIN billing.{table} t ON t.account = r.account AND t.{column} = r.id WHERE t.customer_id IS NOT NULL"
    )


CUSTOMERS = " UNION ".join(
    [
        _customers_of("subscriptions", "subscription_id", 1),
        *(_customers_of("payments", column, 3) for column in _PAYMENT_REFS),
        f"SELECT t.account, t.customer_id FROM {_refs(3)} "  # noqa: S608  # as above
        "JOIN billing.payment_links l ON l.account = r.account AND l.stripe_id = r.id "
        "JOIN billing.payments t ON t.payment_id = l.payment_id WHERE t.customer_id IS NOT NULL",
        _customers_of("payment_methods", "payment_method_id", 5),
        _customers_of("disputes", "dispute_id", 7),
        # Timers without a customer have the id '': do not load all other rows that have no customer either.
        f"SELECT t.account, t.customer_id FROM {texts(9)} AS r (key) "  # noqa: S608  # as above
        "JOIN billing.timers t ON t.timer_key = r.key WHERE t.customer_id <> ''",
    ]
)


def _select(kind: type[Row], keys: str, *, is_locked: bool = True) -> str:
    """Returns a SELECT of the table's rows with these keys. `keys` is SQL that yields the key columns in order."""
    shape = SHAPES[kind]
    columns = ", ".join(shape.key)
    same = " AND ".join(f"t.{name} = k.{name}" for name in shape.key)
    return (
        f"SELECT {shape.selected} FROM {keys} AS k ({columns}) JOIN {shape.table.fullname} AS t ON {same} "  # noqa: S608  # as above
        f"ORDER BY {', '.join(f't.{name}' for name in shape.key)}{_LOCK if is_locked else ''}"
    )


def _of_customers_or_named(kind: type[Row]) -> str:
    """Returns a SELECT of the rows of the customers in $1 and $2, and of the rows with the ids in $3 and $4."""
    table, id_column = SHAPES[kind].table.fullname, SHAPES[kind].key[1]
    return _select(
        kind,
        f"(SELECT o.account, o.{id_column} FROM {_refs(1)} "  # noqa: S608  # as above
        f"JOIN {table} o ON o.account = r.account AND o.customer_id = r.id "
        f"UNION SELECT r.account, r.id FROM {_refs(3)})",
    )


LOCK_TIMERS = (
    f"SELECT {SHAPES[Timer].selected} FROM {texts(1)} AS k (timer_key) JOIN billing.timers AS t USING (timer_key) "  # noqa: S608  # as above
    "ORDER BY t.timer_key FOR UPDATE OF t"
)
"""Locks timers by key, in key order, and returns them as they are now."""

_PAIRS = _pairs_in(1)
# Rows that are older than their links are found by their own columns.
_PAYMENT_KEYS = " UNION ".join(
    f"SELECT p.payment_id FROM {_refs(2)} JOIN billing.payments p ON p.account = r.account AND p.{column} = r.id"  # noqa: S608  # as above
    for column in _PAYMENT_REFS
)

QUERIES: dict[type[Any], str] = {
    Customer: _select(Customer, _PAIRS),
    Organization: _select(Organization, texts(1)),
    User: _select(
        User,
        f"(SELECT r.account, r.id FROM {_refs(1)} UNION SELECT r.account, m.user_id FROM {_refs(3)} "  # noqa: S608  # as above
        "JOIN billing.memberships m ON m.organization_id = r.id)",
    ),
    Membership: _select(
        Membership,
        f"(SELECT m.organization_id, m.user_id FROM {texts(1)} AS o (id) "  # noqa: S608  # as above
        "JOIN billing.memberships m ON m.organization_id = o.id)",
    ),
    Subscription: _of_customers_or_named(Subscription),
    PaymentLink: _select(
        PaymentLink,
        f"(SELECT r.account, r.id FROM {_refs(1)} UNION SELECT o.account, o.stripe_id FROM {_refs(1)} "  # noqa: S608  # as above
        "JOIN billing.payment_links l ON l.account = r.account AND l.stripe_id = r.id "
        "JOIN billing.payment_links o ON o.payment_id = l.payment_id)",
    ),
    Payment: _select(Payment, f"({_PAYMENT_KEYS} UNION SELECT {texts(1)})"),
    PaymentMethod: _of_customers_or_named(PaymentMethod),
    Dispute: _select(Dispute, _PAIRS),
    Timer: _select(
        Timer,
        f"(SELECT o.timer_key FROM {_refs(1)} "  # noqa: S608  # as above
        f"JOIN billing.timers o ON o.account = r.account AND o.customer_id = r.id "
        f"AND o.status IN {OPEN_TIMER_STATUSES} AND (o.kind = ANY(ARRAY(SELECT {texts(3)})) "
        f"OR substring(o.kind FROM '^[a-z0-9]*') || '*' = ANY(ARRAY(SELECT {texts(3)})) "
        f"OR (o.kind, o.subject) IN (SELECT * FROM {_pairs_in(4)})) UNION SELECT {texts(6)})",
        # A customer may have hundreds of open timers, and an event changes few. The store locks those it writes.
        is_locked=False,
    ),
}

WITHOUT_LOCKS: dict[type[Any], str] = {kind: query.removesuffix(_LOCK) for kind, query in QUERIES.items()}
"""For a read-only transaction, which must neither wait for a worker nor make it wait."""


MOST_LINKED = 50
"""The most customers of one user that are loaded because of that user."""

# Not locked: an event of one customer changes no other customer.
LINKED = (
    f"SELECT {SHAPES[Customer].selected} FROM {_refs(1)} CROSS JOIN LATERAL (SELECT c.* FROM billing.customers c "  # noqa: S608  # as above
    f"WHERE c.account = r.account AND c.user_id = r.id ORDER BY c.customer_id LIMIT {MOST_LINKED}) AS t"
)
SUBSCRIPTIONS_OF_LINKED = (
    f"SELECT {SHAPES[Subscription].selected} FROM {_refs(1)} "  # noqa: S608  # as above
    "JOIN billing.subscriptions t ON t.account = r.account AND t.customer_id = r.id"
)


async def load(connection: Connection, refs: References, *, queries: Mapping[type[Any], str] = QUERIES) -> list[Row]:
    """Loads and locks the rows that these references reach (see References), in at most thirteen round trips.

    Timers are not locked: LOCK_TIMERS locks those that are written. Other customers of a user are not locked either.
    Tables that no reference can reach are not queried.
    """
    customers = refs.customers | await _customers(connection, refs)
    organizations = sorted({Organization.id_of(*ref) for ref in customers})
    stored: list[Any] = []
    if customers:
        stored = await _rows(connection, queries[Customer], Customer, *_pairs(customers))
    named = refs.users | {(row.account, row.user_id) for row in stored if row.user_id}
    users = named | {(account, User.id_of(account, id_)) for account, id_ in customers}
    members = [account for account, _ in sorted(customers, key=lambda ref: Organization.id_of(*ref))]

    plan: list[tuple[type[Row], bool, list[Iterable[str]]]] = [
        (Organization, bool(customers), [organizations]),
        (User, bool(users), [*_pairs(users), members, organizations]),
        (Membership, bool(customers), [organizations]),
        (Subscription, bool(customers or refs.subscriptions), [*_pairs(customers), *_pairs(refs.subscriptions)]),
    ]
    for kind, is_reached, arguments in plan:
        if is_reached:
            stored += await _rows(connection, queries[kind], kind, *arguments)
    # After the locks of their users: so the addresses of these customers are those of the transactions before.
    linked = await _linked(connection, named, besides=customers) if named else []
    stored += linked
    stored += await _subscriptions_of(connection, linked, besides={row.key for row in stored})
    links, payments = await load_payments(connection, refs.payments, queries=queries)
    stored += [*links, *payments]
    disputes = refs.disputes | {(row.account, id_) for row in payments for id_ in {**row.open_disputes, **row.disputes}}
    plan = [
        (PaymentMethod, bool(customers or refs.payment_methods), [*_pairs(customers), *_pairs(refs.payment_methods)]),
        (Dispute, bool(disputes), [*_pairs(disputes)]),
        (Timer, bool(refs.timers or (customers and refs.timers_of)), _timers(customers, refs)),
    ]
    for kind, is_reached, arguments in plan:
        if is_reached:
            stored += await _rows(connection, queries[kind], kind, *arguments)
    return stored


def _timers(customers: Iterable[Ref], refs: References) -> list[Iterable[str]]:
    """Returns the arguments of the query of timers: customers, kinds, pairs of kind and subject, keys."""
    kinds = sorted({kind for kind, subject in refs.timers_of if not subject})
    named = {(kind, subject) for kind, subject in refs.timers_of if subject}
    return [*_pairs(customers), kinds, *_pairs(named), sorted(refs.timers)]


async def _linked(connection: Connection, users: Iterable[Ref], *, besides: set[Ref]) -> list[Customer]:
    """Returns the customers of these users, without those in `besides`."""
    found = await connection.fetch(LINKED, *map(as_texts, _pairs(users)))
    rows = map(SHAPES[Customer].row, found)
    return [row for row in rows if row.key not in besides]


async def _subscriptions_of(
    connection: Connection, customers: Iterable[Customer], *, besides: set[Key]
) -> list[Subscription]:
    """Returns the subscriptions of these customers, without those in `besides`."""
    pairs = _pairs({(row.account, row.customer_id) for row in customers})
    if not pairs[0]:
        return []
    rows = map(SHAPES[Subscription].row, await connection.fetch(SUBSCRIPTIONS_OF_LINKED, *map(as_texts, pairs)))
    return [row for row in rows if row.key not in besides]


# The owners of payments and cards by the ids of their Stripe objects.
OWNERS = " UNION ".join(
    [
        f"SELECT r.account, r.id, t.customer_id FROM {_refs(1)} "  # noqa: S608  # as above
        "JOIN billing.payment_links l ON l.account = r.account AND l.stripe_id = r.id "
        "JOIN billing.payments t ON t.payment_id = l.payment_id WHERE t.customer_id IS NOT NULL",
        f"SELECT r.account, r.id, t.customer_id FROM {_refs(1)} "  # noqa: S608  # as above
        "JOIN billing.payment_methods t ON t.account = r.account AND t.payment_method_id = r.id "
        "WHERE t.customer_id IS NOT NULL",
        f"SELECT r.account, r.id, t.customer_id FROM {_refs(1)} "  # noqa: S608  # as above
        "JOIN billing.object_owners t ON t.account = r.account AND t.stripe_id = r.id",
    ]
)
ERASED_CUSTOMERS = (
    f"SELECT t.account, t.customer_id, t.erased_at, t.returned_at FROM {_refs(1)} "  # noqa: S608  # as above
    "CROSS JOIN LATERAL (SELECT c.* FROM billing.customers c WHERE c.account = r.account AND c.customer_id = r.id "
    "OFFSET 0) AS t WHERE t.erased_at IS NOT NULL "
    # An erased guest has no row of a customer.
    f"UNION ALL SELECT r.account, r.id, t.erased_at, NULL::timestamptz FROM {_refs(1)} "
    "CROSS JOIN LATERAL (SELECT max(e.erased_at) AS erased_at FROM billing.erasures e "
    "WHERE e.account = r.account AND e.customer_id = r.id) AS t "
    f"WHERE r.id LIKE '{GUEST}%' AND t.erased_at IS NOT NULL"
)


async def load_erased(connection: Connection, customers: Iterable[Ref], named: Iterable[Ref]) -> Erased:
    """Finds the owners of the objects in `named`, and who of them and of `customers` was erased. Locks nothing."""
    owners: dict[Ref, str] = {}
    if (pairs := _pairs(named))[0]:
        found = await connection.fetch(OWNERS, *map(as_texts, pairs))
        owners = {(account, id_): customer_id for account, id_, customer_id in found}
    asked = {*customers, *((account, customer_id) for (account, _), customer_id in owners.items())}
    if not asked:
        return Erased(owners, {})
    records = await connection.fetch(ERASED_CUSTOMERS, *map(as_texts, _pairs(asked)))
    erased = (Customer(**dict(record)) for record in records)
    return Erased(owners, {(row.account, row.customer_id): row for row in erased})


async def load_payments(
    connection: Connection, refs: Iterable[Ref], *, queries: Mapping[type[Any], str] = QUERIES
) -> tuple[list[PaymentLink], list[Payment]]:
    """Loads and locks the payments of these Stripe ids, and all their links."""
    pairs = _pairs(refs)
    if not pairs[0]:
        return [], []
    # The links are locked before their payments: another worker may have joined two payments just now.
    links, payments = await _linked_payments(connection, pairs, queries)
    if _lack_links(links, payments):  # it did so while this one waited for its locks: the second look sees them joined
        links, payments = await _linked_payments(connection, pairs, queries)
    return links, payments


async def _linked_payments(
    connection: Connection, pairs: tuple[list[str], list[str]], queries: Mapping[type[Any], str]
) -> tuple[list[PaymentLink], list[Payment]]:
    links = await _rows(connection, queries[PaymentLink], PaymentLink, *pairs)
    linked = sorted({link.payment_id for link in links})
    return links, await _rows(connection, queries[Payment], Payment, linked, *pairs)


def _lack_links(links: Iterable[PaymentLink], payments: Iterable[Payment]) -> bool:
    """Whether a linked payment names an id whose link is not among these."""
    found = {link.key for link in links}
    linked = {link.payment_id for link in links}
    return any(not found.issuperset(payment_refs(row)) for row in payments if row.payment_id in linked)


async def load_disputes(connection: Connection, refs: Iterable[Ref]) -> list[Dispute]:
    """Loads and locks these disputes."""
    pairs = _pairs(refs)
    return await _rows(connection, QUERIES[Dispute], Dispute, *pairs) if pairs[0] else []


async def _customers(connection: Connection, refs: References) -> set[Ref]:
    """Returns the customers that own the referenced subscriptions, payments, payment methods, disputes and timers."""
    named = (refs.subscriptions, refs.payments, refs.payment_methods, refs.disputes)
    if not any(named) and not refs.timers:
        return set()
    lists = [*(list_ for refs_ in named for list_ in _pairs(refs_)), sorted(refs.timers)]
    return {(account, id_) for account, id_ in await connection.fetch(CUSTOMERS, *map(as_texts, lists))}


async def _rows(connection: Connection, query: str, kind: type[R], *lists: Iterable[str]) -> list[R]:
    shape: RowShape[R] = SHAPES[kind]
    return [shape.row(record) for record in await connection.fetch(query, *map(as_texts, lists))]


def _pairs(refs: Iterable[Ref]) -> tuple[list[str], list[str]]:
    ordered = sorted(refs)
    return [account for account, _ in ordered], [id_ for _, id_ in ordered]
