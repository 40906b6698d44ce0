"""Lets consumers read records whose header names are not UTF-8.

Kafka takes any bytes as a name, and some clients write them. aiokafka raises UnicodeDecodeError, and again after each
start: one such record would stop its partition for good. Here its names get U+FFFD for what is not UTF-8. Names only
describe a record, so nothing depends on them.
"""

from __future__ import annotations

from typing import Any

from aiokafka.consumer import fetcher  # type: ignore[import-untyped]  # aiokafka ships no types
from aiokafka.record.default_records import _DefaultRecordBatchPy  # type: ignore[import-untyped]  # as above
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy  # type: ignore[import-untyped]  # as above


def read_any_header_name() -> None:
    """Makes every aiokafka consumer of this process read such records. It has no setting for that."""
    for name, ours in (("MemoryRecords", FetchedRecords), ("PartitionRecords", PartitionRecords)):
        setattr(fetcher, name, ours)


class FetchedRecords:
    """The batches that were fetched of one partition, with their bytes, so that they can be read a second time."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._batches: Any = MemoryRecords(data)
        self._read = 0

    def size_in_bytes(self) -> int:
        return int(self._batches.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._batches.has_next())

    def next_batch(self) -> Any:
        self._read += 1
        return self._batches.next_batch()

    def again(self) -> Any:
        """Returns the batches from the last one that was read, with any names."""
        rest = _AnyNames(self._data)
        for _ in range(self._read - 1):
            rest.next_batch()
        return rest


class PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka's fetcher has no types
    """The records of a fetch. After such a name the rest is read by Python code, which is slower but can be changed."""

    _records: Any

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except UnicodeDecodeError:
            if not isinstance(self._records, FetchedRecords):
                raise
        self._records = self._records.again()
        self._records_iterator = self._unpack_records()  # it leaves out the records before `next_fetch_offset`
        return super().__next__()


class _AnyNames(_MemoryRecordsPy):  # type: ignore[misc]  # final in aiokafka, whose version is pinned
    def next_batch(self, *_: Any) -> Any:
        data = self._next_slice
        batch = super().next_batch()
        if batch is None or data is None or batch.magic < 2:  # older formats have no headers
            return batch
        return _Batch(bytes(data))


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]  # as above
    _buffer: Any

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Bytes(self._buffer)


class _Bytes(bytearray):
    """Bytes whose parts can always be decoded."""

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        return _Bytes(part) if isinstance(at, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)
