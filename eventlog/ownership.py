"""Keeps on Kafka which database a consumer group belongs to: the topic `GROUP-database`, with one record per decision.

A second worker with another database would take half of the group's events into it. The first claim counts until an
operator moves the group (`billing adopt`). The log is never compacted, so no late claim can replace the first.
"""

from __future__ import annotations

import time

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.cimpl import NewTopic

from eventlog import client
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess
from schemas.settings import InvalidSettings

_TIMEOUT_S = 15.0
_CLAIM, _MOVE = b"claim", b"move"


def topic_of(group: str) -> str:
    """Returns the topic that names the group's database."""
    return f"{group}-database"


def owner(access: KafkaAccess, group: str) -> str | None:
    """Returns the id of the database that the group belongs to, None before the first claim. Raises LogUnavailable."""
    found: str | None = None
    topic = topic_of(group)
    reader = client.consumer(access, group=f"{group}.database", properties={"auto.offset.reset": "earliest"})
    try:
        with client.log_errors(access, f"topic {topic}"):
            place = TopicPartition(topic, 0, 0)
            _, end = client.watermarks(reader, place, within_s=_TIMEOUT_S)
            reader.assign([place])
            deadline = time.monotonic() + _TIMEOUT_S
            at = 0
            while at < end:
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"topic {topic}: no answer within {_TIMEOUT_S:g} s")
                message = reader.poll(0.5)
                if message is None:
                    continue
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                at = (message.offset() or 0) + 1
                if found is None or message.key() == _MOVE:
                    found = (message.value() or b"").decode()
    finally:
        reader.close()
    return found


def claim(
    access: KafkaAccess, group: str, database_id: str, *, replication_factor: int = 1, move: bool = False
) -> str | None:
    """Makes the group this database's, if it belongs to none or `move` is set. Returns the owner before.

    Raises InvalidSettings, which names both databases, if it belongs to another one; LogUnavailable.
    """
    _ensure(access, topic_of(group), replication_factor)
    before = owner(access, group)
    if before is None or (move and before != database_id):
        _append(access, topic_of(group), _MOVE if move else _CLAIM, database_id)
    now = owner(access, group)  # another worker's claim may have come first
    if now != database_id:
        raise InvalidSettings(
            f"consumer group {group} belongs to database {now}, and BILLING_DATABASE_URL is database {database_id}: "
            "a second system needs its own BILLING_TOPIC_PREFIX; to move this one for good, stop its workers and run "
            "billing adopt"
        )
    return before


def _append(access: KafkaAccess, topic: str, kind: bytes, database_id: str) -> None:
    failed: list[KafkaError] = []
    producer = client.producer(access, client_id="billing-ownership")
    with client.log_errors(access, f"topic {topic}"):
        producer.produce(
            topic,
            partition=0,
            key=kind,
            value=database_id.encode(),
            on_delivery=lambda error, _: failed.append(error) if error is not None else None,
        )
        if producer.flush(_TIMEOUT_S) or failed:
            raise LogUnavailable(f"topic {topic}: {failed[0] if failed else 'no answer'}")


def _ensure(access: KafkaAccess, topic: str, replication_factor: int) -> None:
    admin = client.admin(access)
    with client.log_errors(access, f"topic {topic}"):
        if topic in client.cluster_metadata(admin, access, within_s=_TIMEOUT_S).topics:
            return
        config = {
            "cleanup.policy": "delete",
            "retention.ms": "-1",
            "retention.bytes": "-1",
            "min.insync.replicas": str(max(1, replication_factor - 1)),
        }
        new = NewTopic(topic, num_partitions=1, replication_factor=replication_factor, config=config)
        try:
            creating = admin.create_topics([new], operation_timeout=_TIMEOUT_S, request_timeout=_TIMEOUT_S)
            client.answer_of(creating[topic], _TIMEOUT_S)
        except KafkaException as error:
            if client.is_refused_topic(error):
                raise InvalidSettings(f"topic {topic}: {error.args[0].str()}") from None
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        deadline = time.monotonic() + _TIMEOUT_S
        while topic not in client.cluster_metadata(admin, access, within_s=_TIMEOUT_S).topics:
            if time.monotonic() > deadline:
                raise LogUnavailable(f"topic {topic}: the brokers do not list it")
            time.sleep(0.05)
