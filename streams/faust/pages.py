"""The ids of settled events in pages: what a worker remembers, writes and forgets. No Faust, no clock.

    settled ids ─▶ open page of the partition ─▶ written every 30 s, or when it is full ─▶ closed page ─▶ expired

A partition has one open page. It takes the ids of many batches and is written again under its own key, and Kafka's
compaction removes the older versions. It is closed with 512 ids, or an hour after its first one. So the number of pages
depends neither on the rate of the events nor on the size of the batches: at most one for each partition and hour, and
one for each 512 ids.

A crash loses the ids of the last half minute. Their events are in the ledger, which decides (behaviours.md D1).
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from streams.faust.id_set import IdSet

PAGE_IDS = 512
"""Ids with which a page is closed. Twice as many would halve the pages and double the bytes written for each id."""
PAGE_SPAN_S = 3600
"""Seconds after which a page is closed. Its ids are forgotten together, so the first ones are kept this much longer."""
WRITE_AFTER_S = 30.0
"""Longest time for which an id is only in memory."""

_FORGET_IDS, _FORGET_PAGES = 20_000, 200
"""Most that one call of `expire` removes: 20 ms of work on the worker's event loop."""

Write = tuple[int, str, bytes | None]
"""Partition, key and content of a page. None as the content deletes it."""


@dataclass(slots=True)
class _OpenPage:
    key: str
    opened_at: int
    ids: list[bytes]
    unwritten_since: float | None = None

    def content(self) -> bytes:
        return encode_page(self.opened_at, self.ids)

    def is_full(self, now: float) -> bool:
        return len(self.ids) >= PAGE_IDS or now - self.opened_at >= PAGE_SPAN_S


class SettledPages:
    """The ids that a worker knows as settled, by partition. Times are seconds since the epoch."""

    def __init__(self, *, horizon_s: float) -> None:
        self._horizon_s = horizon_s
        self._ids: dict[int, IdSet] = defaultdict(IdSet)
        self._open: dict[int, _OpenPage] = {}
        self._written: dict[int, dict[str, bytes]] = defaultdict(dict)
        """Content of each page by key, as it was last written or recovered."""
        self._by_age: dict[int, list[tuple[int, str]]] = defaultdict(list)
        """A heap of (opened at, key) for each partition."""

    def __len__(self) -> int:
        return sum(map(len, self._ids.values()))

    @property
    def pages(self) -> int:
        return sum(map(len, self._by_age.values()))

    def knows(self, partition: int, event_id: str) -> bool:
        ids = self._ids.get(partition)
        return ids is not None and event_id.encode() in ids

    def add(self, partition: int, first_offset: int, event_ids: Iterable[str], now: float) -> Iterator[Write]:
        """Remembers the ids; yields the pages to write at once. `first_offset` is the batch's first one."""
        known = self._ids[partition]
        new = [name for name in map(str.encode, event_ids) if b"\n" not in name and known.add(name)]
        if not new:
            return
        page = self._open.get(partition)
        if page is None:
            page = self._open[partition] = self._begin(partition, first_offset, int(now))
        page.ids += new
        if page.unwritten_since is None:
            page.unwritten_since = now
        if page.is_full(now):
            yield self._write(partition, page)
            del self._open[partition]

    def due(self, now: float, *, after_s: float = WRITE_AFTER_S) -> Iterator[Write]:
        """Yields the open pages with ids that are unwritten for `after_s`, and closes those that are old."""
        for partition, page in list(self._open.items()):
            is_full = page.is_full(now)
            since = page.unwritten_since
            if since is not None and (is_full or not 0 <= now - since < after_s):
                yield self._write(partition, page)
            if is_full:
                del self._open[partition]

    def recover(self, partition: int, key: str, content: bytes) -> int:
        """Takes over a page that was read from the changelog; returns the number of ids that were read."""
        page, known = self._open.get(partition), self._ids[partition]
        before = self._written[partition].get(key)
        if before == content or (page is not None and page.key == key):
            return 0
        opened_at, names = decode_page(content)
        if before is None:
            heapq.heappush(self._by_age[partition], (opened_at, key))
        else:
            for name in set(decode_page(before)[1]).difference(names):
                known.discard(name)
        for name in names:
            known.add(name)
        self._written[partition][key] = content
        return len(names)

    def reopen(self, now: float) -> None:
        """Continues the newest page of each partition that has none open, if there is room in it."""
        for partition, pages in self._by_age.items():
            if pages and partition not in self._open:
                opened_at, key = max(pages)
                page = _OpenPage(key, opened_at, decode_page(self._written[partition][key])[1])
                if not page.is_full(now):
                    self._open[partition] = page

    def expire(self, now: float) -> Iterator[Write]:
        """Forgets the oldest ids; yields the pages to delete. Looks only at pages that are past the horizon.

        One call removes a bounded number, so that it never blocks the event loop for long.
        """
        oldest = now - self._horizon_s - PAGE_SPAN_S
        ids_left, pages_left = _FORGET_IDS, _FORGET_PAGES
        for partition, pages in self._by_age.items():
            while pages and pages[0][0] < oldest and ids_left > 0 and pages_left > 0:
                _, key = heapq.heappop(pages)
                names = self._remove(partition, key)
                ids_left -= len(names)
                pages_left -= 1
                yield partition, key, None

    def drop(self, partition: int) -> Iterator[Write]:
        """Forgets all ids of the partition; yields its pages, to delete them."""
        for _, key in self._by_age.get(partition, ()):
            yield partition, key, None
        self.leave(partition)

    def leave(self, partition: int) -> set[str]:
        """Forgets the partition without deleting its pages, because another worker has it; returns their keys."""
        keys = {key for _, key in self._by_age.pop(partition, ())}
        for of_partition in (self._ids, self._open, self._written):
            of_partition.pop(partition, None)
        return keys

    @property
    def partitions(self) -> set[int]:
        return set(self._ids)

    def _begin(self, partition: int, first_offset: int, now: int) -> _OpenPage:
        key = f"{partition}:{first_offset}"
        taken = {other for _, other in self._by_age[partition]}
        while key in taken:  # the same offset was read again after a crash, with further ids
            key += "+"
        heapq.heappush(self._by_age[partition], (now, key))
        return _OpenPage(key, now, [])

    def _write(self, partition: int, page: _OpenPage) -> Write:
        content = page.content()
        self._written[partition][page.key] = content
        page.unwritten_since = None
        return partition, page.key, content

    def _remove(self, partition: int, key: str) -> list[bytes]:
        page = self._open.get(partition)
        content = self._written[partition].pop(key, b"0")
        names = decode_page(content)[1]
        if page is not None and page.key == key:
            names = self._open.pop(partition).ids
        for name in names:
            self._ids[partition].discard(name)
        return names


def partition_of(key: str) -> int:
    """Returns the partition that the page belongs to."""
    return int(key.partition(":")[0])


def encode_page(opened_at: int, ids: Iterable[bytes]) -> bytes:
    """Returns `{seconds since the epoch}\\n{id}\\n{id}…`. Earlier versions wrote one such page for each batch."""
    return b"\n".join([str(opened_at).encode(), *ids])


def decode_page(content: bytes) -> tuple[int, list[bytes]]:
    """Returns when the page was opened, in seconds since the epoch, and its ids."""
    opened_at, *ids = content.split(b"\n")
    return int(opened_at), ids
