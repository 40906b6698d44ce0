"""The runs of `billing reconcile` and `billing audit`, and what they found."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres.lists import Found, row, rows

MOST_RUNS, MOST_DIFFERENCES = 30, 200

_LAST = {
    "reconcile": """SELECT run_id, window_from, cursor AS window_until, ended_at, counts FROM billing.reconciliations
        WHERE account = '' AND scope = '' AND ended_at IS NOT NULL ORDER BY cursor DESC, run_id DESC LIMIT 1""",
    "audit": """SELECT run_id, window_from, window_until, ended_at, counts, differences FROM billing.audits
        WHERE account = '' AND ended_at IS NOT NULL ORDER BY run_id DESC LIMIT 1""",
}


async def reconciliations(connection: AsyncConnection) -> list[Found]:
    """Returns the latest reconciliations, with the part of the window that is covered, from 0 to 1."""
    return await rows(
        connection,
        """SELECT run_id, account, scope, started_at, ended_at, window_from, window_until, cursor, counts, last_error,
               least(greatest(extract(epoch FROM cursor - window_from)
                     / nullif(extract(epoch FROM window_until - window_from), 0), 0), 1)::float AS covered
        FROM billing.reconciliations ORDER BY started_at DESC LIMIT :most""",
        {"most": MOST_RUNS},
    )


async def audits(connection: AsyncConnection) -> list[Found]:
    """Returns the latest audits."""
    return await rows(
        connection,
        """SELECT run_id, account, scope, started_at, ended_at, window_from, window_until, phase, counts, differences,
               last_error
        FROM billing.audits ORDER BY started_at DESC LIMIT :most""",
        {"most": MOST_RUNS},
    )


async def differences(connection: AsyncConnection, run_id: int | None) -> list[Found]:
    """Returns what an audit found, at most 200 differences. Without its id, the newest complete one's."""
    chosen = ":run_id" if run_id is not None else "(SELECT max(run_id) FROM billing.audits WHERE ended_at IS NOT NULL)"
    return await rows(
        connection,
        f"""SELECT d.run_id, d.kind, d.object_id, d.subject, d.cause, d.repair, d.fields
        FROM billing.audit_differences d WHERE d.run_id = {chosen}
        ORDER BY d.kind, d.object_id LIMIT :most""",  # noqa: S608 - constants
        {"most": MOST_DIFFERENCES} | ({"run_id": run_id} if run_id is not None else {}),
    )


async def last_complete(connection: AsyncConnection, kind: str) -> Found | None:
    """Returns the newest complete run of the own account, None without one. `kind` is reconcile or audit."""
    return await row(connection, _LAST[kind])
