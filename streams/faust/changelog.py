"""Creates the changelog topic of the worker's table before the worker joins its group.

The changelog has as many partitions as the events topic. Faust creates it too, but only at its first write. By then the
group's partitions are assigned without it; the members refresh their metadata only after five minutes, and that causes
another rebalance.

A worker reads the whole changelog when it starts. So replaced pages and deleted ones have to disappear soon: Kafka
compacts only segments that are closed, by default after a week, and only when half of the log has been replaced.
"""

from __future__ import annotations

import time

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic

from eventlog import client
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess
from schemas.settings import InvalidSettings

log = structlog.get_logger()

_TIMEOUT_S = 15.0
_HOUR_MS = 3_600_000
_REFUSED_SETTINGS = (KafkaError.INVALID_CONFIG, KafkaError.POLICY_VIOLATION)
_REFUSED_CHANGE = (
    *_REFUSED_SETTINGS,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)


def changelog_settings(keep_s: float) -> dict[str, str]:
    """Returns the topic's settings. `keep_s` is how long the worker remembers an id, in seconds."""
    return {
        "cleanup.policy": "compact,delete",
        # From a page's last write, so an hour is added for the segment that is still open.
        "retention.ms": str(int(keep_s * 1000) + _HOUR_MS),
        "segment.ms": str(_HOUR_MS),
        "min.cleanable.dirty.ratio": "0.1",
        "delete.retention.ms": str(_HOUR_MS),
    }


def ensure_changelog(
    access: KafkaAccess, name: str, partitions: int, replication_factor: int, *, keep_s: float
) -> None:
    """Creates the topic if it is missing, and returns once the brokers list it. Corrects the settings of an older one.

    Raises LogUnavailable, and InvalidSettings if the brokers refuse such a topic. Where they refuse only its settings,
    or a change of them, the worker starts and logs a warning with the command: only its starts are slower.
    """
    admin = client.admin(access)
    wanted = changelog_settings(keep_s)
    deadline = time.monotonic() + _TIMEOUT_S
    with client.log_errors(access, f"topic {name}"):
        if _exists(admin, access, name):
            _correct(admin, name, wanted)
        else:
            _create(admin, name, partitions, replication_factor, wanted)
        while not _exists(admin, access, name):
            if time.monotonic() > deadline:
                raise LogUnavailable(f"topic {name}: the brokers do not list it")
            time.sleep(0.05)


def _exists(admin: AdminClient, access: KafkaAccess, name: str) -> bool:
    found = client.cluster_metadata(admin, access, within_s=_TIMEOUT_S).topics.get(name)
    return found is not None and bool(found.partitions)


def _create(
    admin: AdminClient, name: str, partitions: int, replication_factor: int, wanted: dict[str, str], bare: bool = False
) -> None:
    config = {"cleanup.policy": "compact"} if bare else wanted
    config = config | {"min.insync.replicas": str(max(1, replication_factor - 1))}
    topic = NewTopic(name, num_partitions=partitions, replication_factor=replication_factor, config=config)
    try:
        creating = admin.create_topics([topic], operation_timeout=_TIMEOUT_S, request_timeout=_TIMEOUT_S)
        client.answer_of(creating[name], _TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() in _REFUSED_SETTINGS and not bare:  # some managed brokers allow only a few settings
            _create(admin, name, partitions, replication_factor, wanted, bare=True)
            _warn(name, wanted, error)
        elif client.is_refused_topic(error):
            raise InvalidSettings(f"topic {name}: {error.args[0].str()}") from None
        elif error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker may have created it first
            raise


def _correct(admin: AdminClient, name: str, wanted: dict[str, str]) -> None:
    topic = ConfigResource(ConfigResource.Type.TOPIC, name)
    try:
        found = client.answer_of(admin.describe_configs([topic], request_timeout=_TIMEOUT_S)[topic], _TIMEOUT_S)
        different = {key: value for key, value in wanted.items() if key not in found or found[key].value != value}
        if different:
            entries = [
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in different.items()
            ]
            change = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries)
            (changing,) = admin.incremental_alter_configs([change], request_timeout=_TIMEOUT_S).values()
            client.answer_of(changing, _TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() not in _REFUSED_CHANGE:
            raise
        _warn(name, wanted, error)


def _warn(name: str, wanted: dict[str, str], error: KafkaException) -> None:
    settings = ",".join(f"{key}=[{value}]" if "," in value else f"{key}={value}" for key, value in wanted.items())
    log.warning(
        "worker.changelog_settings",
        action="worker.changelog_settings",
        topic=name,
        reason=f"{error.args[0].str()}; starts stay fast with: kafka-configs.sh --alter --entity-type topics "
        f"--entity-name {name} --add-config '{settings}'",
    )
