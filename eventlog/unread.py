"""Whose events are on the log and not read by a group yet, from the keys of the records after its positions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from eventlog import client
from eventlog.entry import headers_of
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess
from schemas.record import decode_headers

MOST = 2_000
"""Records that one reading looks at."""

_READ_S = 3.0


@dataclass(frozen=True, slots=True)
class Unread:
    """The unread events by customer: (account, customer's id) → number of events.

    A record whose key names no customer counts for the object that its key names. `is_cut`: there are more.
    """

    events: Mapping[tuple[str, str], int]
    is_cut: bool = False


NONE = Unread({})


def unread_events(access: KafkaAccess, topic: str, spans: Mapping[int, tuple[int, int]], *, most: int = MOST) -> Unread:
    """Returns whose events are from the first offset of each partition's span up to the second one.

    Reads at most `most` records, for at most three seconds: then the result is cut. Blocks. Raises LogUnavailable.
    """
    left = {partition: end for partition, (begin, end) in spans.items() if begin < end}
    if not left:
        return NONE
    consumer = client.consumer(
        access,
        group=f"{topic}.reader",
        properties={"enable.partition.eof": True, "auto.offset.reset": "earliest", "queued.max.messages.kbytes": 4096},
    )
    found: Counter[tuple[str, str]] = Counter()
    seen, deadline = 0, time.monotonic() + _READ_S
    try:
        with client.log_errors(access, f"{topic} can't be read"):
            consumer.assign([TopicPartition(topic, partition, spans[partition][0]) for partition in left])
            while left and seen < most and time.monotonic() < deadline:
                for message in client.arrived(consumer, min(500, most - seen), within_s=0.2):
                    partition, at = message.partition() or 0, message.offset() or 0
                    if (error := message.error()) is not None:
                        if error.code() == KafkaError._PARTITION_EOF:
                            left.pop(partition, None)
                        elif not error.retriable():
                            raise KafkaException(error)
                        continue
                    if partition in left and at < left[partition]:
                        seen += 1
                        found[_owner(message)] += 1
                    if partition in left and at + 1 >= left[partition]:
                        del left[partition]
    finally:
        consumer.close()
    if not found and left:
        raise LogUnavailable(f"{topic} was not read within {_READ_S:.0f} s")
    return Unread(dict(found), is_cut=bool(left))


def _owner(message: Message) -> tuple[str, str]:
    """Returns the account and the subject of a record's key, `{account}/{subject}` or `{subject}`."""
    account = decode_headers(headers_of(message)).get("account", "")
    key = (message.key() or b"").decode("utf-8", "replace")
    return account, key.removeprefix(f"{account}/") if account else key
