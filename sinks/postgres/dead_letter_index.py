"""Reads and updates the index of the dead-letter topic for `billing dead` and for replays.

    open ──▶ replayed ──▶ resolved (by the worker, when the event is settled)
      └────▶ discarded

A replayed letter that dies again is a new row. Its `replay_of` names the letter it was replayed from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from pydantic import SecretStr
from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    any_,
    bindparam,
    cast,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.errors import BillingError
from schemas.verdict import SETTLED
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.failures import classified
from sinks.postgres.outboxes import ERASED
from sinks.postgres.pool import make_engine
from sinks.postgres.tables import audit_log, dead_letters, events

_REPLAYS_ID = 0x7265706C6179  # "replay"

Key = tuple[str, str, int, int]
Place = tuple[str, int, int, int]
"""Topic, partition, first offset and offset: where a letter is in log order."""


class ReplayUnderWay(BillingError):
    """Another replay is running; two at once would mix up the order of a customer's events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedLetter:
    """One row of `dead_letters`. `first_offset` is where its event first died in its partition. Times are UTC."""

    consumer_group: str
    topic: str
    partition: int
    offset: int
    event_id: str | None
    type: str | None
    stream: str | None
    account: str
    customer_id: str | None
    stage: str
    error_class: str
    message: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    code_version: str
    dead_partition: int | None
    dead_offset: int | None
    status: str
    closed_at: datetime | None
    closed_by: str | None
    replay_of: str | None
    replay_begun_at: datetime | None
    top_frame: str
    first_offset: int

    @property
    def key(self) -> Key:
        return (self.consumer_group, self.topic, self.partition, self.offset)

    @property
    def place(self) -> Place:
        """The place in the order of DeadLetterIndex.find."""
        return (self.topic, self.partition, self.first_offset, self.offset)

    @property
    def dead_place(self) -> tuple[int, int] | None:
        """Partition and offset in the dead-letter topic, or None if the row has no position there."""
        if self.dead_partition is None or self.dead_offset is None:
            return None
        return self.dead_partition, self.dead_offset


NO_FRAME = "-"
"""The name of no frame in a filter: an empty value there does not restrict the selection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Selects letters. Empty fields do not restrict the selection.

    `since` and `until` (exclusive) compare with the time of the last failure. `places` are (partition, offset) in the
    dead-letter topic. `born_since` compares with the first failure of the event over all its letters, so an event that
    keeps dying leaves that window after a while. `frame` is compared as a whole; NO_FRAME selects letters without one.
    `limit` None is no limit.
    """

    ids: tuple[str, ...] = ()
    places: tuple[tuple[int, int], ...] = ()
    types: tuple[str, ...] = ()
    customer: str | None = None
    error: str | None = None
    frame: str | None = None
    stream: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    born_since: datetime | None = None
    statuses: tuple[str, ...] = ()
    limit: int | None = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptEvent:
    """An event as stored in the ledger. `payload` is JSON text: the content as received, but not the same bytes."""

    event_id: str
    type: str
    account: str
    livemode: bool
    api_version: str | None
    endpoint: str | None
    received_at: datetime | None
    outcome: str
    partition: int | None
    offset: int | None
    payload_pruned_at: datetime | None
    """When `billing prune` ended the payload (UTC)."""
    payload_place: str | None
    payload_key: bytes | None = field(repr=False)
    """Both for a payload in the archive (sinks/payloads/)."""
    payload: str | None = field(repr=False)


