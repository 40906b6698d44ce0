"""Events beside which another one is shown: the newest good one of its type, and what a customer's events changed."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres.lists import Found, row, rows

_LOOK_AT = 50_000
"""Rows of the ledger among which a good event is searched, the newest first."""
MOST_CHANGES = 5_000


async def newest_applied(connection: AsyncConnection, type_: str, api_version: str | None) -> Found | None:
    """Returns `event_id` and `payload` of the newest applied event of this type and API version, if a recent one is."""
    return await row(
        connection,
        """SELECT event_id, payload FROM (
            SELECT event_id, type, api_version, outcome, payload FROM billing.events
            WHERE applied_at IS NOT NULL ORDER BY applied_at DESC, event_id DESC LIMIT :look_at) newest
        WHERE type = :type AND coalesce(api_version, '') = coalesce(CAST(:version AS text), '')
          AND outcome = 'applied' AND payload IS NOT NULL LIMIT 1""",
        {"type": type_, "version": api_version, "look_at": _LOOK_AT},
    )


async def changes_since(connection: AsyncConnection, account: str, customer_id: str, at: datetime) -> list[Found]:
    """Returns `event_id`, `applied_at` and `changes` of the customer's events that were applied after `at` (UTC).

    The latest comes first, at most MOST_CHANGES: the caller checks.
    """
    return await rows(
        connection,
        """SELECT event_id, applied_at, changes FROM billing.events
        WHERE account = :account AND customer_id = :customer AND applied_at > :at AND changes IS NOT NULL
        ORDER BY applied_at DESC, "partition" DESC, "offset" DESC LIMIT :most""",
        {"account": account, "customer": customer_id, "at": at, "most": MOST_CHANGES},
    )


async def first_applied(connection: AsyncConnection, account: str, customer_id: str) -> datetime | None:
    """Returns when the first event of this customer was applied here (UTC), None if none was."""
    found = await row(
        connection,
        """SELECT min(applied_at) AS first FROM billing.events
        WHERE account = :account AND customer_id = :customer AND outcome = 'applied'""",
        {"account": account, "customer": customer_id},
    )
    return found["first"] if found is not None else None


async def changes_kept_since(connection: AsyncConnection, account: str, customer_id: str) -> datetime | None:
    """Returns the newest moment (UTC) at which an event changed this customer whose changes were pruned or erased.

    Only later states can be known in full. None: no changes were lost.
    """
    found = await row(
        connection,
        """SELECT max(applied_at) AS since FROM billing.events WHERE account = :account AND customer_id = :customer
          AND (payload_pruned_at IS NOT NULL OR (payload IS NULL AND outcome = 'applied'))""",
        {"account": account, "customer": customer_id},
    )
    return found["since"] if found is not None else None
