"""What is on its way: the events that stand on the log and that the worker has yet to come to, by their header."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from eventlog.lag import GroupPosition, GroupPositions
from schemas.errors import LogUnavailable

MOST = 500_000
_TIMEOUT_S = 30.0
_PAUSE_S = 0.2
_READ_S = 120.0


class BacklogTooLong(LogUnavailable):
    """The worker is so far behind that what is on its way can't be told from what is missing."""


def ids_on_the_way(bootstrap: str, group: str, topic: str, *, most: int = MOST) -> frozenset[str]:
    """Blocks while it reads them. Raises LogUnavailable, BacklogTooLong."""
    places = _backlog(bootstrap, group, topic)
    behind = sum(place.lag for place in places.values())
    if behind > most:
        raise BacklogTooLong(f"{group} is {behind} records behind: reconcile once it has caught up")
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "billing-reconcile",  # asked for by the client, and never joined
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        return _ids(consumer, topic, {number: place.committed for number, place in places.items() if place.lag > 0})
    except KafkaException as error:
        raise LogUnavailable(f"{topic} can't be read: {error}") from error
    finally:
        consumer.close()


def _backlog(bootstrap: str, group: str, topic: str) -> dict[int, GroupPosition]:
    """A broker that has just started says for a while that it coordinates nobody."""
    places = GroupPositions(bootstrap, group, topic)
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        while (found := places.read()) is None:
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{topic}: nobody says how far {group} is")
            time.sleep(_PAUSE_S)
    finally:
        places.close()
    return found


def _ids(consumer: Consumer, topic: str, starts: dict[int, int]) -> frozenset[str]:
    consumer.assign([TopicPartition(topic, partition, start) for partition, start in starts.items()])
    open_partitions, found = set(starts), set()
    deadline = time.monotonic() + _READ_S
    while open_partitions:
        if time.monotonic() > deadline:
            raise LogUnavailable(f"{topic} was not read to its end within {_READ_S:.0f} s")
        for message in consumer.consume(1000, timeout=1.0):
            error = message.error()
            if error is None:
                found.add(_id(message.headers()))
            elif error.code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(message.partition() or 0)
            elif not error.retriable():
                raise KafkaException(error)
    return frozenset(found - {""})


def _id(headers: object) -> str:
    pairs = headers if isinstance(headers, list) else []
    return next((bytes(value or b"").decode("utf-8", "replace") for name, value in pairs if name == "event_id"), "")
