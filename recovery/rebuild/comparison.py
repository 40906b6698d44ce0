"""Compares the live database row by row with one rebuilt from the log, in all columns determined by the log.

Columns that the clock, the dispatchers and operators write are left out: times of applying and sending, tries, results
of deliveries. Timers compare as `open` whether or not the scheduler has marked them as fired; retry timers of waiting
events are left out. Rows that the rebuild cannot know are counted separately, with the reason (see `Excuses`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
import orjson
from pydantic import SecretStr
from sqlalchemy import Table, Text

from schemas.errors import BillingError
from schemas.state import Organization, User
from schemas.timer import RETRY
from sinks.postgres import tables
from sinks.postgres.failures import classified
from sinks.postgres.outboxes import BY_TABLE, OUTBOXES
from sinks.postgres.pool import SessionTimeouts, connect
from sinks.postgres.prune import ACTION, STEPS, Age

MOST = 1000
"""Maximum number of differences that are listed."""
_AHEAD = 500
"""Rows fetched at once from each database."""

Owner = tuple[str, str | None]
Row = dict[str, Any]

_LEFT_OUT: Mapping[str, Set[str]] = {
    # An event that waited may have been settled by another one of its deliveries.
    # `changes` depends on what was applied before: an event that was dead and replayed has another turn in a rebuild,
    # and the scheduler marks timers as fired in between.
    "events": {"received_at", "applied_at", "attempts", "offset", "source", "payload_pruned_at", "changes"},
    **{outbox.name: outbox.not_compared for outbox in OUTBOXES},
    "organizations": {"access_version"},  # counts changes, and a rebuild may see fewer
    "erasures": {"erased_at", "counts", "kafka_until", "dead_letters_until"},
    "dead_letters": {
        *("consumer_group", "attempts", "first_failed_at", "last_failed_at", "code_version", "dead_partition"),
        *("dead_offset", "status", "closed_at", "closed_by", "replay_begun_at"),
    },
}
_KEYS = {"dead_letters": ("topic", "partition", "offset")}
"""Key columns, if not the primary key: workers of single streams have their own consumer groups, a rebuild has one."""

COMPARED: tuple[Table, ...] = (
    tables.events,
    *tables.STATE_TABLES.values(),
    *(outbox.table for outbox in OUTBOXES),
    tables.erasures,
    tables.dead_letters,
)

# Only an event's first dead letter is compared; others depend on batching.
_EARLIER_LETTER = """billing.dead_letters e WHERE e.event_id = t.event_id
    AND (e.topic, e."partition", e."offset") < (t.topic, t."partition", t."offset")"""
_EXCUSED_OWNERS = """
SELECT DISTINCT e.account, e.customer_id,
    CASE WHEN e."offset" < r.first THEN $4 WHEN e."offset" >= r.next THEN $5 ELSE $6 END AS reason
FROM billing.events e LEFT JOIN unnest($1::int[], $2::bigint[], $3::bigint[]) AS r (partition, first, next)
    ON r.partition = e."partition"
WHERE e."offset" < r.first OR e."offset" >= r.next OR e.outcome = 'waiting'
    OR (e.outcome = 'dead' AND EXISTS (
        SELECT FROM billing.dead_letters d WHERE d.event_id = e.event_id AND d.error_class = 'NeverKnown'))
