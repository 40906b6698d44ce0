"""Beside the flow: the index of the dead-letter topic, as `billing dead` and replays read and write it.

    open ──▶ replayed ──▶ resolved (by the worker, when the event is settled)
      └────▶ discarded

A letter that dies again is a new row, whose `replay_of` names the letter it was replayed from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from pydantic import SecretStr
from sqlalchemy import ColumnElement, Select, and_, bindparam, func, or_, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.errors import BillingError
from sinks.postgres.erasure import NOTE as ERASED
from sinks.postgres.failures import classified
from sinks.postgres.pool import make_engine
from sinks.postgres.tables import dead_letters, events

_REPLAYS_ID = 0x7265706C6179  # "replay"

Key = tuple[str, str, int, int]


class ReplayUnderWay(BillingError):
    """Another replay is running; two at once would mix up the order of a customer's events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedLetter:
    """One row. `first_offset` is where its event first died in its partition; times are UTC."""

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
    first_offset: int

    @property
    def key(self) -> Key:
        return (self.consumer_group, self.topic, self.partition, self.offset)

    @property
    def dead_place(self) -> tuple[int, int] | None:
        """Partition and offset in the dead-letter topic."""
        if self.dead_partition is None or self.dead_offset is None:
            return None
        return self.dead_partition, self.dead_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Which letters; what is empty does not narrow. Times are of the last failure, `until` excluded.

    `places` are (partition, offset) in the dead-letter topic. `born_since` is of the event's first failure ever: what
    keeps dying leaves that window by itself.
    """

    ids: tuple[str, ...] = ()
    places: tuple[tuple[int, int], ...] = ()
    types: tuple[str, ...] = ()
    customer: str | None = None
    error: str | None = None
    stream: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    born_since: datetime | None = None
    statuses: tuple[str, ...] = ()
    limit: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptEvent:
    """An event as the ledger keeps it; `payload` is JSON text, the same content in other bytes."""

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
    payload: str | None = field(repr=False)


class DeadLetterIndex:
    """One operator's connection. Everything raises StoreUnavailable."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, url: SecretStr, *, application: str = "billing-ops") -> AsyncIterator[DeadLetterIndex]:
        """Raises InvalidSettings."""
        engine = make_engine(url, application=application)
        with classified():
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                yield cls(connection)

    @asynccontextmanager
    async def replaying(self) -> AsyncIterator[None]:
        """One replay at a time: held by this session, so that a death ends it. Raises ReplayUnderWay."""
        with classified():
            if not await self._connection.scalar(select(func.pg_try_advisory_lock(_REPLAYS_ID))):
                raise ReplayUnderWay("another replay is running: wait for its end")
        try:
            yield
        finally:
            with classified():
                await self._connection.execute(select(func.pg_advisory_unlock(_REPLAYS_ID)))

    async def find(self, wanted: LetterFilter, *, newest_first: bool = False) -> list[IndexedLetter]:
        """In the order of the log: of each partition, the event that died first comes first."""
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
        asked = select(table, first).where(_matching(wanted)).limit(wanted.limit)
        if newest_first:
            asked = asked.order_by(table.c.last_failed_at.desc(), table.c.offset.desc())
        else:
            asked = asked.order_by(table.c.topic, table.c.partition, first, table.c.offset)
        return [_letter(row) for row in await self._all(asked)]

    async def counts(self, wanted: LetterFilter) -> dict[str, int]:
        """DeadLetterIndex by error, the most frequent first; the limit holds here too."""
        inner = select(dead_letters.c.error_class, dead_letters.c.message).where(_matching(wanted)).limit(wanted.limit)
        found = inner.subquery()
        count = func.count().label("letters")
        asked = select(found.c.error_class, found.c.message, count).group_by(*found.c).order_by(count.desc(), *found.c)
        return {f"{row['error_class']}: {row['message']}": row["letters"] for row in await self._all(asked)}

    async def close_settled(self, event_ids: Sequence[str]) -> set[str]:
        """Closes letters of events that are settled by now; returns those events' ids."""
        settled = select(events.c.event_id).where(
            events.c.event_id.in_(event_ids), events.c.outcome.in_(("applied", "ignored", "stale"))
        )
        found = {row["event_id"] for row in await self._all(settled)}
        if found:
            closed = (
                update(dead_letters)
                .where(dead_letters.c.event_id.in_(found), dead_letters.c.status.in_(("open", "replayed")))
                .values(status="resolved", closed_at=func.now())
            )
            with classified():
                await self._connection.execute(closed)
        return found

    async def begin(self, letters: Sequence[IndexedLetter]) -> None:
        """They are about to be appended: noted first, so that a crash behind it shows."""
        await self._set(letters, dead_letters.c.status != "resolved", replay_begun_at=func.now())

    async def mark_replayed(self, letters: Sequence[IndexedLetter], by: str) -> None:
        """The log has them. One that the worker has resolved meanwhile stays so."""
        await self._set(
            letters, dead_letters.c.status != "resolved", status="replayed", closed_at=func.now(), closed_by=by
        )

    async def discard(self, letters: Sequence[IndexedLetter], by: str) -> int:
        """Those that are open."""
        return await self._set(
            letters, dead_letters.c.status == "open", status="discarded", closed_at=func.now(), closed_by=by
        )

    async def kept_events(self, event_ids: Sequence[str]) -> dict[str, KeptEvent]:
        """What the ledger holds of these events, by id."""
        return {row.event_id: row for row in await self._kept(events.c.event_id.in_(event_ids), len(event_ids))}

    async def unsettled_events(
        self, *, since: datetime | None, until: datetime | None, types: Sequence[str], limit: int
    ) -> list[KeptEvent]:
        """Events that wait or are dead, received in that time, the oldest first."""
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
        asked = select(*(events.c[name] for name in names), payload).where(condition)
        asked = asked.order_by(events.c.partition, events.c.offset, events.c.event_id).limit(limit)
        return [KeptEvent(**row) for row in await self._all(asked)]

    async def _set(self, letters: Sequence[IndexedLetter], condition: ColumnElement[bool], **values: object) -> int:
        if not letters:
            return 0
        key = tuple_(*(dead_letters.c[name] for name in ("consumer_group", "topic", "partition", "offset")))
        statement = update(dead_letters).where(key.in_([letter.key for letter in letters]), condition).values(**values)
        with classified():
            return (await self._connection.execute(statement)).rowcount

    async def _all(self, asked: Select[Any]) -> list[dict[str, Any]]:
        with classified():
            result = await self._connection.execute(asked)
        return [{str(name): value for name, value in row.items()} for row in result.mappings()]


def _matching(wanted: LetterFilter) -> ColumnElement[bool]:
    c = dead_letters.c
    narrowed: list[ColumnElement[bool]] = [c.message != ERASED]  # nobody brings back what was erased
    if wanted.ids or wanted.places:
        narrowed.append(or_(c.event_id.in_(wanted.ids), tuple_(c.dead_partition, c.dead_offset).in_(wanted.places)))
    if wanted.types:
        narrowed.append(c.type.in_(wanted.types))
    if wanted.customer is not None:
        narrowed.append(c.customer_id == wanted.customer)
    if wanted.error is not None:
        # By name, or by a part of the message.
        narrowed.append(or_(c.error_class == wanted.error, c.message.contains(wanted.error, autoescape=True)))
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


def _letter(row: dict[str, Any]) -> IndexedLetter:
    return IndexedLetter(**{column.name: row[column.name] for column in fields(IndexedLetter)})
