"""The changelog topic of a worker's table exists before the worker joins its group."""

from __future__ import annotations

import pytest
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic

from eventlog import client
from schemas.kafka_access import KafkaAccess
from schemas.settings import InvalidSettings
from streams.faust.changelog import changelog_settings, ensure_changelog

KEEP_S = 73 * 3600.0


def settings_of(kafka_bootstrap: str, name: str) -> dict[str, str]:
    topic = ConfigResource(ConfigResource.Type.TOPIC, name)
    admin = client.admin(KafkaAccess(kafka_bootstrap))
    described = admin.describe_configs([topic])[topic].result(timeout=30)
    return {key: entry.value for key, entry in described.items()}


def test_it_is_created_once_with_the_partitions_of_the_log(kafka_bootstrap: str, topic_prefix: str) -> None:
    """Creating it twice is the same as once: every worker does it at its start."""
    name = f"{topic_prefix}.worker-seen-changelog"
    for _ in range(2):
        ensure_changelog(KafkaAccess(kafka_bootstrap), name, 3, 1, keep_s=KEEP_S)
    admin = client.admin(KafkaAccess(kafka_bootstrap))
    assert len(admin.list_topics(name, timeout=30).topics[name].partitions) == 3
    found = settings_of(kafka_bootstrap, name)
    assert found["cleanup.policy"] == "compact,delete"
    assert found["segment.ms"] == "3600000"
    assert found["min.cleanable.dirty.ratio"] == "0.1"
    assert found["retention.ms"] == str(74 * 3_600_000)


def test_the_changelog_of_an_earlier_version_gets_the_settings(kafka_bootstrap: str, topic_prefix: str) -> None:
    """It was compacted only, once a week; and the horizon may have been changed since."""
    name = f"{topic_prefix}.worker-seen-changelog"
    admin = client.admin(KafkaAccess(kafka_bootstrap))
    old = NewTopic(name, num_partitions=1, replication_factor=1, config={"cleanup.policy": "compact"})
    admin.create_topics([old])[name].result(30)
    for keep_s in (KEEP_S, 2 * KEEP_S):
        ensure_changelog(KafkaAccess(kafka_bootstrap), name, 1, 1, keep_s=keep_s)
        wanted = changelog_settings(keep_s)
        assert wanted.items() <= settings_of(kafka_bootstrap, name).items()


def test_a_refused_changelog_is_an_error_of_its_own(kafka_bootstrap: str, topic_prefix: str) -> None:
    """Three replicas on one broker: the worker reports it in one line and does not start."""
    with pytest.raises(InvalidSettings, match=f"topic {topic_prefix}: .*replica"):
        ensure_changelog(KafkaAccess(kafka_bootstrap), topic_prefix, 1, 3, keep_s=KEEP_S)
