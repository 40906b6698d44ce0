"""Queries for operators. Rows are plain dicts, the newest first unless a docstring says otherwise. Times are UTC."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, String, Table, and_, column, func, or_, select, union
from sqlalchemy import table as table_of
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.errors import BillingError
from schemas.ordering import object_of
from schemas.state import Organization
from sinks.postgres import tables
from sinks.postgres.lists.past import keyed
from sinks.postgres.outboxes import OUTBOXES

MOST = 20
"""Maximum number of rows of each kind in an overview."""

MOST_OF_A_STATE = 5_000
"""Maximum number of rows of each table of which a past state is made."""

_STATE = (
    *(tables.customers, tables.organizations, tables.subscriptions, tables.payments, tables.payment_methods),
    tables.timers,
)
"""The tables whose rows name their customer."""

Found = dict[str, Any]


class TooManyRows(BillingError):
    """A customer has more rows than are loaded at once."""


_ACCESS = table_of(
    "access", *map(column, ("account", "customer_id", "plan", "has_access", "reason", "changes_at")), schema="billing"
)
"""The view of what each customer may use now."""

_LEDGER_COLUMNS = [column for column in tables.events.c if column.name not in ("payload", "changes", "payload_key")]
_LEDGER_ROW = [column for column in tables.events.c if column.name != "payload_key"]


async def ledger_row(connection: AsyncConnection, event_id: str) -> Found | None:
    """Returns the event's ledger row with `payload` decoded, or None if the event has no verdict yet."""
    return await _one(connection, select(*_LEDGER_ROW).where(tables.events.c.event_id == event_id))


async def payload_key(connection: AsyncConnection, event_id: str) -> bytes | None:
    """Returns the key of the event's archived payload (sinks/payloads/), None if it has none."""
    c = tables.events.c
    found: bytes | None = await connection.scalar(select(c.payload_key).where(c.event_id == event_id))
    return found


async def event_overview(connection: AsyncConnection, event_id: str, events_topic: str) -> Found | None:
    """Returns everything on one event: `event` (its ledger row) and lists of what it wrote; None if it is not known.

    `event` is None while the event has no verdict; `on_the_log` is its position.
    """
    row = await ledger_row(connection, event_id)
    if row is not None and row["partition"] is not None:
        row["on_the_log"] = f"{events_topic}/{row['partition']}/{row['offset']}"
    found: Found = {
        "event": row,
        "wrote": await effects_of_event(connection, row) if row is not None else [],
        "timers": await rows_by_event(connection, tables.timers, event_id),
        **await outboxes_of_event(connection, event_id),
        "dead_letters": await dead_letters_of_event(connection, event_id),
    }
    if not any(found.values()):
        return None
    if row is not None and (about := await subject_of_timer(connection, row)) is not None:
        found["about"] = about
    return found


async def emails_of_event(connection: AsyncConnection, event_id: str) -> list[Found]:
    """Returns the e-mails that this event queued, without those that another event had already queued by their key."""
    return await rows_by_event(connection, tables.emails, event_id)


async def outboxes_of_event(connection: AsyncConnection, event_id: str) -> dict[str, list[Found]]:
    """Returns the rows that this event queued in each outbox, by table, without keys that another event had queued."""
    return {outbox.name: await rows_by_event(connection, outbox.table, event_id) for outbox in OUTBOXES}


async def rows_by_event(connection: AsyncConnection, table: Table, event_id: str) -> list[Found]:
    """Returns the rows of an outbox or of `timers` that this event ordered, sorted by key."""
    query = select(table).where(table.c.event_id == event_id).order_by(*table.primary_key)
    return await _all(connection, query.limit(MOST))


async def effects_of_event(connection: AsyncConnection, event: Found) -> list[Found]:
    """Returns rows of the customer's state that carry this event's version: `table`, `key`, `by` (the version columns).

    Rows that a later event has overwritten are not found.
    """
    found: list[Found] = []
    for stored in tables.STATE_TABLES.values():
        named = (column for column in stored.c if column.name == "version" or column.name.endswith("_version"))
        versions = [column for column in named if isinstance(column.type, String)]  # not counters
        if not versions or "customer_id" not in stored.c or event["customer_id"] is None:
            continue
        # A version ends with its event's id (schemas/version.py).
        written = or_(*(column.endswith(f":{event['event_id']}", autoescape=True) for column in versions))
        is_of_customer = and_(stored.c.account == event["account"], stored.c.customer_id == event["customer_id"])
        for row in await _all(connection, select(stored).where(is_of_customer, written).limit(MOST)):
            names = [column.name for column in versions if row[column.name].endswith(f":{event['event_id']}")]
            key = "/".join(str(row[column.name]) for column in stored.primary_key if row[column.name])
            found.append({"table": stored.name, "key": key, "by": ", ".join(names)})
    return found


