"""Remembers settled events in a changelog-backed Faust table: the fast check for duplicates, before Postgres.

Checked before Postgres, marked after the commit (behaviours.md D1). If it is lost, processing is slower; the ledger is
the authority. One table entry is a page of ids (streams/faust/pages.py).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import faust

from streams.faust.pages import SettledPages, Write, partition_of

_RECOVERED_AT_ONCE = 20_000
"""Ids that are indexed before other tasks may run: about 20 ms."""


class SeenEvents:
    """The set of (partition, event id). Call `keep_house` regularly: it writes pages, and forgets after `horizon_s`."""

    def __init__(self, app: faust.App, partitions: int, *, horizon_s: float) -> None:
        self.table: Any = app.Table(
            "seen",
            key_type=str,
            value_type=bytes,
            partitions=partitions,
            help="pages of settled event ids",
            on_recover=self._recovered,
            extra_topic_configs={"cleanup.policy": "compact"},  # streams/faust/changelog.py creates the topic
        )
        self._pages = SettledPages(horizon_s=horizon_s)
        self._unconfirmed: deque[tuple[float, Any]] = deque()

    def __contains__(self, place: tuple[int, str]) -> bool:
        return self._pages.knows(*place)

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def changelog(self) -> str:
        """The changelog topic of the table."""
        return str(self.table.changelog_topic.get_topic_name())

    def mark(self, partition: int, first_offset: int, event_ids: Iterable[str]) -> None:
        """Remembers ids that are settled in Postgres. A full page is sent without waiting for the brokers."""
        self._send(self._pages.add(partition, first_offset, event_ids, time.time()))

    def keep_house(self) -> None:
        """Writes the pages that are due and forgets the oldest ids. Takes some milliseconds; call it every second."""
        now = time.time()
        self._send(self._pages.due(now))
        self._send(self._pages.expire(now))

    def write_all(self) -> None:
        """Sends every page with unwritten ids, before the partitions move or the worker stops."""
        self._send(self._pages.due(time.time(), after_s=0))

    def sent_and_unconfirmed_since(self) -> float | None:
        """Monotonic time of the oldest page without a confirmation by the brokers, or None. Safe from any thread."""
        return next((at for at, sent in list(self._unconfirmed) if not sent.done()), None)

    def drop(self, partitions: set[int]) -> None:
        """Forgets all ids of these partitions, here and on the changelog, although they are not old."""
        for partition in partitions:
            self._send(self._pages.drop(partition))

    def keep_only(self, partitions: set[int]) -> None:
        """Drops the pages and ids of partitions that are not in `partitions`."""
        for partition in self._pages.partitions - partitions:
            for key in self._pages.leave(partition):
                self.table.data.pop(key, None)

    def _send(self, writes: Iterable[Write]) -> None:
        """Changes table and changelog. Not `table[key] = page`: that uses the partition of the event read last."""
        for partition, key, page in writes:
            if page is None:
                self.table.data.pop(key, None)
                sent = self.table.send_changelog(partition, key, None, value_serializer="raw")
            else:
                self.table.data[key] = page
                sent = self.table.send_changelog(partition, key, page)
            self._note_sent(sent)

    def _note_sent(self, sent: Any) -> None:
        while self._unconfirmed and self._unconfirmed[0][1].done():
            self._unconfirmed.popleft()
        self._unconfirmed.append((time.monotonic(), sent))

    async def _recovered(self) -> None:
        """Adds the recovered pages to the index, and continues the last one of each partition."""
        count = 0
        for key, page in list(self.table.data.items()):
            if page:
                count += 1 + self._pages.recover(partition_of(key), key, page)
            if count >= _RECOVERED_AT_ONCE:
                count = 0
                await asyncio.sleep(0)
        self._pages.reopen(time.time())
