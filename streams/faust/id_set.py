"""A set of event ids that needs about 40 bytes for each."""

from __future__ import annotations

_BUCKETS = 8192
"""A power of two. A bucket of a worker with a million ids in 12 partitions holds about ten."""


class IdSet:
    """Ids as bytes, without line feeds. A Python set would take 120 bytes for each.

    Ids with the same hash are in one bucket, a value of the form `\\n{id}\\n{id}\\n`. Adding, removing and looking up
    search one bucket, so they take less than a microsecond up to tens of millions of ids over all partitions.
    """

    __slots__ = ("_buckets", "_count")

    def __init__(self) -> None:
        self._buckets: list[bytes | None] = [None] * _BUCKETS
        self._count = 0

    def __contains__(self, event_id: bytes) -> bool:
        bucket = self._buckets[hash(event_id) % _BUCKETS]
        return bucket is not None and b"\n%b\n" % event_id in bucket

    def __len__(self) -> int:
        return self._count

    def add(self, event_id: bytes) -> bool:
        """Adds the id; returns whether it was missing."""
        number = hash(event_id) % _BUCKETS
        bucket = self._buckets[number]
        if bucket is None:
            self._buckets[number] = b"\n%b\n" % event_id
        elif b"\n%b\n" % event_id in bucket:
            return False
        else:
            self._buckets[number] = b"%b%b\n" % (bucket, event_id)
        self._count += 1
        return True

    def discard(self, event_id: bytes) -> None:
        """Removes the id if it is present."""
        number = hash(event_id) % _BUCKETS
        bucket = self._buckets[number]
        entry = b"\n%b\n" % event_id
        if bucket is None or entry not in bucket:
            return
        left = bucket.replace(entry, b"\n", 1)
        self._buckets[number] = left if left != b"\n" else None
        self._count -= 1
