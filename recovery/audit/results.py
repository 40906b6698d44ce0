"""The newest results of the audits, for the schedule, its metrics and the console."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres import tables
from sinks.postgres.lists import Found, overview


@dataclass(frozen=True, slots=True)
class Results:
    """When the newest scheduled audit of the platform's own account ended (UTC), and what all accounts' audits found.

    An audit that an operator ran afterwards over a window at least as long replaces the scheduled one.
    """

    ended_at: datetime
    differences: int


async def runs_and_results(connection: AsyncConnection) -> Found:
    """Return the newest runs, with the differences of the newest results instead of those of the newest audit.

    The newest audit may be running, or cover less than one that has found differences. Before the first scheduled audit
    has ended, the differences are those of the last one that has.
    """
    found = await overview.runs(connection)
    if (audit := found["audit"]) is not None:
        results = await audit_results(connection)
        found["audit"] = audit | {"differences": results.differences if results else await _last(connection)}
    return found


async def _last(connection: AsyncConnection) -> int:
    runs = tables.audits
    newest = select(runs.c.differences).where(runs.c.ended_at.is_not(None)).order_by(runs.c.run_id.desc()).limit(1)
    return int(await connection.scalar(newest) or 0)


async def audit_results(connection: AsyncConnection) -> Results | None:
    """Return the newest results, None if no scheduled audit of the platform's own account has ended yet."""
    runs = tables.audits
    is_scheduled = (runs.c.scope == "") & runs.c.ended_at.is_not(None)
    own = (
        await connection.execute(
            select(runs.c.run_id, runs.c.ended_at)
            .where(is_scheduled, runs.c.account == "")
            .order_by(runs.c.run_id.desc())
            .limit(1)
        )
    ).one_or_none()
    if own is None:
        return None
    newest = (
        # The accounts of one pass come after the platform's own, so the accounts of an earlier pass are left out.
        select(runs.c.account, func.max(runs.c.run_id).label("run_id"))
        .where(is_scheduled, runs.c.run_id >= own.run_id)
        .group_by(runs.c.account)
        .subquery()
    )
    scheduled, later = runs.alias("scheduled"), runs.alias("later")
    query = (
        select(scheduled.c.account, later.c.run_id, later.c.differences)
        .select_from(newest.join(scheduled, scheduled.c.run_id == newest.c.run_id))
        .join(
            later,
            (later.c.account == scheduled.c.account)
            & (later.c.run_id >= scheduled.c.run_id)
            & later.c.ended_at.is_not(None)
            & (later.c.window_until >= scheduled.c.window_until)
            & (later.c.window_until - later.c.window_from >= scheduled.c.window_until - scheduled.c.window_from),
        )
        .order_by(later.c.run_id)
    )
    found = {row.account: row.differences for row in await connection.execute(query)}
    return Results(own.ended_at, sum(found.values()))
