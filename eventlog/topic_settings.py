"""Compares existing topics with what this system needs of them: one line for each difference.

`billing topics` prints the lines and exits 1; each process logs them at its start. A process with a wrong setting still
runs: most settings harm only later (an event that is too large, a broker that is lost).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource

from eventlog import client
from schemas.kafka_access import KafkaAccess

UNLIMITED = -1
"""Kafka's value for no limit, in `retention.ms` and `retention.bytes`."""

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class DescribedTopic:
    """A topic as the brokers describe it. `config` is None if this user may not read it (DescribeConfigs)."""

    name: str
    topic_id: str
    partitions: int
    replicas: int
    """Of the partition that has the fewest."""
    config: Mapping[str, str] | None = field(default=None)


@dataclass(frozen=True, slots=True)
class Needs:
    """What this system needs of one topic. Times are days; None is no bound."""

    cleanup: str
    """`delete`, or `compact`: then the topic may also delete what is old (streams/faust/changelog.py)."""
    max_bytes: int | None = None
    least_days: int | None = None
    most_days: int | None = None
    replicas: int = 1


def differences(found: DescribedTopic, needs: Needs) -> list[str]:
    """Returns `topic: setting is value, wanted value` for each setting that is not as needed."""
    lines: list[str] = []

    def differs(setting: str, value: object, wanted: str) -> None:
        lines.append(f"{found.name}: {setting} is {value}, wanted {wanted}")

    if found.replicas < needs.replicas:
        differs("replicas", found.replicas, f"{needs.replicas} (BILLING_REPLICATION_FACTOR)")
    config = found.config
    if config is None:
        return lines
    policy = config.get("cleanup.policy", "")
    policies = set(policy.split(","))
    if needs.cleanup not in policies or (needs.cleanup == "delete" and len(policies) > 1):
        differs("cleanup.policy", policy, needs.cleanup)
    size = _number(config, "max.message.bytes")
    if needs.max_bytes is not None and size is not None and size < needs.max_bytes:
        differs("max.message.bytes", size, f"at least {needs.max_bytes}")
    if "delete" in needs.cleanup:
        _compare_retention(config, needs, differs)
    _compare_in_sync(found, config, needs, differs)
    return lines


def _compare_retention(config: Mapping[str, str], needs: Needs, differs: Callable[[str, object, str], None]) -> None:
    kept_ms = _number(config, "retention.ms")
    least = None if needs.least_days is None else needs.least_days * DAY_MS
    most = None if needs.most_days is None else needs.most_days * DAY_MS
    if kept_ms is not None:
        if least is not None and kept_ms != UNLIMITED and kept_ms < least:
            differs("retention.ms", kept_ms, f"at least {least} ({needs.least_days} days)")
        if most is not None and (kept_ms == UNLIMITED or kept_ms > most):
            differs("retention.ms", kept_ms, f"at most {most} ({needs.most_days} days)")
    if (size := _number(config, "retention.bytes")) is not None and size != UNLIMITED:
        differs("retention.bytes", size, f"{UNLIMITED} (a limit deletes unread records)")


def _compare_in_sync(
    found: DescribedTopic, config: Mapping[str, str], needs: Needs, differs: Callable[[str, object, str], None]
) -> None:
    in_sync = _number(config, "min.insync.replicas")
    if in_sync is None:
        return
    if in_sync > found.replicas:
        differs("min.insync.replicas", in_sync, f"at most {found.replicas}, or nothing can be stored")
    elif in_sync == found.replicas > 1:
        differs("min.insync.replicas", in_sync, f"{found.replicas - 1}, so that one broker may be down")
    elif in_sync < (least := max(1, needs.replicas - 1)):
        differs("min.insync.replicas", in_sync, f"at least {least}")


def _number(config: Mapping[str, str], name: str) -> int | None:
    try:
        return int(config[name])
    except (KeyError, ValueError):
        return None


def describe(access: KafkaAccess, names: Iterable[str], *, with_config: bool = True) -> dict[str, DescribedTopic]:
    """Returns the topics that exist, by name. Blocks. Raises LogUnavailable."""
    admin = client.admin(access)
    wanted = list(names)
    found: dict[str, DescribedTopic] = {}
    listed = client.cluster_metadata(admin, access).topics
    present = [name for name in wanted if name in listed and listed[name].error is None]
    if not present:
        return {}
    described = admin.describe_topics(TopicCollection(present), request_timeout=client.TIMEOUT_S)
    for name, future in described.items():
        with client.log_errors(access, f"topic {name}"):
            try:
                topic = client.answer_of(future)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:  # deleted meanwhile
                    continue
                raise
            config = _config(admin, access, name) if with_config else None
        replicas = min((len(partition.replicas) for partition in topic.partitions), default=0)
        found[name] = DescribedTopic(name, str(topic.topic_id), len(topic.partitions), replicas, config)
    return found


def _config(admin: AdminClient, access: KafkaAccess, name: str) -> dict[str, str] | None:
    resource = ConfigResource("topic", name)
    request = admin.describe_configs([resource], request_timeout=client.TIMEOUT_S)[resource]
    with client.log_errors(access, f"topic {name}"):
        try:
            entries = client.answer_of(request)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                return None
            raise
    return {key: entry.value for key, entry in entries.items() if entry.value is not None}


class TopicIdentity:
    """Asks the brokers for the id of one topic, again and again. A topic that is created again has another id."""

    def __init__(self, access: KafkaAccess, topic: str) -> None:
        self._access = access
        self._topic = topic
        self._admin = client.admin(access)

    def read(self) -> str | None:
        """Returns the id, None while there is no such topic. Blocks. Raises LogUnavailable."""
        request = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=client.TIMEOUT_S)
        with client.log_errors(self._access, f"topic {self._topic}"):
            try:
                return str(client.answer_of(request[self._topic]).topic_id)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    return None
                raise
