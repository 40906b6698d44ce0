"""Proof that nothing is missing: runs of reconcile and audit, with what they found."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from console.reads import panels
from console.web import Answer, Context, Page, get
from sinks.postgres.lists import Found, rows


async def page(context: Context) -> Answer:
    """Shows the runs."""
    ask = context.console.reads.ask
    found = await panels(
        {"reconciliations": ask(_reconciliations), "audits": ask(_audits), "differences": ask(_differences)}
    )
    return Page("checks.j2", "Reconcile and audit", found)


async def _reconciliations(connection: AsyncConnection) -> list[Found]:
    return await rows(
        connection,
        """SELECT run_id, account, scope, started_at, ended_at, window_from, window_until, cursor, counts, last_error,
               least(greatest(extract(epoch FROM cursor - window_from)
                     / nullif(extract(epoch FROM window_until - window_from), 0), 0), 1)::float AS covered
        FROM billing.reconciliations ORDER BY started_at DESC LIMIT 30""",
    )


async def _audits(connection: AsyncConnection) -> list[Found]:
    return await rows(
        connection,
        """SELECT run_id, account, scope, started_at, ended_at, window_from, window_until, phase, counts, differences,
               last_error
        FROM billing.audits ORDER BY started_at DESC LIMIT 30""",
    )


async def _differences(connection: AsyncConnection) -> list[Found]:
    return await rows(
        connection,
        """SELECT d.run_id, d.kind, d.object_id, d.subject, d.cause, d.repair, d.fields
        FROM billing.audit_differences d
        WHERE d.run_id = (SELECT max(run_id) FROM billing.audits WHERE ended_at IS NOT NULL)
        ORDER BY d.kind, d.object_id LIMIT 200""",
    )


ROUTES = [get("/checks", page)]
