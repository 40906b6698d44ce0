"""Queries of the demo: timers that are due, and timers that have fired."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres.tables import events, timers


async def due_timers(connection: AsyncConnection, customer_ids: Sequence[str], until: datetime) -> int:
    """Return how many timers of these customers are due by `until` and not processed yet (own account only)."""
    query = (
        select(func.count())
        .select_from(timers)
        .where(timers.c.account == "", timers.c.customer_id.in_(customer_ids))
        .where(timers.c.status.in_(("pending", "fired")), timers.c.due_at <= until)
    )
    return int((await connection.execute(query)).scalar_one())


async def timer_events(connection: AsyncConnection, customer_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return event id, type, customer and outcome of each processed timer, ordered by due time."""
    query = (
        select(events.c.event_id, events.c.type, events.c.customer_id, events.c.outcome)
        .where(events.c.account == "", events.c.customer_id.in_(customer_ids))
        .where(events.c.source == "timer", events.c.type.like("timer.%"))
        .order_by(events.c.created, events.c.event_id)
    )
    return [{str(name): value for name, value in row.items()} for row in (await connection.execute(query)).mappings()]
