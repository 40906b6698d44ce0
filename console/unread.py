"""Whose events wait on the log while the worker is behind, kept for the pages that show what waits for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

from eventlog.threads import in_thread
from eventlog.unread import NONE, Unread, unread_events
from schemas.settings import Settings

BEHIND_S = 10.0
"""Seconds behind which a partition's unread events count. A worker that keeps up has some at each moment."""

_FRESH_S, _SHOWN_S = 15.0, 60.0
"""Seconds for which the log is not read again, and for which a page shows the last reading instead of waiting."""


class UnreadEvents:
    """Reads the log once for all pages, and not at all while no partition is behind."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._last: tuple[float, Unread] | None = None
        self._reading: asyncio.Task[Unread] | None = None

    async def read(self, spans: Mapping[int, tuple[int, int]]) -> Unread:
        """Returns the unread events of these spans (eventlog/unread.py), as they were at most a minute ago.

        Raises LogUnavailable.
        """
        if not spans:
            self._last = None
            return NONE
        age = time.monotonic() - self._last[0] if self._last is not None else _SHOWN_S
        if self._last is None or age >= _SHOWN_S:
            return await asyncio.shield(self._begin(spans))
        if age >= _FRESH_S:
            self._begin(spans)
        return self._last[1]

    async def close(self) -> None:
        """Waits for the reading that is running, at most some seconds."""
        if self._reading is not None:
            await asyncio.wait({self._reading})

    def _begin(self, spans: Mapping[int, tuple[int, int]]) -> asyncio.Task[Unread]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(dict(spans)))
            self._reading.add_done_callback(_retrieved)
        return self._reading

    async def _read(self, spans: Mapping[int, tuple[int, int]]) -> Unread:
        found = await in_thread(unread_events, self._settings.kafka, self._settings.events_topic, spans)
        self._last = (time.monotonic(), found)
        return found


def spans_of(behind: Iterable[tuple[int, int, int, float | None]]) -> dict[int, tuple[int, int]]:
    """Returns the unread offsets of partitions that are behind by ten seconds or more, or by a time that is not known.

    Takes `partition`, `committed`, `end`, and the seconds behind.
    """
    return {
        partition: (committed, end)
        for partition, committed, end, seconds in behind
        if committed < end and (seconds is None or seconds >= BEHIND_S)
    }


def _retrieved(reading: asyncio.Task[Unread]) -> None:
    """Takes the error of a reading whose callers have gone: the next page reads again and shows it."""
    if not reading.cancelled():
        reading.exception()
