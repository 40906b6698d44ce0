"""Rows of the outboxes, and timers, by keyset."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.timer import MAILING_TIMERS
from sinks.postgres.lists import MOST_LOOKED_AT, PAGE, Found, row, rows
from sinks.postgres.outboxes import BY_TABLE, ERASED

_CONTENTS = {"data", "params", "claimed_by", "sha256", "location"}


async def entries(
    connection: AsyncConnection,
    name: str,
    *,
    status: str = "",
    kind: str = "",
    but_erased: bool = False,
    before: tuple[datetime, str] | None = None,
    most: int = PAGE,
    look_at: int = MOST_LOOKED_AT,
) -> tuple[list[Found], tuple[datetime, str] | None]:
    """Returns rows of an outbox without their contents, the newest first, and where the next page starts.

    `but_erased` leaves out what an erasure has emptied: it cannot be delivered.

    With a status or kind that no index finds, it looks at 200,000 rows. If the page is not full then, the next page
    starts where it stopped.
    """
    outbox = BY_TABLE[name]
    columns = ", ".join(f'"{column.name}"' for column in outbox.table.c if column.name not in _CONTENTS)
    order = f"ORDER BY {outbox.since} DESC, {outbox.key} DESC"
    chosen, place, query = [], "true", dict[str, object](most=most + 1)
    if status:
        chosen.append("status = :status")
        query["status"] = status
    if kind and outbox.kind is not None:
        chosen.append(f"{outbox.kind} = :kind")
        query["kind"] = kind
    if but_erased:
        chosen.append("coalesce(last_error, '') <> :erased")
        query["erased"] = ERASED
    if before is not None:
        place = f"({outbox.since}, {outbox.key}) < (:before_at, :before_key)"
        query |= {"before_at": before[0], "before_key": before[1]}
    source, is_limited = f"billing.{name}", bool(chosen) and status not in ("queued", outbox.busy, "failed")
    if is_limited:
        source = f"(SELECT * FROM billing.{name} WHERE {place} {order} LIMIT :look_at) looked"  # noqa: S608 - names
        query["look_at"] = look_at
    found = await rows(
        connection,
        f"SELECT {columns} FROM {source} WHERE {' AND '.join([place, *chosen])} {order} LIMIT :most",  # noqa: S608 - names
        query,
    )
    if len(found) > most:
        last = found[most - 1]
        return found[:most], (last[outbox.since], last[outbox.key])
    if not is_limited:
        return found, None
    end = await row(
        connection,
        f"SELECT {outbox.since}, {outbox.key} FROM billing.{name} WHERE {place} {order} "  # noqa: S608 - names
        "OFFSET :look_at - 1 LIMIT 1",
        {name: value for name, value in query.items() if name in ("before_at", "before_key", "look_at")},
    )
    return found, (end[outbox.since], end[outbox.key]) if end is not None else None


async def failed(connection: AsyncConnection, name: str, *, until: datetime, kind: str = "") -> int:
    """Returns how many failed rows were queued until then. Erased rows are not counted: they cannot be delivered."""
    outbox = BY_TABLE[name]
    of_kind = f"AND {outbox.kind} = :kind" if kind and outbox.kind is not None else ""
    found = await row(
        connection,
        f"""SELECT count(*) AS failed FROM billing.{name}
        WHERE status = 'failed' AND {outbox.since} <= :until AND coalesce(last_error, '') <> :erased {of_kind}""",  # noqa: S608 - names
        {"until": until, "erased": ERASED} | ({"kind": kind} if of_kind else {}),
    )
    return int(found["failed"]) if found is not None else 0


async def entry(connection: AsyncConnection, name: str, key: str) -> Found | None:
    """Returns one row of an outbox with its contents, None if there is none."""
    outbox = BY_TABLE[name]
    return await row(
        connection,
        f"SELECT * FROM billing.{name} WHERE {outbox.key} = :key",  # noqa: S608 - names of the registry
        {"key": key},
    )


async def calendar(connection: AsyncConnection, *, days: int = 14) -> list[Found]:
    """Returns pending timers by day and kind, from today; what is overdue counts for today."""
    return await rows(
        connection,
        """SELECT greatest((due_at AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'UTC')::date) AS day, kind,
               count(*) AS timers
        FROM billing.timers WHERE status = 'pending' AND due_at < now() + make_interval(days => :days)
        GROUP BY 1, 2 ORDER BY 1, 2""",
        {"days": days},
    )


async def mailing(connection: AsyncConnection, *, days: int = 14, most: int = 500) -> list[Found]:
    """Returns pending timers whose rule mails the customer, with `day` (UTC), the next one first; overdue ones, too.

    The mail leaves only if the state at that time gives a reason for it.
    """
    return await rows(
        connection,
        """SELECT greatest((due_at AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'UTC')::date) AS day, due_at, kind,
               account, customer_id, subject
        FROM billing.timers WHERE status = 'pending' AND due_at < now() + make_interval(days => :days)
          AND kind = ANY(CAST(:kinds AS text[]))
        ORDER BY due_at, timer_key LIMIT :most""",
        {"days": days, "kinds": sorted(MAILING_TIMERS), "most": most},
    )


async def timers(
    connection: AsyncConnection, *, kind: str = "", after: tuple[datetime, str] | None = None, most: int = PAGE
) -> tuple[list[Found], tuple[datetime, str] | None]:
    """Returns pending timers, the next one first, and where the next page starts."""
    parts, values = ["status = 'pending'"], dict[str, object](kind=kind, most=most + 1)
    if kind:
        parts.append("kind = :kind")
    if after is not None:
        parts.append("(due_at, timer_key) > (:after_at, :after_key)")
        values |= {"after_at": after[0], "after_key": after[1]}
    found = await rows(
        connection,
        f"""SELECT timer_key, account, customer_id, kind, subject, due_at, status, livemode, event_id
        FROM billing.timers WHERE {" AND ".join(parts)} ORDER BY due_at, timer_key LIMIT :most""",  # noqa: S608
        values,
    )
    if len(found) <= most:
        return found, None
    last = found[most - 1]
    return found[:most], (last["due_at"], last["timer_key"])


async def timer(connection: AsyncConnection, key: str) -> Found | None:
    """Returns one timer without its contents, None if there is none."""
    return await row(
        connection,
        """SELECT timer_key, account, customer_id, kind, subject, due_at, status, livemode, event_id
        FROM billing.timers WHERE timer_key = :key""",
        {"key": key},
    )
