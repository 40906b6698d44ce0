"""Erases personal data of a customer or a guest from every table (behaviours.md B6).

Ids, amounts, times and statuses stay, because bookkeeping needs them. Without the rest they identify a person only to
Stripe. A customer is erased by the worker, at the end of a batch and in its transaction; the rule saves the rows of the
customer, the organization and the users before that. A guest has no state, so a command erases them (recovery/privacy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import orjson
from sqlalchemy import Table

from sinks.postgres import audit_log, tables
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.outboxes import ERASED, OUTBOXES
from sinks.postgres.ownership import KEEP_OWNERS
from sinks.postgres.personal_data import OF_GUEST, rows_of
from sinks.postgres.rows import ErasureRow

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

ACTION = "customer.erase"
"""The action in the audit log."""

# Table → what is set by column, in the order of the statements. `events` must come after `payment_methods`, because
# the condition for payment methods reads the payloads of events.
_CLEARED: dict[str, Mapping[str, str]] = {
    # A user may have the address of another customer, also because the rule has given it one.
    "users": {
        "email": "CASE WHEN t.address_of <> $2 THEN t.email END",
        "address_of": "CASE WHEN t.address_of <> $2 THEN t.address_of END",
        "address_since": "CASE WHEN t.address_of <> $2 THEN t.address_since ELSE '' END",
    },
    "payment_methods": {
        **dict.fromkeys(("type", "brand", "last4", "exp_month", "exp_year"), "NULL"),
        "newest": "'{}'",
    },
    **{outbox.name: outbox.erased for outbox in OUTBOXES},
    "timers": {
        "data": "'{}'",
        "status": f"CASE WHEN t.status IN {tables.OPEN_TIMER_STATUSES} THEN 'cancelled' ELSE t.status END",
    },
    "dead_letters": {
        "message": f"'{ERASED}'",
        "top_frame": "''",  # part of a message may look like a frame
        "closed_at": "coalesce(t.closed_at, $4)",
        "closed_by": f"coalesce(t.closed_by, '{ERASED}')",
        "status": "CASE WHEN t.status = 'open' THEN 'discarded' ELSE t.status END",
    },
    # A waiting event becomes `ignored`: it cannot be retried without its payload, and its timer is cancelled.
    "events": {
        "payload": "NULL",
        "changes": "NULL",
        "payload_key": "NULL",
        "payload_place": "NULL",
        "reason": f"CASE WHEN t.outcome IN ('waiting', 'dead') THEN '{ERASED}' ELSE t.reason END",
        "outcome": "CASE WHEN t.outcome = 'waiting' THEN 'ignored' ELSE t.outcome END",
    },
}
_ONLY_IF = {outbox.name: f" AND {outbox.erased_if}" for outbox in OUTBOXES}

# The rows that the rule saves without personal data, before the statements above run.
_HELD_IN_STATE = {
    "customers": (
        "t.email IS NOT NULL OR t.name IS NOT NULL OR t.locale IS NOT NULL OR t.address <> '{}' "
        "OR t.newest - 'default_payment_method' - 'user_id' <> '{}'"
    ),
    "organizations": (
        "t.billing_email IS NOT NULL OR EXISTS (SELECT FROM billing.customers c "
        "WHERE c.account = t.account AND c.customer_id = t.customer_id AND c.name = t.name)"
    ),
    "users": "t.email IS NOT NULL AND (t.address_of <> $2) IS NOT TRUE",
}


def _changed(name: str, condition: str) -> str:
    """Returns the condition of the rows that an erasure changes: a second one changes none."""
    cleared = _CLEARED[name]
    before, after = ", ".join(f't."{column}"' for column in cleared), ", ".join(cleared.values())
    is_other = f"ROW({before}) IS DISTINCT FROM ROW({after})"
    return f"{condition} AND $4::timestamptz IS NOT NULL AND {is_other}{_ONLY_IF.get(name, '')}"


def _table(name: str) -> Table:
    return tables.metadata.tables[f"billing.{name}"]


def _statements(conditions: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the UPDATE of each table, and the SELECT of the number of rows that it changes."""
    updates, counts = {}, {}
    for name in _CLEARED:
        if name in conditions:
            where = _changed(name, conditions[name])
            assignments = ", ".join(f'"{column}" = {value}' for column, value in _CLEARED[name].items())
            updates[name] = f"UPDATE billing.{name} AS t SET {assignments} WHERE {where}"  # noqa: S608  # only constants
            counts[name] = f"SELECT count(*) FROM billing.{name} AS t WHERE {where}"  # noqa: S608  # only constants
    return updates, counts


