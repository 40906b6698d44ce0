"""Reads single records of a topic by offset or by event id. Joins no group and commits nothing."""

from __future__ import annotations

import time
from collections.abc import Collection
from types import TracebackType

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, TopicPartition

from eventlog import client
from eventlog.entry import headers_of
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess
from schemas.record import decode_headers

_TIMEOUT_S = client.TIMEOUT_S
_POLL_S = 0.5
_AHEAD_KB = 2048
_SKIP = 200
"""If the wanted offset is at most this many records ahead, read forward instead of seeking."""


class RecordLookup:
    """Blocks; for one thread. All methods raise LogUnavailable if the brokers do not answer within ten seconds."""

    def __init__(self, access: KafkaAccess, topic: str) -> None:
        self._access = access
        self.topic = topic
        self._consumer = client.consumer(
            access,
            group=f"{topic}.reader",
            properties={
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                # A fetch at the end of one partition delays the first one of the next by this time; by default 0.5 s.
                "fetch.wait.max.ms": 50,
                # Single records are read: what is fetched ahead of them is thrown away. By default 64 MB.
                "queued.max.messages.kbytes": _AHEAD_KB,
            },
        )
        self._next: tuple[int, int] | None = None

    def __enter__(self) -> RecordLookup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def read(self, partition: int, offset: int) -> Message | None:
        """Returns the record at the offset, None if the topic does not have it. Fast for increasing, close offsets."""
        if not self._is_near(partition, offset):
            low, high = self._bounds(partition)
            if not low <= offset < high:
                return None
            self._assign(TopicPartition(self.topic, partition, offset))
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            message = self._consumer.poll(_POLL_S)
            if message is None:
                continue
            if (error := message.error()) is not None:
                if error.code() in (
                    KafkaError._PARTITION_EOF,
                    KafkaError.OFFSET_OUT_OF_RANGE,
                    KafkaError._AUTO_OFFSET_RESET,
                ):
                    self._next = None
                    return None
                continue  # for example a lost connection: librdkafka retries by itself, until the deadline
            at = message.offset() or 0
            self._next = (partition, at + 1)
            if at >= offset:
                return message if at == offset else None
        raise LogUnavailable(f"{self.topic}/{partition}/{offset} was not read within {_TIMEOUT_S:.0f} s")

    @property
    def is_fetching(self) -> bool:
        """Whether the consumer asks the brokers for records, also between two reads."""
        return bool(self._consumer.assignment())

    def rest(self) -> None:
        """Stops fetching until the next read. An assigned consumer at the end of its partition asks on and on."""
        self._consumer.unassign()
        self._next = None

    def find(self, event_ids: Collection[str]) -> dict[str, Message]:
        """Returns the first record of each event by the id in its headers. Reads the topic until all are found."""
        wanted, found = set(event_ids), dict[str, Message]()
        partitions = list(
            client.cluster_metadata(self._consumer, self._access, self.topic).topics[self.topic].partitions
        )
        for partition in partitions:
            if wanted:
                self._scan(partition, wanted, found)
        self._next = None
        return found

    def _scan(self, partition: int, wanted: set[str], found: dict[str, Message]) -> None:
        low, high = self._bounds(partition)
        if low == high:
            return
        self._assign(TopicPartition(self.topic, partition, OFFSET_BEGINNING))
        last_record_at, at = time.monotonic(), low
        while time.monotonic() < last_record_at + _TIMEOUT_S:
            for message in self._consumer.consume(min(500, high - at), timeout=_POLL_S):
                if (error := message.error()) is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        return
                    continue
                last_record_at = time.monotonic()
                event_id = decode_headers(headers_of(message)).get("event_id", "")
                if event_id in wanted:
                    wanted.discard(event_id)
                    found[event_id] = message
                at = (message.offset() or 0) + 1
                if not wanted or at >= high:
                    return
        raise LogUnavailable(f"{self.topic}/{partition} was not read to its end")

    def _is_near(self, partition: int, offset: int) -> bool:
        if self._next is None or self._next[0] != partition:
            return False
        return 0 <= offset - self._next[1] <= _SKIP

    def _bounds(self, partition: int) -> tuple[int, int]:
        try:
            return client.watermarks(self._consumer, TopicPartition(self.topic, partition), within_s=_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() in (KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART):
                return 0, 0
            reason = client.cause_of(self._access, error)
            raise LogUnavailable(f"{self.topic}/{partition}: {reason}") from None

    def _assign(self, start: TopicPartition) -> None:
        self._consumer.assign([start])
        self._next = None