async def dead_letters_of_event(connection: AsyncConnection, event_id: str) -> list[Found]:
    """Returns the event's dead letters, one per consumer group and position in the log, the latest failure first."""
    letters = tables.dead_letters
    query = select(letters).where(letters.c.event_id == event_id).order_by(letters.c.last_failed_at.desc())
    return await _all(connection, query)


async def customer_overview(
    connection: AsyncConnection, account: str, customer_id: str, *, limit: int = MOST
) -> Found | None:
    """Returns everything on one customer: `customer`, `organization`, `access`, `members`, and lists of the other rows.

    A list has at most `limit` rows; `totals` has the number of all rows of each list. Returns None if no table has the
    customer. `customer` is None while only its events or payments are known. `events` has also those that name only a
    payment or a card of theirs, as a dispute that was applied before its payment was known.
    """
    totals: dict[str, int] = {}

    def of_customer(table: Any) -> Any:
        return and_(table.c.account == account, table.c.customer_id == customer_id)

    async def newest(table: Any, by: str, columns: list[Any] | None = None) -> list[Found]:
        # Two queries, each in the order of an index: else all rows of the customer were read and sorted, or those
        # without a time, which an index has first, would push the others out.
        query = select(*(columns or [table])).where(of_customer(table))
        dated = query.where(table.c[by].is_not(None)).order_by(table.c[by].desc())
        rows = await _all(connection, dated.limit(limit))
        if table.c[by].nullable and len(rows) < limit:
            rows += await _all(connection, query.where(table.c[by].is_(None)).limit(limit - len(rows)))
        totals[str(table.name)] = len(rows)
        if len(rows) == limit:
            counted = select(func.count()).select_from(table).where(of_customer(table))
            totals[str(table.name)] = await connection.scalar(counted) or 0
        return rows

    members = tables.memberships
    organization_id = Organization.id_of(account, customer_id)
    found: Found = {
        "customer": await _one(connection, select(tables.customers).where(of_customer(tables.customers))),
        "organization": await _one(connection, select(tables.organizations).where(of_customer(tables.organizations))),
        "access": await _one(
            connection,
            select(_ACCESS.c.has_access, _ACCESS.c.plan, _ACCESS.c.reason, _ACCESS.c.changes_at).where(
                of_customer(_ACCESS)
            ),
        ),
        "members": await _all(
            connection,
            select(members.c.role, members.c.user_id, tables.users.c.email)
            .join(
                tables.users,
                (tables.users.c.account == account) & (tables.users.c.user_id == members.c.user_id),
                isouter=True,
            )
            .where(members.c.organization_id == organization_id)
            .order_by(members.c.user_id),
        ),
        "subscriptions": await newest(tables.subscriptions, "version"),
        "payments": await newest(tables.payments, "version"),
        "payment_methods": await newest(tables.payment_methods, "version"),
        "timers": await newest(tables.timers, "due_at"),
        **{outbox.name: await newest(outbox.table, outbox.since) for outbox in OUTBOXES},
        "dead_letters": await newest(tables.dead_letters, "last_failed_at"),
        "unsubscribed": await newest(tables.unsubscribed, "at"),
        "erasures": await newest(tables.erasures, "erased_at"),
        "events": await newest(tables.events, "created", _LEDGER_COLUMNS),
    }
    if not any(found.values()):
        return None
    found["disputes"] = await disputes_of_customer(connection, account, customer_id, limit=limit)
    more, count = await events_of_objects(connection, account, customer_id, limit=limit)
    found["events"] = sorted([*found["events"], *more], key=_newest_first)[:limit]
    totals["events"] += count
    return found | {"totals": totals}


