"""Where a batch ends, if it erased someone: the personal data in every table, in the batch's own transaction (B6).

Ids, amounts, times and statuses stay: bookkeeping needs them, and without the rest they name nobody outside of Stripe.
The customer's and the organization's own rows are saved by the rule before this runs.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import orjson

from sinks.postgres import tables
from sinks.postgres.personal_data import rows_of
from sinks.postgres.rows import ErasureRow

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

NOTE = "erased"
"""Stands where a reason or an error stood."""

# Table → what is set in its rows. In the order of the statements; payment methods ask the events' payloads for theirs.
_CLEARED = {
    # Someone who belongs to another organization too is known by its address from now on.
    "users": (
        "email = (SELECT min(o.billing_email) FROM billing.memberships m JOIN billing.organizations o "
        "ON o.organization_id = m.organization_id WHERE m.user_id = t.user_id AND m.organization_id <> $3)"
    ),
    "payment_methods": "type = NULL, brand = NULL, last4 = NULL, exp_month = NULL, exp_year = NULL",
    "emails": (
        "recipient = NULL, locale = NULL, data = '{}', claimed_by = NULL, "
        f"last_error = CASE WHEN t.status IN ('queued', 'sending', 'failed') THEN '{NOTE}' END, "
        "status = CASE WHEN t.status IN ('queued', 'sending') THEN 'failed' ELSE t.status END"
    ),
    "stripe_calls": (
        "params = '{}', claimed_by = NULL, "
        f"last_error = CASE WHEN t.status IN ('queued', 'calling', 'failed') THEN '{NOTE}' END, "
        "status = CASE WHEN t.status IN ('queued', 'calling') THEN 'failed' ELSE t.status END"
    ),
    "timers": ("data = '{}', status = CASE WHEN t.status IN ('pending', 'fired') THEN 'cancelled' ELSE t.status END"),
    "dead_letters": (
        f"message = '{NOTE}', closed_at = coalesce(t.closed_at, $4), closed_by = coalesce(t.closed_by, '{NOTE}'), "
        "status = CASE WHEN t.status = 'open' THEN 'discarded' ELSE t.status END"
    ),
    # Its file is deleted by sinks/exports; one that is being written, when its writer's claim has run out.
    "exports": (
        "status = CASE WHEN t.location IS NULL THEN 'deleted' ELSE 'expired' END, last_error = NULL, sha256 = NULL, "
        "next_attempt_at = CASE WHEN t.status = 'working' THEN t.next_attempt_at ELSE $4 END"
    ),
    # A waiting event could not come back without its payload, and its timer is cancelled.
    "events": (
        f"payload = NULL, reason = CASE WHEN t.outcome IN ('waiting', 'dead') THEN '{NOTE}' ELSE t.reason END, "
        "outcome = CASE WHEN t.outcome = 'waiting' THEN 'ignored' ELSE t.outcome END"
    ),
}
_BUT = {
    "exports": " AND t.status <> 'deleted'",
}
_ERASE = {
    name: (
        f"UPDATE billing.{name} AS t SET {cleared} WHERE {rows_of(tables.metadata.tables[f'billing.{name}'])} "  # noqa: S608  # constants of ours
        f"AND $4::timestamptz IS NOT NULL{_BUT.get(name, '')}"
    )
    for name, cleared in _CLEARED.items()
}
_LAST_LETTER = "SELECT max(t.last_failed_at) FROM billing.dead_letters t WHERE t.account = $1 AND t.customer_id = $2"
_NOTE = """
INSERT INTO billing.erasures
    (event_id, account, customer_id, organization_id, asked_at, erased_at, counts, kafka_until, dead_letters_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""


async def erase(connection: Connection, row: ErasureRow) -> None:
    """Erases, and notes how many rows of each table it was. Raises the driver's errors."""
    counts: dict[str, int] = {}
    for name, statement in _ERASE.items():
        done = await connection.execute(statement, row.account, row.customer_id, row.organization_id, row.erased_at)
        counts[name] = int(done.rpartition(" ")[2])
    last_letter: datetime | None = await connection.fetchval(_LAST_LETTER, row.account, row.customer_id)
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
