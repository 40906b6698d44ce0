"""How far the consumer groups are behind, in records and seconds, with an hour of history in memory.

The seconds are the age of the record at the committed offset, by its Kafka timestamp: the header `received_at` of a
replayed event can be days old.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import structlog

from console.unread import UnreadEvents, spans_of
from eventlog.groups import Groups
from eventlog.lag import GroupPosition, GroupPositions
from eventlog.lookup import RecordLookup
from eventlog.unread import Unread
from schemas.errors import LogUnavailable
from schemas.settings import Settings

log = structlog.get_logger(__name__)

_KEEP_S = 3600.0
_EVERY_S = 15.0
_FRESH_S, _SHOWN_S = 3.0, 20.0
"""Seconds after which a page causes a new reading, and for which it shows the last one instead of waiting for Kafka."""

_TIMEOUT_S = 4.0


@dataclass(frozen=True, slots=True)
class Behind:
    """One partition: what is committed, the end of the log, and the age in seconds of the next record, 0 at the end.

    `owner` is the member of the group that reads it, '' without one, None if that is not known.
    """

    partition: int
    committed: int
    end: int
    seconds: float | None
    owner: str | None

    @property
    def records(self) -> int:
        return self.end - self.committed


class Lag:
    """Reads the positions of the worker's group. Clients are made on first use and stay open."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.group = f"{settings.topic_prefix}.worker"
        self._positions: GroupPositions | None = None
        self._records: RecordLookup | None = None
        self._reading: asyncio.Task[list[Behind]] | None = None
        self._last: tuple[float, list[Behind]] | None = None
        self._groups: Groups | None = None
        self._owners: tuple[float, dict[int, str] | None] = (0.0, None)
        self._unread = UnreadEvents(settings)
        self._history: deque[tuple[float, dict[int, int], int]] = deque(maxlen=int(_KEEP_S / _EVERY_S))

    async def read(self) -> list[Behind]:
        """Returns the partitions. Raises LogUnavailable if no broker answers. Answers within three seconds are kept.

        The clients are for one thread. So there is one reading at a time, which goes on if its caller is cancelled.
        """
        if not self._is_reading() and self._last is not None and self._age() < _FRESH_S:
            return self._last[1]
        return await asyncio.shield(self._begin())

    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    def _age(self) -> float:
        return time.monotonic() - self._last[0] if self._last is not None else math.inf

    def _begin(self) -> asyncio.Task[list[Behind]]:
        """Returns the reading that is running, or begins one."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._note())
            self._reading.add_done_callback(_retrieved)
        return self._reading

    async def _note(self) -> list[Behind]:
        found = await asyncio.to_thread(self._read)
        now = time.monotonic()
        self._last = (now, found)
        if not self._history or now - self._history[-1][0] >= _EVERY_S:
            committed = {one.partition: one.committed for one in found}
            self._history.append((now, committed, sum(one.records for one in found)))
        return found

    async def unread(self) -> Unread:
        """Returns whose events wait in the partitions that are behind by ten seconds or more. Raises LogUnavailable."""
        found = await self._shown()
        return await self._unread.read(spans_of((one.partition, one.committed, one.end, one.seconds) for one in found))

    async def _shown(self) -> list[Behind]:
        """Returns the partitions as they were at most 20 seconds ago."""
        if self._last is None or self._age() >= _SHOWN_S:
            return await self.read()
        if self._age() >= _FRESH_S:
            self._begin()
        return self._last[1]

    async def data(self) -> list[dict[str, Any]]:
        """Returns the partitions for a page, as they were at most 20 seconds ago. Raises LogUnavailable."""
        found = await self._shown()
        rates = self.rates()
        return [
            {"partition": one.partition, "committed": one.committed, "end": one.end, "records": one.records,
             "seconds": one.seconds, "owner": one.owner, "per_second": rates.get(one.partition)}
            for one in found
        ]  # fmt: skip

    async def watch(self) -> None:
        """Reads every 15 seconds until cancelled, for the history. An outage leaves a gap."""
        while True:
            with contextlib.suppress(LogUnavailable):  # the page shows it; the history has a gap
                await self.read()
            await asyncio.sleep(_EVERY_S)

    def history(self) -> list[tuple[float, int]]:
        """Returns (seconds ago, records behind), the oldest first."""
        now = time.monotonic()
        return [(now - at, records) for at, _, records in self._history]

    def rates(self) -> dict[int, float]:
        """Returns the committed records per second of each partition lately, {} without enough history."""
        if len(self._history) < 2:
            return {}
        at, newest, _ = self._history[-1]
        began, oldest, _ = next(one for one in self._history if at - one[0] <= 300.0)
        seconds = at - began
        return {one: (newest[one] - oldest.get(one, newest[one])) / seconds for one in newest} if seconds > 0 else {}

    def per_second(self) -> float | None:
        """Returns the committed records per second over the last minutes, None without enough history."""
        rates = self.rates()
        return sum(rates.values()) if rates else None

    def eta_s(self, records: int) -> float | None:
        """Returns the seconds until `records` are read at the present rate, None if it is not known."""
        rate = self.per_second()
        return records / rate if rate and records else None

    async def close(self) -> None:
        """Closes the clients, after the readings that use them."""
        await self._unread.close()
        if self._reading is not None:
            await asyncio.wait({self._reading})
        if self._positions is not None:
            await asyncio.to_thread(self._positions.close)
        if self._records is not None:
            await asyncio.to_thread(self._records.__exit__, None, None, None)

    def _read(self) -> list[Behind]:
        settings = self._settings
        if self._positions is None:
            self._positions = GroupPositions(settings.kafka, self.group, settings.events_topic, timeout_s=_TIMEOUT_S)
        positions = self._positions.read()
        if positions is None:
            raise LogUnavailable("no broker answers, or the group's coordinator is starting")
        if self._records is None:
            self._records = RecordLookup(settings.kafka, settings.events_topic)
        try:
            owners = self._read_owners()
            return [
                self._behind(self._records, *one, None if owners is None else owners.get(one[0], ""))
                for one in sorted(positions.items())
            ]
        finally:
            self._records.rest()

    def _read_owners(self) -> dict[int, str] | None:
        """Returns the readers of the partitions, at most 15 seconds old. None if the group is not described."""
        at, found = self._owners
        if self._groups is None or time.monotonic() - at > _EVERY_S:
            self._groups = self._groups or Groups(self._settings.kafka)
            try:
                found = self._groups.owners(self.group, self._settings.events_topic)
            except LogUnavailable as error:
                log.warning("console.owners_unknown", action="console.owners_unknown", error=str(error))
                found = None
            self._owners = (time.monotonic(), found)
        return found

    @staticmethod
    def _behind(records: RecordLookup, partition: int, position: GroupPosition, owner: str | None) -> Behind:
        seconds: float | None = 0.0
        if position.lag > 0:
            message = records.read(partition, position.committed)
            at = message.timestamp()[1] if message is not None else 0
            seconds = max(time.time() - at / 1000, 0.0) if at else None
        return Behind(partition, position.committed, position.end, seconds, owner)


def _retrieved(reading: asyncio.Task[list[Behind]]) -> None:
    """Takes the error of a reading whose callers have gone, so that asyncio does not report it as lost."""
    if not reading.cancelled():
        reading.exception()
