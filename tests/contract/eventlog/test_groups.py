"""Reads the members of a consumer group, without joining it."""

from __future__ import annotations

import time

from confluent_kafka import Consumer

from eventlog import client
from eventlog.groups import Groups
from schemas.kafka_access import KafkaAccess
from tests.kits.gatewaykit import create_topics

_DEADLINE_S = 60.0


def _assigned(*consumers: Consumer) -> list[set[int]]:
    """Polls until each consumer has partitions, and no partition has two."""
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        for consumer in consumers:
            consumer.poll(0.1)
        found = [{place.partition for place in consumer.assignment()} for consumer in consumers]
        if all(found) and sum(map(len, found)) == 4:
            return found
    raise AssertionError("the group has no stable assignment")


def test_the_owner_of_each_partition_is_named(kafka_bootstrap: str, topic_prefix: str) -> None:
    settings = create_topics(kafka_bootstrap, topic_prefix, partitions=4)
    access, group = KafkaAccess(kafka_bootstrap), f"{topic_prefix}.worker"
    groups = Groups(access)
    assert groups.owners(group, settings.events_topic) == {}
    assert groups.members([group]) == {}
    first = client.consumer(access, group=group, properties={"group.instance.id": "worker-a"})
    second = client.consumer(access, group=group, properties={"client.id": "some-client"})
    try:
        for consumer in (first, second):
            consumer.subscribe([settings.events_topic])
        of_first, of_second = _assigned(first, second)
        owners = groups.owners(group, settings.events_topic)
        assert owners.keys() == of_first | of_second == set(range(4))
        assert {owners[partition] for partition in of_first} == {"worker-a (127.0.0.1)"}
        (name,) = {owners[partition] for partition in of_second}
        assert name.startswith("some-client …")
        assert name.endswith(" (127.0.0.1)")
        assert groups.owners(group, "another topic") == {}
        assert groups.members([group, "unknown"]) == {group: 2}
    finally:
        first.close()
        second.close()
