"""The ledger's events, the newest first, with filters and a limit on how many rows are looked at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres.lists import MOST_LOOKED_AT, PAGE, Found, row, rows

MOST_OF_A_CUSTOMER = 2_000
"""Events of one customer that one request looks at. They are all over the table, unlike the newest ones of all."""

_COLUMNS = """event_id, type, stream, customer_id, account, livemode, created, received_at, applied_at, source,
    endpoint, api_version, "partition", "offset", outcome, reason, attempts"""
_OBJECT = "payload #>> '{data,object,id}'"
_EQUAL = ("account", "endpoint", "outcome", "source", "stream")
"""Columns that a filter compares, and that no index finds."""

_LATEST = datetime(9999, 12, 31, tzinfo=UTC)
"""The place of events without a time: they come before those with one, in the order of their ids."""


@dataclass(frozen=True, slots=True)
class ListPosition:
    """A place in the list: rows after it were processed earlier; in a customer's list, created earlier."""

    at: datetime
    event_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Selects events. Empty fields do not restrict the selection. `type` may end with `*`.

    `object` is the id of the event's object. Only events of a customer whose payload is stored are found by it.
    """

    type: str = ""
    outcome: str = ""
    stream: str = ""
    customer: str = ""
    object: str = ""
    endpoint: str = ""
    source: str = ""
    account: str = ""
    livemode: bool | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: ListPosition | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    """One page. `next` is where the next page starts.

    `is_cut`: the search stopped there before the page was full, after `looked_at` events.
    """

    events: list[Found]
    next: ListPosition | None
    is_cut: bool = False
    looked_at: int = 0


async def listed(
    connection: AsyncConnection, wanted: EventFilter, *, most: int = PAGE, look_at: int = MOST_LOOKED_AT
) -> EventPage:
    """Returns one page of events in the order in which they were processed, the newest first.

    A customer's events are in the order of Stripe's times, for which there is an index; those without one come first.
    Looks at `look_at` events at most, and at fewer of a customer.
    """
    by = "created" if wanted.customer else "applied_at"
    window, values = _window(wanted, by)
    conditions = _conditions(wanted, values)
    order = f"ORDER BY {by} DESC, event_id DESC"
    looked_at = min(look_at, MOST_OF_A_CUSTOMER) if wanted.customer else look_at
    columns = f"{_COLUMNS}, {_OBJECT} AS object_id" if wanted.object else _COLUMNS
    inner = f"SELECT {columns} FROM billing.events WHERE {window} {order} LIMIT :look_at"  # noqa: S608 - constants
    statement = f"SELECT * FROM ({inner}) looked WHERE {conditions} {order} LIMIT :most"  # noqa: S608 - constants
    found = await rows(connection, statement, values | {"look_at": looked_at, "most": most + 1})
    if len(found) > most:
        return EventPage(found[:most], _place(found[most - 1], by))
    # Fewer than a page: the list has ended, or the search has looked at as many rows as it may.
    last = await row(
        connection,
        f"SELECT {by}, event_id FROM billing.events WHERE {window} {order} OFFSET :last LIMIT 1",  # noqa: S608
        values | {"last": looked_at - 1},
    )
    return EventPage(found, _place(last, by) if last is not None else None, last is not None, looked_at)


async def neighbours(connection: AsyncConnection, event: Found) -> dict[str, str | None]:
    """Returns the ids of the customer's `previous` and `next` event, by Stripe's time."""
    if event["customer_id"] is None or event["created"] is None:
        return {"previous": None, "next": None}
    found: dict[str, str | None] = {}
    for name, sign, order in (("previous", "<", "DESC"), ("next", ">", "ASC")):
        one = await row(
            connection,
            f"""SELECT event_id FROM billing.events
            WHERE account = :account AND customer_id = :customer_id
              AND (created, event_id) {sign} (:created, :event_id)
            ORDER BY created {order}, event_id {order} LIMIT 1""",  # noqa: S608 - constants
            {name: event[name] for name in ("account", "customer_id", "created", "event_id")},
        )
        found[name] = one["event_id"] if one else None
    return found


async def rate(connection: AsyncConnection, since: datetime) -> list[Found]:
    """Returns the events processed since then, by minute and outcome. Looks at the newest MOST_LOOKED_AT only."""
    return await rows(
        connection,
        """SELECT date_trunc('minute', applied_at) AS minute, outcome, count(*) AS events
        FROM (SELECT applied_at, outcome FROM billing.events WHERE applied_at >= :since
              ORDER BY applied_at DESC, event_id DESC LIMIT :look_at) newest
        GROUP BY 1, 2 ORDER BY 1, 2""",
        {"since": since, "look_at": MOST_LOOKED_AT},
    )


async def latency(connection: AsyncConnection, since: datetime) -> Found | None:
    """Returns `p50` and `p99` in seconds from receipt to the decision, of events that came from Stripe since then.

    Replays and retries keep the time of their first receipt, so they are left out.
    """
    return await row(
        connection,
        """SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds) AS p50,
               percentile_disc(0.99) WITHIN GROUP (ORDER BY seconds) AS p99, count(*) AS events
        FROM (SELECT extract(epoch FROM applied_at - received_at)::float AS seconds FROM billing.events
              WHERE applied_at >= :since AND source = 'stripe' AND attempts <= 1 AND outcome <> 'waiting'
              ORDER BY applied_at DESC LIMIT 50000) newest""",
        {"since": since},
    )


async def processed_since(connection: AsyncConnection, since: datetime, *, most: int) -> list[Found]:
    """Returns the id and time of events processed since then, the newest first, at most `most`."""
    return await rows(
        connection,
        """SELECT event_id, applied_at, outcome FROM billing.events WHERE applied_at >= :since
        ORDER BY applied_at DESC, event_id DESC LIMIT :most""",
        {"since": since, "most": most},
    )


def _window(wanted: EventFilter, by: str) -> tuple[str, dict[str, Any]]:
    """Returns the conditions for which there is an index, and their values."""
    parts, values = ["applied_at IS NOT NULL"], dict[str, Any]()
    if wanted.customer:
        parts.append("account = :account AND customer_id = :customer")
        values |= {"account": wanted.account, "customer": wanted.customer}
    if wanted.outcome == "waiting":
        parts.append("outcome = 'waiting'")
    if wanted.since is not None:
        parts.append("applied_at >= :since")
        values["since"] = wanted.since
    if wanted.until is not None:
        parts.append("applied_at < :until")
        values["until"] = wanted.until
    if wanted.before is not None:
        values["before_id"] = wanted.before.event_id
        if wanted.before.at == _LATEST:  # a comparison with NULL is never true
            parts.append(f"({by} IS NOT NULL OR event_id < :before_id)")
        else:
            parts.append(f"({by}, event_id) < (:before_at, :before_id)")
            values["before_at"] = wanted.before.at
    return " AND ".join(parts), values


def _conditions(wanted: EventFilter, values: dict[str, Any]) -> str:
    parts = []
    for name in _EQUAL:
        if value := getattr(wanted, name):
            parts.append(f"{name} = :{name}")
            values[name] = value
    if wanted.object:
        parts.append("object_id = :object")
        values["object"] = wanted.object
    if wanted.livemode is not None:
        parts.append("livemode = :livemode")
        values["livemode"] = wanted.livemode
    if wanted.type:
        parts.append(r"type LIKE :type ESCAPE '\'")
        values["type"] = _like(wanted.type)
    return " AND ".join(parts) or "true"


def _like(pattern: str) -> str:
    escaped = pattern.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
    return escaped.replace("*", "%")


def _place(found: Found, by: str) -> ListPosition:
    return ListPosition(found[by] or _LATEST, found["event_id"])