async def customer_state(connection: AsyncConnection, account: str, customer_id: str) -> dict[str, dict[str, Found]]:
    """Returns all of a customer's rows by table and key, as the ledger names them (schemas/changes.py).

    Raises TooManyRows.
    """
    state: dict[str, dict[str, Found]] = {}
    for table in _STATE:
        of_customer = and_(table.c.account == account, table.c.customer_id == customer_id)
        rows = await _all(connection, select(table).where(of_customer).limit(MOST_OF_A_STATE + 1))
        if len(rows) > MOST_OF_A_STATE:
            raise TooManyRows(f"{customer_id} has over {MOST_OF_A_STATE:,} {table.name}: too many for a past state")
        state |= keyed(str(table.name), [column.name for column in table.primary_key], rows)
    return state


async def disputes_of_customer(
    connection: AsyncConnection, account: str, customer_id: str, *, limit: int = MOST
) -> list[Found]:
    """Returns the disputes of the customer's payments, the next deadline first. A dispute names only a charge."""
    links, payments, disputes = tables.payment_links, tables.payments, tables.disputes
    charges = (
        select(links.c.stripe_id)
        .join(payments, payments.c.payment_id == links.c.payment_id)
        .where(payments.c.account == account, payments.c.customer_id == customer_id)
    )
    query = select(disputes).where(disputes.c.account == account, disputes.c.charge_id.in_(charges))
    return await _all(connection, query.order_by(disputes.c.due_by.desc().nulls_last()).limit(limit))


async def events_of_objects(
    connection: AsyncConnection, account: str, customer_id: str, *, limit: int = MOST
) -> tuple[list[Found], int]:
    """Returns the events that name no customer, but a payment or a card of this one, and how many there are."""
    links, payments, objects = tables.payment_links, tables.payments, tables.event_objects
    cards, owners, events = tables.payment_methods, tables.object_owners, tables.events
    theirs = union(
        select(links.c.stripe_id)
        .join(payments, payments.c.payment_id == links.c.payment_id)
        .where(payments.c.account == account, payments.c.customer_id == customer_id),
        select(cards.c.payment_method_id).where(cards.c.account == account, cards.c.customer_id == customer_id),
        select(owners.c.stripe_id).where(owners.c.account == account, owners.c.customer_id == customer_id),
    )
    named = select(objects.c.event_id).where(objects.c.account == account, objects.c.stripe_id.in_(theirs))
    is_theirs = and_(events.c.event_id.in_(named), events.c.customer_id.is_(None))
    query = select(*_LEDGER_COLUMNS).where(is_theirs).order_by(events.c.created.desc().nulls_last())
    rows = await _all(connection, query.limit(limit))
    if len(rows) < limit:
        return rows, len(rows)
    return rows, await connection.scalar(select(func.count()).select_from(events).where(is_theirs)) or 0


def _newest_first(event: Found) -> tuple[bool, float]:
    created = event["created"]
    return created is None, -created.timestamp() if created is not None else 0.0


async def subject_of_timer(connection: AsyncConnection, event: Found) -> Found | None:
    """Returns what a timer's event is about: `id`, `paid_at`, `closed_at` and `ended_at`, of a payment or subscription.

    None for any other event, and if nothing with that id is stored.
    """
    subject = object_of(event.get("payload")).get("subject")
    if not isinstance(subject, str) or not event["type"].startswith("timer."):
        return None
    payments, subscriptions = tables.payments, tables.subscriptions
    by_invoice = select(payments.c.invoice_id.label("id"), payments.c.paid_at, payments.c.closed_at).where(
        payments.c.account == event["account"], payments.c.invoice_id == subject
    )
    by_id = select(subscriptions.c.subscription_id.label("id"), subscriptions.c.ended_at).where(
        subscriptions.c.account == event["account"], subscriptions.c.subscription_id == subject
    )
    return await _one(connection, by_invoice) or await _one(connection, by_id)


async def _one(connection: AsyncConnection, query: Select[Any]) -> Found | None:
    rows = await _all(connection, query.limit(1))
    return rows[0] if rows else None


async def _all(connection: AsyncConnection, query: Select[Any]) -> list[Found]:
    # SQLAlchemy's column names are a str subclass; orjson rejects it as a key.
    return [{str(name): value for name, value in row.items()} for row in (await connection.execute(query)).mappings()]
