"""Remembers settled events in a changelog-backed Faust table: the fast check for duplicates, before Postgres.

Checked before Postgres, marked after the commit (behaviours.md D1). If it is lost, processing is slower; the ledger is
the authority.

One table entry is a page: the ids that one batch settled in one partition, under `partition:first offset`. That is one
changelog record per batch and partition instead of one per event. Look-ups use an index of ids. It is rebuilt from the
pages after a rebalance and dropped with its partition.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

import faust


class SeenEvents:
    """The set of (partition, event id). Call `forget_old` regularly; it removes entries older than `horizon_s`."""

    def __init__(self, app: faust.App, partitions: int, *, horizon_s: float) -> None:
        self.table: Any = app.Table(
            "seen",
            key_type=str,
            value_type=bytes,
            partitions=partitions,
            help="pages of settled event ids",
            on_recover=self._recovered,
            extra_topic_configs={"cleanup.policy": "compact"},
        )
        self._app = app
        self._horizon_s = horizon_s
        self._pages: dict[int, set[str]] = defaultdict(set)
        self._ids: dict[int, set[str]] = defaultdict(set)
        self._unconfirmed: deque[tuple[float, Any]] = deque()

    def __contains__(self, place: tuple[int, str]) -> bool:
        partition, event_id = place
        ids = self._ids.get(partition)
        return ids is not None and event_id in ids

    def __len__(self) -> int:
        return sum(map(len, self._ids.values()))

    @property
    def changelog(self) -> str:
        """The changelog topic of the table."""
        return str(self.table.changelog_topic.get_topic_name())

    def mark(self, partition: int, first_offset: int, event_ids: Iterable[str]) -> None:
        """Remembers ids that are settled in Postgres. Sends them to the changelog without waiting for the brokers."""
        ids = list(event_ids)
        if not ids:
            return
        key = f"{partition}:{first_offset}"
        if key in self._pages[partition]:  # read again after a crash in different chunks: keep the page's ids
            ids = list(dict.fromkeys([*_decode(self.table.data[key])[1], *ids]))
        page = encode_page(int(time.time()), ids)
        # Not `table[key] = page`: that uses the partition of the event read last, which may be from a later batch.
        self.table.data[key] = page
        self._note_sent(self.table.send_changelog(partition, key, page))
        self._pages[partition].add(key)
        self._ids[partition].update(ids)

    def sent_and_unconfirmed_since(self) -> float | None:
        """Monotonic time of the oldest page without a confirmation by the brokers, or None. Safe from any thread."""
        return next((at for at, sent in list(self._unconfirmed) if not sent.done()), None)

    def _note_sent(self, sent: Any) -> None:
        while self._unconfirmed and self._unconfirmed[0][1].done():
            self._unconfirmed.popleft()
        self._unconfirmed.append((time.monotonic(), sent))

    def forget_old(self) -> int:
        """Deletes pages older than the horizon, here and on the changelog; returns how many."""
        oldest = time.time() - self._horizon_s
        old = [
            (partition, key)
            for partition, keys in self._pages.items()
            for key in keys
            if _written_at(self.table.data[key]) < oldest
        ]
        for partition, key in old:
            self._ids[partition].difference_update(_decode(self.table.data[key])[1])
            self._pages[partition].discard(key)
            del self.table.data[key]
            self.table.send_changelog(partition, key, None, value_serializer="raw")
        return len(old)

    def drop(self, partitions: set[int]) -> None:
        """Forgets all ids of these partitions, here and on the changelog, although they are not old."""
        for partition in partitions:
            for key in self._pages.pop(partition, set()):
                self.table.data.pop(key, None)
                self._note_sent(self.table.send_changelog(partition, key, None, value_serializer="raw"))
            self._ids.pop(partition, None)

    def keep_only(self, partitions: set[int]) -> None:
        """Drops the pages and ids of partitions that are not in `partitions`."""
        for partition in self._pages.keys() - partitions:
            for key in self._pages.pop(partition):
                self.table.data.pop(key, None)
            self._ids.pop(partition, None)

    async def _recovered(self) -> None:
        """Adds the recovered pages to the index."""
        for key, page in list(self.table.data.items()):
            partition = int(key.partition(":")[0])
            if page and key not in self._pages[partition]:
                self._pages[partition].add(key)
                self._ids[partition].update(_decode(page)[1])


def encode_page(written_at: int, ids: list[str]) -> bytes:
    """Returns `{seconds since the epoch}\\n{id}\\n{id}…`. Ids contain no line feed; the gateway checks that."""
    return "\n".join([str(written_at), *ids]).encode()


def _decode(page: bytes) -> tuple[int, list[str]]:
    written_at, *ids = page.decode().split("\n")
    return int(written_at), ids


def _written_at(page: bytes) -> int:
    """The page's time (epoch seconds). Skips the ids: this runs on the event loop for all pages every half minute."""
    return int(page[: page.index(b"\n")])