_ERASE, _COUNT = _statements({name: rows_of(_table(name)) for name in _CLEARED})
_ERASE_GUEST, _COUNT_GUEST = _statements(OF_GUEST)
_COUNT_STATE = {
    name: f"SELECT count(*) FROM billing.{name} AS t WHERE {rows_of(_table(name))} AND ({held})"  # noqa: S608  # only constants
    for name, held in _HELD_IN_STATE.items()
}
_LAST_LETTER = f"SELECT max(t.last_failed_at) FROM billing.dead_letters t WHERE {rows_of(tables.dead_letters)}"  # noqa: S608  # only constants
_NOTE = """
INSERT INTO billing.erasures
    (event_id, account, customer_id, organization_id, asked_at, erased_at, counts, kafka_until, dead_letters_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""


async def count(
    connection: Connection, account: str, customer_id: str, organization_id: str, at: datetime
) -> dict[str, int]:
    """Returns how many rows of each table an erasure would change. Raises the driver's errors."""
    found = await count_state(connection, account, customer_id, organization_id)
    for name, statement in _COUNT.items():
        if name not in found:
            found[name] = await connection.fetchval(statement, account, customer_id, organization_id, at)
    return found


async def count_state(connection: Connection, account: str, customer_id: str, organization_id: str) -> dict[str, int]:
    """Returns how many rows of customer, organization and users hold personal data. Raises the driver's errors."""
    arguments = (account, customer_id, organization_id)
    return {name: await connection.fetchval(statement, *arguments) for name, statement in _COUNT_STATE.items()}


async def erase(connection: Connection, row: ErasureRow, state: Mapping[str, int]) -> None:
    """Erases the customer's data, and stores the number of rows per table. Raises the driver's errors.

    `state` is what `count_state` returned before the rule's rows were written.
    """
    arguments = (row.account, row.customer_id, row.organization_id)
    last_letter: datetime | None = await connection.fetchval(_LAST_LETTER, *arguments)
    await connection.execute(KEEP_OWNERS, row.account, row.customer_id)
    counts = await _run(connection, _ERASE, *arguments, row.erased_at) | dict(state)
    letters_until = None
    if last_letter is not None and row.dead_letters_kept is not None:
        letters_until = last_letter + row.dead_letters_kept
    await note(connection, row, counts, letters_until)


async def note(connection: Connection, row: ErasureRow, counts: Mapping[str, int], letters: datetime | None) -> None:
    """Stores that the erasure happened and, if an operator requested it, who and why. Raises the driver's errors."""
    await connection.execute(
        _NOTE,
        row.event_id,
        row.account,
        row.customer_id,
        row.organization_id,
        row.asked_at,
        row.erased_at,
        orjson.dumps(dict(counts)).decode(),
        row.kafka_until,
        letters,
    )
    if row.by is not None:
        entry = AuditEntry(
            who=row.by,
            action=ACTION,
            target=row.customer_id,
            filter={"account": row.account, "event": row.event_id},
            count=sum(counts.values()),
            reason=row.reason,
        )
        await audit_log.record(connection, entry)


async def clear_events(
    connection: Connection, account: str, event_ids: Sequence[str], stripe_ids: Sequence[str], at: datetime
) -> dict[str, int]:
    """Erases what these events and objects without a customer have stored. Returns the number of rows per table."""
    return await _run(connection, _ERASE_GUEST, list(event_ids), list(stripe_ids), account, at)


async def count_events(
    connection: Connection, account: str, event_ids: Sequence[str], stripe_ids: Sequence[str], at: datetime
) -> dict[str, int]:
    """Returns how many rows `clear_events` would change. Raises the driver's errors."""
    arguments = (list(event_ids), list(stripe_ids), account, at)
    return {name: await connection.fetchval(statement, *arguments) for name, statement in _COUNT_GUEST.items()}


async def _run(connection: Connection, statements: Mapping[str, str], *arguments: object) -> dict[str, int]:
    counts = {}
    for name, statement in statements.items():
        done = await connection.execute(statement, *arguments)
        counts[name] = int(done.rpartition(" ")[2])
    return counts
