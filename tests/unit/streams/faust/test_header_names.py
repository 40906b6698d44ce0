"""A record whose header names are not UTF-8 is read, and so is what comes after it (trust T1)."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import TopicPartition  # type: ignore[import-untyped]  # aiokafka ships no types
from aiokafka.consumer import fetcher  # type: ignore[import-untyped]  # as above

from streams.faust.header_names import read_any_header_name
from tests.kits.oddheaders import batch

_PLACE = TopicPartition("billing.events", 0)
_GZIP = 1


def read(data: bytes, start: int = 0) -> list[Any]:
    records = fetcher.MemoryRecords(data)
    return list(fetcher.PartitionRecords(_PLACE, records, [], start, None, None, True, 0))


@pytest.mark.parametrize("compression", [0, _GZIP])
def test_T1_all_records_of_a_fetch_are_read_once_and_in_order(compression: int) -> None:
    read_any_header_name()
    read_any_header_name()  # twice: the worker and a test make an app each
    batches = [
        batch(0, [b"type", b"type"]),
        batch(2, [b"type", b"\xff\xfe", b"caf\xe9", b"type"], compression),
        batch(6, [b"\xc3\xa4"]),
    ]
    for start, first in ((0, 0), (3, 1), (6, 2)):  # a broker begins with the batch that has the record
        found = read(b"".join(batches[first:]), start)
        assert [record.offset for record in found] == list(range(start, 7))
        assert [record.value for record in found] == [str(at).encode() for at in range(start, 7)]
        assert found[-1].headers == (("\u00e4", b"\xff"), ("ok", None))
    names = [record.headers[0][0] for record in read(b"".join(batches))]
    assert names == ["type", "type", "type", "\ufffd\ufffd", "caf\ufffd", "type", "\u00e4"]


def test_a_broken_batch_is_still_refused() -> None:
    read_any_header_name()
    broken = bytearray(batch(0, [b"\xff"]))
    broken[-1] ^= 1
    with pytest.raises(Exception, match="Invalid CRC"):
        read(bytes(broken))
