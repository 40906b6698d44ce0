"""Creates the changelog topic of the worker's table before the worker joins its group.

The changelog has as many partitions as the events topic. Faust creates it too, but only at its first write. By then the
group's partitions are assigned without it; the members refresh their metadata only after five minutes, and that causes
another rebalance.
"""

from __future__ import annotations

import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from eventlog import client
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess
from schemas.settings import InvalidSettings

_TIMEOUT_S = 15.0


def ensure_changelog(access: KafkaAccess, name: str, partitions: int, replication_factor: int) -> None:
    """Creates the topic if it is missing, and returns once the brokers list it.

    Raises LogUnavailable, and InvalidSettings if the brokers refuse such a topic.
    """
    admin = client.admin(access)
    deadline = time.monotonic() + _TIMEOUT_S
    with client.log_errors(access, f"topic {name}"):
        if not _exists(admin, access, name):
            config = {"cleanup.policy": "compact", "min.insync.replicas": str(max(1, replication_factor - 1))}
            new = NewTopic(name, num_partitions=partitions, replication_factor=replication_factor, config=config)
            _create(admin, new, name)
        while not _exists(admin, access, name):
            if time.monotonic() > deadline:
                raise LogUnavailable(f"topic {name}: the brokers do not list it")
            time.sleep(0.05)


def _exists(admin: AdminClient, access: KafkaAccess, name: str) -> bool:
    found = client.cluster_metadata(admin, access, within_s=_TIMEOUT_S).topics.get(name)
    return found is not None and bool(found.partitions)


def _create(admin: AdminClient, topic: NewTopic, name: str) -> None:
    try:
        admin.create_topics([topic], operation_timeout=_TIMEOUT_S, request_timeout=_TIMEOUT_S)[name].result(_TIMEOUT_S)
    except KafkaException as error:
        if client.is_refused_topic(error):
            raise InvalidSettings(f"topic {name}: {error.args[0].str()}") from None
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker may have created it first
            raise