class DeadLetterIndex:
    """The index, read and written over one connection. Every method raises StoreUnavailable."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, url: SecretStr, *, application: str = "billing-ops") -> AsyncIterator[DeadLetterIndex]:
        """Opens an autocommit connection and closes it at the end of the block. Raises InvalidSettings."""
        engine = make_engine(url, application=application, own_session=True)
        with classified():
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                yield cls(connection)

    @asynccontextmanager
    async def replaying(self) -> AsyncIterator[None]:
        """Allows one replay at a time. The session holds the lock, so a crash releases it. Raises ReplayUnderWay."""
        with classified():
            if not await self._connection.scalar(select(func.pg_try_advisory_lock(_REPLAYS_ID))):
                raise ReplayUnderWay("another replay is running: wait for its end")
        try:
            yield
        finally:
            with classified():
                await self._connection.execute(select(func.pg_advisory_unlock(_REPLAYS_ID)))

    async def find(
        self, wanted: LetterFilter, *, newest_first: bool = False, after: Place | None = None
    ) -> list[IndexedLetter]:
        """Returns the matching letters in log order: within a partition, the event that died first comes first.

        `after` leaves out what is not behind this place in log order. `newest_first` orders them by the time of the
        last failure instead.
        """
        table = dead_letters
        earlier = dead_letters.alias("earlier")
        first_offset = (
            select(func.min(earlier.c.offset))
            .where(
                earlier.c.event_id == table.c.event_id,
                earlier.c.topic == table.c.topic,
                earlier.c.partition == table.c.partition,
            )
            .scalar_subquery()
        )
        first = func.coalesce(first_offset, table.c.offset).label("first_offset")
        query = select(table, first).where(_matching(wanted)).limit(wanted.limit)
        if after is not None:
            topic, partition, first_place, _ = after
            order = tuple_(
                table.c.topic, table.c.partition, func.coalesce(first_offset, table.c.offset), table.c.offset
            )
            # An index answers the first condition, which follows from the second: an event's first letter is the first.
            is_near = tuple_(table.c.topic, table.c.partition, table.c.offset) >= _place(topic, partition, first_place)
            query = query.where(is_near, order > _place(*after))
        if newest_first:
            query = query.order_by(table.c.last_failed_at.desc(), table.c.offset.desc())
        else:
            query = query.order_by(table.c.topic, table.c.partition, first, table.c.offset)
        return [_letter(row) for row in await self._all(query)]

    async def count(self, wanted: LetterFilter) -> int:
        """Returns how many letters match, regardless of `wanted.limit`."""
        with classified():
            return await self._connection.scalar(select(func.count()).where(_matching(wanted))) or 0

    async def summary(self, wanted: LetterFilter) -> dict[str, dict[str, int]]:
        """Returns the number of all matching letters `by_error`, `by_type` and `by_stream`, the most frequent first."""
        c = dead_letters.c
        keys = {"by_error": c.error_class + ": " + c.message, "by_type": c.type, "by_stream": c.stream}
        found: dict[str, dict[str, int]] = {}
        for name, key in keys.items():
            value, count = func.coalesce(key, "").label("value"), func.count().label("letters")
            columns: list[ColumnElement[Any]] = [value, count]
            query = select(*columns).where(_matching(wanted))
            query = query.group_by(value).order_by(count.desc(), value)
            found[name] = {row["value"]: row["letters"] for row in await self._all(query)}
        return found

    async def counts(self, wanted: LetterFilter) -> dict[str, int]:
        """Returns the number of letters by error, the most frequent first. At most `wanted.limit` letters count."""
        inner = select(dead_letters.c.error_class, dead_letters.c.message).where(_matching(wanted)).limit(wanted.limit)
        found = inner.subquery()
        count = func.count().label("letters")
        query = select(found.c.error_class, found.c.message, count).group_by(*found.c).order_by(count.desc(), *found.c)
        return {f"{row['error_class']}: {row['message']}": row["letters"] for row in await self._all(query)}

    async def close_settled(self, event_ids: Sequence[str]) -> set[str]:
        """Marks letters `resolved` if their events are settled now. Returns the ids of the settled events."""
        settled = select(events.c.event_id).where(_is_any(events.c.event_id, event_ids), events.c.outcome.in_(SETTLED))
        found = {row["event_id"] for row in await self._all(settled)}
        if found:
            closed = (
                update(dead_letters)
                .where(_is_any(dead_letters.c.event_id, sorted(found)), dead_letters.c.status.in_(("open", "replayed")))
                .values(status="resolved", closed_at=func.now())
            )
            with classified():
                await self._connection.execute(closed)
        return found

    async def begin(self, letters: Sequence[IndexedLetter]) -> None:
        """Stores when the replay began. Called before the append, so that a crash during the append is visible."""
        await self._set(letters, dead_letters.c.status != "resolved", replay_begun_at=func.now())

    async def mark_replayed(self, letters: Sequence[IndexedLetter], by: str) -> None:
        """Marks letters `replayed` after Kafka has them. Letters that the worker has resolved stay resolved."""
        await self._set(
            letters, dead_letters.c.status != "resolved", status="replayed", closed_at=func.now(), closed_by=by
        )

    async def discard(self, wanted: LetterFilter, by: str, entry: AuditEntry | None = None) -> int:
        """Marks open letters that match `discarded`, up to `wanted.limit`, and records `entry` in the same statement.

        Returns how many there were. Without any, nothing is recorded.
        """
        names = ("consumer_group", "topic", "partition", "offset")
        key = [dead_letters.c[name] for name in names]
        chosen = select(*key).where(_matching(wanted), dead_letters.c.status == "open")
        if wanted.limit is not None:
            chosen = chosen.order_by(*key[1:]).limit(wanted.limit)
        closed = (
            update(dead_letters)
            .where(tuple_(*key).in_(chosen), dead_letters.c.status == "open")
            .values(status="discarded", closed_at=func.now(), closed_by=by)
        )
        if entry is None:
            with classified():
                return (await self._connection.execute(closed)).rowcount
        done = closed.returning(dead_letters.c.offset).cte("done")
        number = select(func.count()).select_from(done).scalar_subquery()
        # The connection commits each statement, so one statement does both.
        values = {name: literal(value, audit_log.c[name].type) for name, value in entry.values().items()}
        row = select(*(values | {"count": number}).values()).where(number > 0)
        recorded = insert(audit_log).from_select(list(values), row).returning(audit_log.c.count)
        with classified():
            return (await self._connection.execute(recorded.add_cte(done))).scalar_one_or_none() or 0

    async def kept_events(self, event_ids: Sequence[str]) -> dict[str, KeptEvent]:
        """Returns these events as stored in the ledger, by id. Unknown ids are missing from the result."""
        return {row.event_id: row for row in await self._kept(_is_any(events.c.event_id, event_ids), len(event_ids))}

    async def unsettled_events(
        self, *, since: datetime | None, until: datetime | None, types: Sequence[str], limit: int
    ) -> list[KeptEvent]:
        """Returns waiting and dead events received in [since, until), in log order, at most `limit`."""
        narrowed: list[ColumnElement[bool]] = [events.c.outcome.in_(("waiting", "dead"))]
        if since is not None:
            narrowed.append(events.c.received_at >= since)
        if until is not None:
            narrowed.append(events.c.received_at < until)
        if types:
            narrowed.append(events.c.type.in_(types))
        return await self._kept(and_(*narrowed), limit)

    async def _kept(self, condition: ColumnElement[bool], limit: int) -> list[KeptEvent]:
        names = [column.name for column in fields(KeptEvent) if column.name != "payload"]
        payload = text("payload::text AS payload")
        query = select(*(events.c[name] for name in names), payload).where(condition)
        query = query.order_by(events.c.partition, events.c.offset, events.c.event_id).limit(limit)
        return [KeptEvent(**row) for row in await self._all(query)]

    async def _set(self, letters: Sequence[IndexedLetter], condition: ColumnElement[bool], **values: object) -> int:
        if not letters:
            return 0
        statement = update(dead_letters).where(_is_one_of(letters), condition).values(**values)
        with classified():
            return (await self._connection.execute(statement)).rowcount

    async def _all(self, query: Select[Any]) -> list[dict[str, Any]]:
        with classified():
            result = await self._connection.execute(query)
        return [{str(name): value for name, value in row.items()} for row in result.mappings()]


def _matching(wanted: LetterFilter) -> ColumnElement[bool]:
    c = dead_letters.c
    narrowed: list[ColumnElement[bool]] = [c.message != ERASED]  # erased letters must not be replayed
    if wanted.ids or wanted.places:
        places = _rows((c.dead_partition, c.dead_offset), wanted.places)
        narrowed.append(or_(_is_any(c.event_id, wanted.ids), tuple_(c.dead_partition, c.dead_offset).in_(places)))
    if wanted.types:
        narrowed.append(c.type.in_(wanted.types))
    if wanted.customer is not None:
        narrowed.append(c.customer_id == wanted.customer)
    if wanted.error is not None:
        # Matches the name of the error class, or part of the message.
        narrowed.append(or_(c.error_class == wanted.error, c.message.contains(wanted.error, autoescape=True)))
    if wanted.frame is not None:
        narrowed.append(c.top_frame == ("" if wanted.frame == NO_FRAME else wanted.frame))
    if wanted.stream is not None:
        narrowed.append(c.stream == wanted.stream)
    if wanted.since is not None:
        narrowed.append(c.last_failed_at >= wanted.since)
    if wanted.until is not None:
        narrowed.append(c.last_failed_at < wanted.until)
    if wanted.born_since is not None:
        other = dead_letters.alias("other")
        born_before = select(other.c.event_id).where(
            other.c.event_id == c.event_id, other.c.first_failed_at < bindparam("born_since", wanted.born_since)
        )
        narrowed.extend((c.first_failed_at >= wanted.born_since, ~born_before.exists()))
    if wanted.statuses:
        narrowed.append(c.status.in_(wanted.statuses))
    return and_(*narrowed)


def _is_one_of(letters: Sequence[IndexedLetter]) -> ColumnElement[bool]:
    columns = [dead_letters.c[name] for name in ("consumer_group", "topic", "partition", "offset")]
    return tuple_(*columns).in_(_rows(columns, [letter.key for letter in letters]))


def _is_any(column: ColumnElement[Any], values: Sequence[object]) -> ColumnElement[bool]:
    """Compares with one array: a statement takes 32,767 parameters at most."""
    return column == any_(literal(list(values), ARRAY(column.type)))


def _rows(columns: Sequence[ColumnElement[Any]], values: Sequence[Sequence[object]]) -> Select[Any]:
    """Returns rows as a query with one array per column."""
    arrays = [cast([row[at] for row in values], ARRAY(column.type)) for at, column in enumerate(columns)]
    names = [f"c{at}" for at in range(len(columns))]
    found = func.unnest(*arrays).table_valued(*names).render_derived()
    return select(*(found.c[name] for name in names))


def _place(*values: object) -> ColumnElement[Any]:
    return tuple_(*(literal(value) for value in values))


def _letter(row: dict[str, Any]) -> IndexedLetter:
    return IndexedLetter(**{column.name: row[column.name] for column in fields(IndexedLetter)})
