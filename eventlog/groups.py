"""The consumer groups of this system: their members, and the offsets that they have committed in one topic."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

from eventlog import client
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess

_COORDINATOR_S = 30.0
"""Seconds to find the coordinator: a broker that has just started does not coordinate any group for a while."""
_NO_COORDINATOR = (
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
)

T = TypeVar("T")


class _Member(NamedTuple):
    id: str
    client_id: str
    host: str
    assignment: bytes


class Groups:
    """Reads and sets offsets without joining a group. Blocks. All methods raise LogUnavailable."""

    def __init__(self, access: KafkaAccess) -> None:
        self._access = access
        self._admin = client.admin(access)

    def names(self, prefix: str) -> list[str]:
        """Returns the groups of workers and analytics that the brokers know, members or not."""
        with client.log_errors(self._access, "consumer groups"):
            names = _once_coordinated(self._names)
        own = (f"{prefix}.worker", f"{prefix}.analytics")
        return sorted(name for name in names if name in own or name.startswith(f"{prefix}.worker."))

    def _names(self) -> list[str]:
        found = client.answer_of(self._admin.list_consumer_groups(request_timeout=client.TIMEOUT_S))
        if found.errors:
            raise KafkaException(found.errors[0])
        return [group.group_id for group in found.valid]

    def members(self, names: Iterable[str]) -> dict[str, int]:
        """Returns the number of members of each group that has some."""
        wanted = list(names)
        if not wanted:
            return {}
        with client.log_errors(self._access, "consumer groups"):
            counts = _once_coordinated(lambda: self._counts(wanted))
        return {name: count for name, count in counts.items() if count}

    def _counts(self, names: list[str]) -> dict[str, int]:
        return {name: len(self._members(name)) for name in names}

    def owners(self, group: str, topic: str) -> dict[int, str]:
        """Returns the member that reads each partition, as `name (host)`. Partitions without one are left out."""
        with client.log_errors(self._access, f"group {group}"):
            members = self._members(group)
        return {
            partition: f"{_name(member)} ({member.host.lstrip('/')})"
            for member in members
            for partition in assigned(member.assignment).get(topic, ())
        }

    def _members(self, group: str) -> list[_Member]:
        # Not by `describe_consumer_groups`: if the broker dies at that moment, librdkafka (its issue 4605) uses memory
        # that it has freed, and the process ends by SIGABRT. This older request is deprecated, but asks without it.
        found = self._admin.list_groups(group=group, timeout=client.TIMEOUT_S)
        for one in found:
            if one.error is not None:
                raise KafkaException(one.error)
        members: list[Any] = [member for one in found for member in one.members]  # the library types each field as None
        return [_Member(one.id, one.client_id, one.client_host, one.assignment) for one in members]

    def committed(self, group: str, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Returns the committed offsets by partition, without partitions in which nothing is committed yet."""
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        # Not by `list_consumer_group_offsets`: if the broker does not coordinate the group, for example because it has
        # just started, librdkafka (its issue 5040) uses the consumer group of the admin client, which has none, and the
        # process ends by SIGSEGV. A consumer that never subscribes finds the coordinator by itself.
        with client.log_errors(self._access, f"group {group}"):
            consumer = client.consumer(self._access, group=group)
            try:
                found = _once_coordinated(lambda: consumer.committed(wanted, timeout=client.TIMEOUT_S))
            finally:
                consumer.close()
        return {place.partition: place.offset for place in found if place.offset >= 0}

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Sets the committed offsets of a group without members."""
        if not offsets:
            return
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in sorted(offsets.items())]
        with client.log_errors(self._access, f"group {group}"):
            request = ConsumerGroupTopicPartitions(group, wanted)
            found = self._admin.alter_consumer_group_offsets([request], request_timeout=client.TIMEOUT_S)[group]
            for place in client.answer_of(found).topic_partitions or []:
                if place.error is not None:
                    raise LogUnavailable(f"group {group}: {place.error.str()}")


def _once_coordinated(ask: Callable[[], T]) -> T:
    """Asks again while the brokers answer that none of them coordinates the group."""
    deadline = time.monotonic() + _COORDINATOR_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _NO_COORDINATOR or time.monotonic() > deadline:
                raise
        time.sleep(0.3)


def assigned(assignment: bytes) -> dict[str, list[int]]:
    """Returns the partitions by topic, from the bytes of a member's assignment in Kafka's consumer protocol.

    A member of a group that is joining has none: {}. Raises LogUnavailable if the bytes are of something else.
    """
    if not assignment:
        return {}
    try:
        (topics,) = struct.unpack_from(">i", assignment, 2)
        at, found = 6, dict[str, list[int]]()
        for _ in range(topics):
            (length,) = struct.unpack_from(">h", assignment, at)
            name = assignment[at + 2 : at + 2 + length].decode()
            (count,) = struct.unpack_from(">i", assignment, at + 2 + length)
            at += 6 + length
            found[name] = list(struct.unpack_from(f">{count}i", assignment, at))
            at += 4 * count
    except (struct.error, UnicodeDecodeError) as error:
        raise LogUnavailable(f"a member's assignment is not of Kafka's consumer protocol: {error}") from None
    return found


_UUID = 37
"""Characters that the brokers add to the client id, or to the id that BILLING_MEMBER_ID gave: `-` and a UUID."""


def _name(member: _Member) -> str:
    """The member id that BILLING_MEMBER_ID gave, else the client id with the end of what the brokers added to it."""
    given = member.id[:-_UUID]
    return given if given and given != member.client_id else f"{member.client_id} …{member.id[-6:]}"
