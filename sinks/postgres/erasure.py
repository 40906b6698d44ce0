"""Erases a customer's personal data from every table, at the end of the batch and in its transaction (B6).

Ids, amounts, times and statuses stay, because bookkeeping needs them. Without the rest they identify a person only to
Stripe. The rule saves the rows of the customer and the organization before this module runs.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import orjson

from sinks.postgres import tables
from sinks.postgres.outboxes import ERASED, OUTBOXES
from sinks.postgres.personal_data import rows_of
from sinks.postgres.rows import ErasureRow

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

# Table → assignments for its rows, in the order of the statements. `events` must come after `payment_methods`, because
# the condition for payment methods reads the payloads of events.
_CLEARED = {
    # A user may have the address of another customer, also because the rule has given it one.
    "users": (
        "email = CASE WHEN t.address_of <> $2 THEN t.email END, "
        "address_of = CASE WHEN t.address_of <> $2 THEN t.address_of END, "
        "address_since = CASE WHEN t.address_of <> $2 THEN t.address_since ELSE '' END"
    ),
    "payment_methods": "type = NULL, brand = NULL, last4 = NULL, exp_month = NULL, exp_year = NULL",
    **{outbox.name: outbox.erased for outbox in OUTBOXES},
    "timers": (
        f"data = '{{}}', status = CASE WHEN t.status IN {tables.OPEN_TIMER_STATUSES} THEN 'cancelled' ELSE t.status END"
    ),
    "dead_letters": (
        f"message = '{ERASED}', closed_at = coalesce(t.closed_at, $4), closed_by = coalesce(t.closed_by, '{ERASED}'), "
        "status = CASE WHEN t.status = 'open' THEN 'discarded' ELSE t.status END"
    ),
    # A waiting event becomes `ignored`: it cannot be retried without its payload, and its timer is cancelled.
    "events": (
        "payload = NULL, changes = NULL, "
        f"reason = CASE WHEN t.outcome IN ('waiting', 'dead') THEN '{ERASED}' ELSE t.reason END, "
        "outcome = CASE WHEN t.outcome = 'waiting' THEN 'ignored' ELSE t.outcome END"
    ),
}
_ONLY_IF = {outbox.name: f" AND {outbox.erased_if}" for outbox in OUTBOXES}
_ERASE = {
    name: (
        f"UPDATE billing.{name} AS t SET {cleared} WHERE {rows_of(tables.metadata.tables[f'billing.{name}'])} "  # noqa: S608  # only constants
        f"AND $4::timestamptz IS NOT NULL{_ONLY_IF.get(name, '')}"
    )
    for name, cleared in _CLEARED.items()
}
_LAST_LETTER = f"SELECT max(t.last_failed_at) FROM billing.dead_letters t WHERE {rows_of(tables.dead_letters)}"  # noqa: S608  # only constants
_NOTE = """
INSERT INTO billing.erasures
    (event_id, account, customer_id, organization_id, asked_at, erased_at, counts, kafka_until, dead_letters_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""


async def erase(connection: Connection, row: ErasureRow) -> None:
    """Erases the customer's data and stores the number of rows per table. Raises the driver's errors."""
    last_letter: datetime | None = await connection.fetchval(
        _LAST_LETTER, row.account, row.customer_id, row.organization_id
    )
    counts: dict[str, int] = {}
    for name, statement in _ERASE.items():
        done = await connection.execute(statement, row.account, row.customer_id, row.organization_id, row.erased_at)
        counts[name] = int(done.rpartition(" ")[2])
    letters_until = None
    if last_letter is not None and row.dead_letters_kept is not None:
        letters_until = last_letter + row.dead_letters_kept
    await connection.execute(
        _NOTE,
        row.event_id,
        row.account,
        row.customer_id,
        row.organization_id,
        row.asked_at,
        row.erased_at,
        orjson.dumps(counts).decode(),
        row.kafka_until,
        letters_until,
    )
