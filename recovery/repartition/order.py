"""The order of each customer's events as one digest per key, so that two readings of any length can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from schemas.record import Record

_BYTES = 16


class KeyOrder:
    """The sequence of records of each key. Two are equal if each key has the same records in the same order.

    Records without a key have no order and are only counted.
    """

    def __init__(self) -> None:
        self.records = 0
        self._digests: dict[bytes, bytes] = {}
        self._partitions: dict[bytes, int] = {}
        self.scattered: set[bytes] = set()
        """Keys with records in more than one partition."""

    @property
    def keys(self) -> int:
        return len(self._digests)

    def add(self, records: Iterable[Record]) -> None:
        """Appends records, which must be in the order of their partition."""
        for record in records:
            self.records += 1
            if record.key is None:
                continue
            digest = hashlib.blake2b(self._digests.get(record.key, b""), digest_size=_BYTES)
            for name, value in record.raw_headers:
                digest.update(b"%d:%d:" % (len(name), len(value)) + name.encode() + value)
            digest.update(b"-" if record.value is None else b"+" + record.value)
            self._digests[record.key] = digest.digest()
            if self._partitions.setdefault(record.key, record.partition) != record.partition:
                self.scattered.add(record.key)

    def differing(self, other: KeyOrder) -> int:
        """Returns the number of keys whose records are not the same, in the same order."""
        return sum(
            self._digests.get(key) != other._digests.get(key) for key in self._digests.keys() | other._digests.keys()
        )
