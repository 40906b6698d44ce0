"""The backlog: ids of the events that are on the log and that the worker has not committed, from their headers."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from eventlog import client
from eventlog.entry import headers_of
from eventlog.lag import GroupPosition, GroupPositions
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess
from schemas.record import decode_headers

MOST = 500_000
_TIMEOUT_S = 30.0
_PAUSE_S = 0.2
_READ_S = 120.0


class BacklogTooLong(LogUnavailable):
    """The worker's lag is too large to tell events in the backlog from missing events."""


def ids_on_the_way(access: KafkaAccess, group: str, topic: str, *, most: int = MOST) -> frozenset[str]:
    """Returns the ids of the events in the group's backlog. Blocks.

    Raises LogUnavailable, and BacklogTooLong if the backlog has more than `most` records.
    """
    positions = _backlog(access, group, topic)
    lag = sum(position.lag for position in positions.values())
    if lag > most:
        raise BacklogTooLong(f"{group} is {lag} records behind: reconcile once it has caught up")
    consumer = client.consumer(
        access,
        group="billing-reconcile",
        properties={"enable.auto.offset.store": False, "enable.partition.eof": True},
    )
    try:
        with client.log_errors(access, f"{topic} can't be read"):
            starts = {number: position.committed for number, position in positions.items() if position.lag > 0}
            return _ids(consumer, topic, starts)
    finally:
        consumer.close()


def _backlog(access: KafkaAccess, group: str, topic: str) -> dict[int, GroupPosition]:
    """Retries, because a broker that has just started does not coordinate any group for a while."""
    positions = GroupPositions(access, group, topic)
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        while (found := positions.read()) is None:
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{topic}: no broker reports the position of {group}")
            time.sleep(_PAUSE_S)
    finally:
        positions.close()
    return found


def _ids(consumer: Consumer, topic: str, starts: dict[int, int]) -> frozenset[str]:
    consumer.assign([TopicPartition(topic, partition, start) for partition, start in starts.items()])
    open_partitions, found = set(starts), set()
    deadline = time.monotonic() + _READ_S
    while open_partitions:
        if time.monotonic() > deadline:
            raise LogUnavailable(f"{topic} was not read to its end within {_READ_S:.0f} s")
        for message in client.arrived(consumer, 1000, within_s=1.0):
            error = message.error()
            if error is None:
                found.add(decode_headers(headers_of(message)).get("event_id", ""))
            elif error.code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(message.partition() or 0)
            elif not error.retriable():
                raise KafkaException(error)
    return frozenset(found - {""})
