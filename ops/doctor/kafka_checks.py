"""Checks of Kafka: reachable, topics and their settings, and the rights of this user. Blocking calls run in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclOperation

from eventlog import client
from eventlog.groups import Groups
from eventlog.topics import TopicComparison, changelog_of, compare_settings, wanted_topics
from ops.doctor.findings import CheckResult, Situation, failed, ok, warning
from schemas.settings import Config, Settings

_ANSWER_S = 8.0
_NEEDED = {AclOperation.DESCRIBE: "Describe", AclOperation.READ: "Read", AclOperation.WRITE: "Write"}


async def check_kafka(situation: Situation) -> Sequence[CheckResult]:
    return await asyncio.to_thread(_check, situation.settings, situation.config)


def _check(settings: Settings, config: Config) -> list[CheckResult]:
    admin = client.admin(settings.kafka)
    cluster = client.cluster_metadata(admin, settings.kafka, within_s=_ANSWER_S)
    brokers = len(cluster.brokers)
    found = [ok(f"{settings.kafka_bootstrap}: {brokers} brokers, {settings.kafka_security_protocol}")]
    if brokers < 3:
        remedy = "three brokers, and BILLING_REPLICATION_FACTOR=3 before `billing topics`, survive the loss of one"
        found.append(warning(f"{brokers} brokers: the loss of one stops everything", remedy))
    wanted = wanted_topics(settings, with_changes=config.feed.topic)
    present = {name: len(topic.partitions) for name, topic in cluster.topics.items() if topic.error is None}
    for topic in wanted:
        if topic.name not in present:
            found.append(failed(f"there is no topic {topic.name}", "run `billing topics`"))
        elif present[topic.name] != settings.partitions:
            text = f"{topic.name} has {present[topic.name]} partitions, BILLING_PARTITIONS is {settings.partitions}"
            found.append(failed(text, f"set BILLING_PARTITIONS={present[topic.name]}; more of them: docs/scaling.md"))
    existing = [topic.name for topic in wanted if topic.name in present]
    changelogs = tuple(changelog_of(group) for group in Groups(settings.kafka).names(settings.topic_prefix))
    compared = compare_settings(settings, erase_after_days=config.rules.erase_after_days, changelogs=changelogs)
    if existing:
        found += settings_findings(compared)
    return [*found, *_rights(admin, settings, existing)]


def settings_findings(compared: TopicComparison) -> list[CheckResult]:
    """Returns a finding for each topic setting that does not fit, and one for topics whose settings are not known."""
    remedy = "change it with Kafka's tools: docs/runbook.md, A topic was changed"
    found = [failed(line, remedy) for line in compared.differences]
    if compared.unread:
        names = ", ".join(compared.unread)
        found.append(warning(f"the settings of {names} could not be read", "allow this user DescribeConfigs on them"))
    return found or [ok("the settings of the topics fit")]


def _rights(admin: AdminClient, settings: Settings, topics: Sequence[str]) -> list[CheckResult]:
    """The operations that the brokers allow this user, without trying any of them."""
    if not topics:
        return []
    described = admin.describe_topics(
        TopicCollection(list(topics)), include_authorized_operations=True, request_timeout=_ANSWER_S
    )
    missing = []
    for name, future in described.items():
        try:
            allowed = client.answer_of(future, _ANSWER_S).authorized_operations
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
