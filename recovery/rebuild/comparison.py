"""Compares the live database row by row with one rebuilt from the log, in all columns determined by the log.

Columns that the clock, the dispatchers and operators write are left out: times of applying and sending, tries, results
of deliveries. Timers compare as `open` whether or not the scheduler has marked them as fired; retry timers of waiting
events are left out. Rows that the rebuild cannot know are counted separately, with the reason (see `Excuses`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
from pydantic import SecretStr
from sqlalchemy import Table, Text

from recovery.rebuild.excuses import PRUNED, Excuses, Owner, Row
from schemas.errors import BillingError
from schemas.timer import RETRY
from sinks.postgres import tables
from sinks.postgres.failures import classified
from sinks.postgres.outboxes import BY_TABLE, OUTBOXES
from sinks.postgres.pool import SessionTimeouts, connect

MOST = 1000
"""Maximum number of differences that are listed."""
MOST_HELD = 4 * MOST
"""Maximum number of the ledger's differences that are held until it is known which of them have an excuse."""
_AHEAD = 500
"""Rows fetched at once from each database."""


_LEFT_OUT: Mapping[str, Set[str]] = {
    # An event that waited may have been settled by another one of its deliveries.
    # `changes` depends on what was applied before: an event that was dead and replayed has another turn in a rebuild,
    # and the scheduler marks timers as fired in between.
    "events": {
        *("received_at", "applied_at", "attempts", "offset", "source", "changes"),
        *("payload_pruned_at", "payload_key", "payload_place"),
    },
    **{outbox.name: outbox.not_compared for outbox in OUTBOXES},
    "subscriptions": {"earlier"},  # since 0043: a row has what came later
    "organizations": {"access_version"},  # the time of the last change in this database, or later
    "erasures": {"erased_at", "counts", "kafka_until", "dead_letters_until"},
    "dead_letters": {
        *(
            "consumer_group",
            "attempts",
            "first_failed_at",
            "last_failed_at",
            "code_version",
            "top_frame",
            "dead_partition",
        ),
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
_REBUILD = "SELECT offsets, ended_at FROM billing.rebuilds ORDER BY rebuild_id DESC LIMIT 1"


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

    def add(self, difference: RowDifference, reason: str | None) -> None:
        """Count a difference, as excused if there is a reason."""
        if reason is not None:
            self.excused.setdefault(reason, Counter())[difference.table] += 1
            return
        self.different[difference.table] += 1
        if len(self.differences) < MOST:
            self.differences.append(difference)


@dataclass(slots=True)
class Undecided:
    """Differences of the ledger until all of it is read: then it is known which customers have an excuse."""

    counts: Counter[tuple[Owner, ...]] = field(default_factory=Counter)
    """By the customers of the row in both databases."""
    listed: dict[tuple[Owner, ...], list[RowDifference]] = field(default_factory=dict)
    """The first ones of each: at most MOST, and fewer the more customers there are."""
    _held: int = 0
    _most_of_each: int = MOST

    def add(self, difference: RowDifference, *rows: Row | None) -> None:
        owners = tuple((row["account"], row["customer_id"]) for row in rows if row is not None)
        self.counts[owners] += 1
        if len(self.listed.get(owners, ())) >= self._most_of_each:
            return
        self.listed.setdefault(owners, []).append(difference)
        self._held += 1
        if self._held > MOST_HELD:
            self._halve()

    def _halve(self) -> None:
        """Holds fewer of each customer, so that others have room; of the last customers none if each has one."""
        self._most_of_each //= 2
        for of_owners in self.listed.values():
            del of_owners[max(1, self._most_of_each) :]
        self._held = sum(map(len, self.listed.values()))

    def decide(self, excused: Mapping[Owner, str], found: DatabaseDiff) -> None:
        """Count each difference in `found`. `excused` has the reasons by customer."""
        kept: list[RowDifference] = []
        for owners, count in self.counts.items():
            reason = next((excused[owner] for owner in owners if owner in excused), None)
            if reason is not None:
                found.excused.setdefault(reason, Counter())["events"] += count
            else:
                found.different["events"] += count
                kept += self.listed.get(owners, ())
        found.differences += sorted(kept, key=lambda one: one.key)[: MOST - len(found.differences)]


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
            undecided = Undecided() if table is tables.events else None
            await _compare(table, live, rebuilt, excuses, found, undecided)
            if undecided is not None:
                await excuses.complete()
                undecided.decide(excuses.owners, found)
    return found


async def _compare(
    table: Table,
    live: asyncpg.Connection[asyncpg.Record],
    rebuilt: asyncpg.Connection[asyncpg.Record],
    excuses: Excuses,
    found: DatabaseDiff,
    undecided: Undecided | None,
) -> None:
    """Compare one table by reading both databases in key order. `undecided` is given for the ledger."""
    names, name = _compared_names(table), str(table.name)  # a str subclass, which orjson rejects as a key
    ours, theirs = _rows(table, live), _rows(table, rebuilt)
    one, other = await anext(ours, None), await anext(theirs, None)
    while one is not None or other is not None:
        found.rows[name] += 1
        if undecided is not None and one is not None and (other is None or one[0] <= other[0]):
            excuses.note_event(one[1])
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None  # noqa: S101  # for the type checker: the loop's condition
            await _note(found, excuses, table, RowDifference(name, one[0], {}, "live"), one[1], None, undecided)
            one = await anext(ours, None)
        elif one is None or other[0] < one[0]:
            await _note(found, excuses, table, RowDifference(name, other[0], {}, "rebuilt"), None, other[1], undecided)
            other = await anext(theirs, None)
        else:
            columns = differing(names, one[1], other[1])
            if columns and all(_is_pruned(name, one[1]) for name in columns):
                found.excused.setdefault(PRUNED, Counter())[name] += 1
            elif columns:
                await _note(found, excuses, table, RowDifference(name, one[0], columns), one[1], other[1], undecided)
            one, other = await anext(ours, None), await anext(theirs, None)


async def _note(
    found: DatabaseDiff,
    excuses: Excuses,
    table: Table,
    difference: RowDifference,
    live: Row | None,
    rebuilt: Row | None,
    undecided: Undecided | None,
) -> None:
    if table is tables.payment_links:
        await excuses.find_objects()
    reason = excuses.of_row(table, live, is_live=True) if live is not None else None
    if live is None and rebuilt is not None and excuses.is_deleted(table, rebuilt):
        reason = PRUNED
    if reason is None and rebuilt is not None:
        reason = excuses.of_row(table, rebuilt, is_live=False)
    if reason is None and undecided is not None:
        undecided.add(difference, live, rebuilt)
    else:
        found.add(difference, reason)


def differing(names: list[str], live: Row, rebuilt: Row) -> dict[str, tuple[Any, Any]]:
    """Returns the values of the columns that differ, the live one first."""
    return {
        name: (live[name], rebuilt[name])
        for name in names
        if live[name] != rebuilt[name] and not _is_filled(name, live, rebuilt)
    }


def _is_filled(name: str, live: Row, rebuilt: Row) -> bool:
    """Whether the dispatcher filled in the column: it stores a mail's recipient of that time when it sends it."""
    return name == "recipient" and (rebuilt[name] is None or live.get("status") == "sent")


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
