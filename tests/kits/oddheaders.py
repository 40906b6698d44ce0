"""Writes records whose header names are any bytes, as some Kafka clients can."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]  # aiokafka ships no types
from aiokafka.producer import message_accumulator, producer  # type: ignore[import-untyped]  # as above
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy  # type: ignore[import-untyped]  # as above


class Name(str):
    """A header's name that is written as these bytes."""

    raw: bytes

    def __new__(cls, raw: bytes) -> Name:
        made = super().__new__(cls, raw.decode("utf-8", "replace"))
        made.raw = raw
        return made

    def encode(self, *_: str, **__: str) -> bytes:
        return self.raw


def batch(start: int, names: Sequence[bytes], compression: int = 0) -> bytes:
    """Returns a batch with one record per name: its value is its offset."""
    builder = _DefaultRecordBatchBuilderPy(2, compression, 0, -1, -1, -1, 1_000_000)
    for at, name in enumerate(names):
        builder.append(at, 1_000, b"k", str(start + at).encode(), [(Name(name), b"\xff"), (Name(b"ok"), None)])
    return struct.pack(">q", start) + bytes(builder.build())[8:]


async def produce(bootstrap: str, topic: str, key: bytes, value: bytes | None, name: bytes) -> None:
    """Appends a record with one header of this name."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (message_accumulator, producer):
            patch.setattr(module, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
        writer = AIOKafkaProducer(bootstrap_servers=bootstrap)
        await writer.start()
        try:
            await writer.send_and_wait(topic, key=key, value=value, headers=[(Name(name), b"v")])
        finally:
            await writer.stop()