"""
_USERS = "SELECT account, customer_id, user_id FROM billing.customers WHERE user_id IS NOT NULL"
# A link names no customer, but events of its objects do. `expanded` objects have an id, others are one.
_OBJECTS = """
SELECT DISTINCT e.account, e.customer_id, i.id
FROM unnest($1::text[], $2::text[]) AS o (account, customer_id)
JOIN billing.events e ON e.account = o.account AND e.customer_id IS NOT DISTINCT FROM o.customer_id
CROSS JOIN LATERAL (SELECT e.payload #> '{data,object}') AS p (object)
CROSS JOIN LATERAL (VALUES (p.object->>'id'), (p.object->>'charge'), (p.object#>>'{charge,id}'),
    (p.object->>'latest_charge'), (p.object#>>'{latest_charge,id}'), (p.object->>'payment_intent'),
    (p.object#>>'{payment_intent,id}'), (p.object->>'invoice'), (p.object#>>'{invoice,id}'),
    (p.object#>>'{payment,charge}'), (p.object#>>'{payment,payment_intent}'),
    (p.object#>>'{payment_details,order_reference}')) AS i (id)
WHERE i.id IS NOT NULL
"""
# Rows that `billing prune` deletes whole, and the column that ages. A rebuilt row has the time of its record.
_DELETED_AFTER: Mapping[str, str] = {step.table: step.order for step in STEPS if step.age is Age.RECORDS}
_DELETED_BEFORE = """
SELECT max(at - (filter ->> $2)::interval) FROM billing.audit_log
WHERE action = $1 AND filter ->> $2 IS NOT NULL AND outcome <> 'refused'
"""
_REBUILD = "SELECT offsets, ended_at FROM billing.rebuilds ORDER BY rebuild_id DESC LIMIT 1"

REMOVED, LATER, WAITS, PRUNED = (
    "of events that retention has removed from the log",
    "of events that came after the rebuild",
    "of events that wait, or waited too long",
    "that billing prune has deleted, or whose contents it has ended",
)


class NotRebuilt(BillingError):
    """The other database was not made by `billing rebuild`, or that rebuild was interrupted."""


@dataclass(frozen=True, slots=True)
class RowDifference:
    """A row that differs. `columns` contains (live, rebuilt) per column.

    If only one database has the row, `columns` is empty and `only_in` is `live` or `rebuilt`.
    """

    table: str
    key: tuple[Any, ...]
    columns: dict[str, tuple[Any, Any]]
    only_in: str | None = None


@dataclass(slots=True)
class DatabaseDiff:
    """The result of a comparison. `excused`: rows whose difference is expected, by reason and table."""

    rows: Counter[str] = field(default_factory=Counter)
    """Number of compared rows by table."""
    different: Counter[str] = field(default_factory=Counter)
    excused: dict[str, Counter[str]] = field(default_factory=dict)
    differences: list[RowDifference] = field(default_factory=list)
    """The first MOST."""
    removed: dict[int, int] = field(default_factory=dict)
    """How many offsets retention had removed before the rebuild, by partition."""

    @property
    def is_equal(self) -> bool:
        return not self.different.total()


@dataclass(slots=True)
class Excuses:
    """Owners of rows that may differ: customers with events that the rebuild could not read or live has not settled."""

    stretches: Mapping[int, tuple[int, int]]
    owners: dict[Owner, str]
    organizations: dict[str, str]
    users: dict[tuple[str, str], str]
    objects: dict[tuple[str, str], str]
    """By account and Stripe id: the objects that the owners' events name."""
    deleted_before: datetime | None = None
    """Rows older than this may be missing in the live database: `billing prune` has deleted some."""

    @classmethod
    async def of(cls, live: asyncpg.Connection[asyncpg.Record], stretches: Mapping[int, tuple[int, int]]) -> Excuses:
        firsts, ends = [first for first, _ in stretches.values()], [end for _, end in stretches.values()]
        found = await live.fetch(_EXCUSED_OWNERS, list(stretches), firsts, ends, REMOVED, LATER, WAITS)
        owners = {(row["account"], row["customer_id"]): row["reason"] for row in found}
        named = {(account, id_): reason for (account, id_), reason in owners.items() if id_ is not None}
        users = {(owner[0], User.id_of(*owner)): reason for owner, reason in named.items()}
        for row in await live.fetch(_USERS) if named else ():
            if reason := named.get((row["account"], row["customer_id"])):
                users[row["account"], row["user_id"]] = reason
        organizations = {Organization.id_of(*owner): reason for owner, reason in named.items()}
        lists = [account for account, _ in owners], [customer_id for _, customer_id in owners]
        objects = {
            (row["account"], row["id"]): owners[row["account"], row["customer_id"]]
            for row in (await live.fetch(_OBJECTS, *lists) if owners else ())
        }
        deleted_before = await live.fetchval(_DELETED_BEFORE, ACTION, str(Age.RECORDS))
        return cls(stretches, owners, organizations, users, objects, deleted_before)

    def of_row(self, table: Table, row: Row, *, is_live: bool) -> str | None:
        """Return why this row may differ, or None."""
        if table is tables.users:
            return self.users.get((row["account"], row["user_id"]))
        if table is tables.memberships:
            return self.organizations.get(row["organization_id"])
        if table is tables.payment_links:
            return self.objects.get((row["account"], row["stripe_id"]))
        if (row.get("outcome") == "waiting" and is_live) or row.get("error_class") == "NeverKnown":
            return WAITS
        if table in (tables.events, tables.dead_letters) and is_live:
            return self._of_position(row["partition"], row["offset"]) or self._of_owner(row)
        return self._of_owner(row)

    def is_deleted(self, table: Table, rebuilt: Row) -> bool:
        """Return whether a row that only the rebuilt database has is old enough to have been pruned."""
        aged = _DELETED_AFTER.get(table.name)
        return aged is not None and self.deleted_before is not None and bool(rebuilt[aged] < self.deleted_before)

    def _of_owner(self, row: Row) -> str | None:
        return self.owners.get((row["account"], row["customer_id"]))

    def _of_position(self, partition: int | None, offset: int | None) -> str | None:
        stretch = self.stretches.get(-1 if partition is None else partition)
        if stretch is None or offset is None:
            return LATER
        return REMOVED if offset < stretch[0] else LATER if offset >= stretch[1] else None


async def compare(
    live: asyncpg.Connection[asyncpg.Record], rebuilt: asyncpg.Connection[asyncpg.Record]
) -> DatabaseDiff:
    """Compare one snapshot of each database. Raises NotRebuilt and the database driver's errors."""
    async with (
        live.transaction(isolation="repeatable_read", readonly=True),
        rebuilt.transaction(isolation="repeatable_read", readonly=True),
    ):
        made = await rebuilt.fetchrow(_REBUILD)
        if made is None or made["ended_at"] is None:
            raise NotRebuilt("the other database was not made by a `billing rebuild` that completed")
        stretches = {int(number): (first, end) for number, (first, end) in orjson.loads(made["offsets"]).items()}
        found = DatabaseDiff(removed={number: first for number, (first, _) in stretches.items() if first})
        excuses = await Excuses.of(live, stretches)
        for table in COMPARED:
            await _compare(table, live, rebuilt, excuses, found)
    return found


async def _compare(
    table: Table,
    live: asyncpg.Connection[asyncpg.Record],
    rebuilt: asyncpg.Connection[asyncpg.Record],
    excuses: Excuses,
    found: DatabaseDiff,
) -> None:
    """Compare one table by reading both databases in key order."""
    names, name = _compared_names(table), str(table.name)  # a str subclass, which orjson rejects as a key
    ours, theirs = _rows(table, live), _rows(table, rebuilt)
    one, other = await anext(ours, None), await anext(theirs, None)
    while one is not None or other is not None:
        found.rows[name] += 1
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None  # noqa: S101  # for the type checker: the loop's condition
            _note(found, excuses, table, RowDifference(name, one[0], {}, "live"), one[1], None)
            one = await anext(ours, None)
        elif one is None or other[0] < one[0]:
            _note(found, excuses, table, RowDifference(name, other[0], {}, "rebuilt"), None, other[1])
            other = await anext(theirs, None)
        else:
            columns = _differing(names, one[1], other[1])
            if columns and all(_is_pruned(name, one[1]) for name in columns):
                found.excused.setdefault(PRUNED, Counter())[name] += 1
            elif columns:
                _note(found, excuses, table, RowDifference(name, one[0], columns), one[1], other[1])
            one, other = await anext(ours, None), await anext(theirs, None)


def _note(
    found: DatabaseDiff,
    excuses: Excuses,
    table: Table,
    difference: RowDifference,
    live: Row | None,
    rebuilt: Row | None,
) -> None:
    reason = excuses.of_row(table, live, is_live=True) if live is not None else None
    if live is None and rebuilt is not None and excuses.is_deleted(table, rebuilt):
        reason = PRUNED
    if reason is None and rebuilt is not None:
        reason = excuses.of_row(table, rebuilt, is_live=False)
    if reason is not None:
        found.excused.setdefault(reason, Counter())[difference.table] += 1
        return
    found.different[difference.table] += 1
    if len(found.differences) < MOST:
        found.differences.append(difference)


def _differing(names: list[str], one: Row, other: Row) -> dict[str, tuple[Any, Any]]:
    return {
        name: (one[name], other[name]) for name in names if one[name] != other[name] and not _is_filled(name, other)
    }


def _is_filled(name: str, rebuilt: Row) -> bool:
    """Whether the dispatcher filled in the column: it stores a mail's recipient when it sends the mail."""
    return name == "recipient" and rebuilt[name] is None


def _is_pruned(name: str, live: Row) -> bool:
    """Whether `billing prune` has ended this content (sinks/postgres/prune.py)."""
    if name in ("payload", "changes"):
        return live.get("payload_pruned_at") is not None
    is_empty = "{}" in (live.get("data"), live.get("params"))
    return is_empty and live.get("status") not in ("queued", "open") and name in ("data", "params", "recipient")


def _compared_names(table: Table) -> list[str]:
    return [str(column.name) for column in table.c if column.name not in _LEFT_OUT.get(table.name, ())]


async def _rows(
    table: Table, connection: asyncpg.Connection[asyncpg.Record]
) -> AsyncIterator[tuple[tuple[Any, ...], Row]]:
    """Yield key and row in key order. Text is ordered by code point, as in Python."""
    key = _KEYS.get(table.name) or tuple(column.name for column in table.primary_key)
    order = ", ".join(f't."{name}"' + (' COLLATE "C"' if isinstance(table.c[name].type, Text) else "") for name in key)
    query = f"SELECT {', '.join(map(_selected, table.c))} FROM {table.fullname} AS t{_where(table)} ORDER BY {order}"  # noqa: S608  # names from our schema
    async for record in connection.cursor(query, prefetch=_AHEAD):
        row = dict(record)
        yield tuple(row[name] for name in key), row


def _selected(column: Any) -> str:
    if column.name == "payload":
        return "md5(t.payload::text) AS payload"
    if column.table.name == "timers" and column.name == "status":
        return f"CASE WHEN t.status IN {tables.OPEN_TIMER_STATUSES} THEN 'open' ELSE t.status END AS status"
    return f't."{column.name}"'


def _where(table: Table) -> str:
    if table is tables.timers:
        return f" WHERE t.kind <> '{RETRY}'"
    if table.name in BY_TABLE:
        return f" WHERE {BY_TABLE[table.name].compared_if}"
    if table is tables.dead_letters:
        return f" WHERE NOT EXISTS (SELECT FROM {_EARLIER_LETTER})"
    return ""


_BOUNDS = SessionTimeouts(statement_s=3600.0, idle_in_transaction_s=3600.0)


async def run(live: SecretStr, rebuilt: SecretStr) -> DatabaseDiff:
    """Connect to both databases and compare them. Raises NotRebuilt, StoreUnavailable, InvalidSettings."""
    connections: list[asyncpg.Connection[asyncpg.Record]] = []
    try:
        with classified():
            for url in (live, rebuilt):
                connections.append(  # noqa: PERF401  # the first must be closed if the second fails
                    await connect(url, application="billing-diff", bounds=_BOUNDS, own_session=True)
                )
            return await compare(*connections)
    finally:
        for connection in connections:
            connection.terminate()
