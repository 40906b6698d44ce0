"""Beside the flow: what operators ask of the tables. Rows come as plain dicts, times in UTC, newest first."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, Table, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.state import Organization
from sinks.postgres import tables

MOST = 20
"""Rows of each kind in an overview."""

Found = dict[str, Any]

_LEDGER_COLUMNS = [column for column in tables.events.c if column.name != "payload"]


async def ledger_row(connection: AsyncConnection, event_id: str) -> Found | None:
    """The event's ledger row, `payload` decoded; None if it never came to a verdict."""
    return await _one(connection, select(tables.events).where(tables.events.c.event_id == event_id))


async def emails_of_event(connection: AsyncConnection, event_id: str) -> list[Found]:
    """The e-mails that this event queued; none for those that another event had queued under their key."""
    return await rows_by_event(connection, tables.emails, event_id)


async def rows_by_event(connection: AsyncConnection, table: Table, event_id: str) -> list[Found]:
    """The rows of an outbox, of timers or exports that this event ordered, by key."""
    asked = select(table).where(table.c.event_id == event_id).order_by(*table.primary_key)
    return await _all(connection, asked.limit(MOST))


async def effects_of_event(connection: AsyncConnection, event: Found) -> list[Found]:
    """Rows of its customer's state that carry this event's version: `table`, `key`, `by` (which of its versions).

    A row that a later event has overwritten no longer tells.
    """
    found: list[Found] = []
    for table in tables.STATE_TABLES.values():
        versions = [column for column in table.c if column.name == "version" or column.name.endswith("_version")]
        if not versions or "customer_id" not in table.c or event["customer_id"] is None:
            continue
        # A version ends with its event's id (schemas/version.py).
        written = or_(*(column.endswith(f":{event['event_id']}", autoescape=True) for column in versions))
        ours = and_(table.c.account == event["account"], table.c.customer_id == event["customer_id"])
        for row in await _all(connection, select(table).where(ours, written).limit(MOST)):
            names = [column.name for column in versions if row[column.name].endswith(f":{event['event_id']}")]
            key = "/".join(str(row[column.name]) for column in table.primary_key if row[column.name])
            found.append({"table": table.name, "key": key, "by": ", ".join(names)})
    return found


async def dead_letters_of_event(connection: AsyncConnection, event_id: str) -> list[Found]:
    """Where and why it failed, once per consumer group and place in the log."""
    letters = tables.dead_letters
    asked = select(letters).where(letters.c.event_id == event_id).order_by(letters.c.last_failed_at.desc())
    return await _all(connection, asked)


async def customer_overview(connection: AsyncConnection, account: str, customer_id: str) -> Found | None:
    """Everything on one customer: `customer`, `organization`, `members`, and lists, the last MOST of what grows.

    None if no table has the customer; `customer` is None while only its events or payments are known.
    """

    def of_customer(table: Any) -> Any:
        return and_(table.c.account == account, table.c.customer_id == customer_id)

    async def newest(table: Any, by: str, columns: list[Any] | None = None) -> list[Found]:
        asked = select(*(columns or [table])).where(of_customer(table))
        return await _all(connection, asked.order_by(table.c[by].desc().nulls_last()).limit(MOST))

    members = tables.memberships
    organization_id = Organization.id_of(account, customer_id)
    found: Found = {
        "customer": await _one(connection, select(tables.customers).where(of_customer(tables.customers))),
        "organization": await _one(connection, select(tables.organizations).where(of_customer(tables.organizations))),
        "members": await _all(
            connection,
            select(members.c.role, members.c.user_id, tables.users.c.email)
            .join(tables.users, tables.users.c.user_id == members.c.user_id, isouter=True)
            .where(members.c.organization_id == organization_id)
            .order_by(members.c.user_id),
        ),
        "subscriptions": await newest(tables.subscriptions, "version"),
        "payments": await newest(tables.payments, "version"),
        "payment_methods": await newest(tables.payment_methods, "version"),
        "timers": await newest(tables.timers, "due_at"),
        "emails": await newest(tables.emails, "queued_at"),
        "events": await newest(tables.events, "created", _LEDGER_COLUMNS),
    }
    return found if any(found.values()) else None


async def _one(connection: AsyncConnection, asked: Select[Any]) -> Found | None:
    rows = await _all(connection, asked.limit(1))
    return rows[0] if rows else None


async def _all(connection: AsyncConnection, asked: Select[Any]) -> list[Found]:
    # SQLAlchemy's names are a kind of str that orjson takes for no key.
    return [{str(name): value for name, value in row.items()} for row in (await connection.execute(asked)).mappings()]
