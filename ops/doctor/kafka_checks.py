"""Checks of Kafka: reachable, topics and their settings, and the rights of this user. Blocking calls run in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._config import ConfigResource

from eventlog import client
from eventlog.topics import Wanted, wanted_topics
from ops.doctor.findings import Found, Situation, failed, ok, warning
from schemas.settings import Settings

_ANSWER_S = 8.0
_NEEDED = {AclOperation.DESCRIBE: "Describe", AclOperation.READ: "Read", AclOperation.WRITE: "Write"}
_DAY_MS = 86_400_000


async def check_kafka(situation: Situation) -> Sequence[Found]:
    return await asyncio.to_thread(_check, situation.settings, with_changes=situation.config.feed.topic)


def _check(settings: Settings, *, with_changes: bool) -> list[Found]:
    admin = client.admin(settings.kafka)
    cluster = client.cluster_metadata(admin, settings.kafka, within_s=_ANSWER_S)
    brokers = len(cluster.brokers)
    found = [ok(f"{settings.kafka_bootstrap}: {brokers} brokers, {settings.kafka_security_protocol}")]
    if brokers < 3:
        remedy = "three brokers, and BILLING_REPLICATION_FACTOR=3 before `billing topics`, survive the loss of one"
        found.append(warning(f"{brokers} brokers: the loss of one stops everything", remedy))
    wanted = wanted_topics(settings, with_changes=with_changes)
    present = {name: len(topic.partitions) for name, topic in cluster.topics.items() if topic.error is None}
    for topic in wanted:
        if topic.name not in present:
            found.append(failed(f"there is no topic {topic.name}", "run `billing topics`"))
        elif present[topic.name] != settings.partitions:
            text = f"{topic.name} has {present[topic.name]} partitions, BILLING_PARTITIONS is {settings.partitions}"
            found.append(failed(text, f"set BILLING_PARTITIONS={present[topic.name]}; more of them: docs/scaling.md"))
    existing = [topic for topic in wanted if topic.name in present]
    for topic in existing:
        found += _settings_of(admin, settings, topic)
    return [*found, *_rights(admin, settings, [topic.name for topic in existing])]


def _settings_of(admin: AdminClient, settings: Settings, topic: Wanted) -> list[Found]:
    (future,) = admin.describe_configs([ConfigResource("topic", topic.name)], request_timeout=_ANSWER_S).values()
    try:
        values = {name: entry.value for name, entry in future.result(timeout=_ANSWER_S).items()}
    except KafkaException as error:
        remedy = f"allow DescribeConfigs on {topic.name}: retention could not be checked"
        return [warning(f"{topic.name}: {client.cause_of(settings.kafka, error)}", remedy)]
    found = []
    if "compact" in (values.get("cleanup.policy") or ""):
        text = f"{topic.name} is compacted: only the newest event of each customer stays"
        found.append(failed(text, "set cleanup.policy=delete"))
    kept_ms = int(values.get("retention.ms") or -1)
    if 0 <= kept_ms < topic.kept_days * _DAY_MS:
        text = f"{topic.name} keeps records for {kept_ms / _DAY_MS:g} days: a rebuild and a replay reach no further"
        found.append(warning(text, f"set retention.ms={topic.kept_days * _DAY_MS}"))
    if kept_ms < 0:
        remedy = f"set retention.ms={topic.kept_days * _DAY_MS}: erased customers stay in it otherwise"
        found.append(warning(f"{topic.name} keeps records without limit", remedy))
    if int(values.get("max.message.bytes") or 0) < topic.max_bytes:
        remedy = f"set max.message.bytes={topic.max_bytes}"
        found.append(failed(f"{topic.name} refuses large events (max.message.bytes)", remedy))
    if settings.replication_factor > 1 and int(values.get("min.insync.replicas") or 1) < 2:
        remedy = "set min.insync.replicas=2: one broker's disk may hold the only copy of an event otherwise"
        found.append(failed(f"{topic.name}: an event is stored by one broker only (min.insync.replicas)", remedy))
    return found or [ok(f"{topic.name}: kept for {kept_ms / _DAY_MS:g} days")]


def _rights(admin: AdminClient, settings: Settings, topics: Sequence[str]) -> list[Found]:
    """The operations that the brokers allow this user, without trying any of them."""
    if not topics:
        return []
    described = admin.describe_topics(
        TopicCollection(list(topics)), include_authorized_operations=True, request_timeout=_ANSWER_S
    )
    missing = []
    for name, future in described.items():
        try:
            allowed = future.result(timeout=_ANSWER_S).authorized_operations
        except KafkaException as error:
            missing.append(f"{name}: {client.cause_of(settings.kafka, error)}")
            continue
        lacking = missing_rights(allowed)
        if lacking:
            missing.append(f"{', '.join(lacking)} on {name}")
    if missing:
        remedy = "fine if each process has a user of its own: docs/operations.md, Kafka, has the rights of each"
        return [warning(f"this user lacks rights: {'; '.join(missing)}", remedy)]
    return [ok("this user may read and write the topics")]


def missing_rights(allowed: Iterable[AclOperation] | None) -> list[str]:
    """The needed operations that are not allowed. None: the brokers have no authorizer, so all are."""
    if allowed is None:
        return []
    given = set(allowed)
    if AclOperation.ALL in given:
        return []
    return [name for operation, name in _NEEDED.items() if operation not in given]
