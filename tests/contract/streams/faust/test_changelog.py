"""The changelog topic of a worker's table exists before the worker joins its group."""

from __future__ import annotations

import pytest
from confluent_kafka.admin._config import ConfigResource

from eventlog import client
from schemas.kafka_access import KafkaAccess
from schemas.settings import InvalidSettings
from streams.faust.changelog import ensure_changelog


def test_it_is_created_once_compacted_with_the_partitions_of_the_log(kafka_bootstrap: str, topic_prefix: str) -> None:
    """Creating it twice is the same as once: every worker does it at its start."""
    name = f"{topic_prefix}.worker-seen-changelog"
    for _ in range(2):
        ensure_changelog(KafkaAccess(kafka_bootstrap), name, 3, 1)
    admin = client.admin(KafkaAccess(kafka_bootstrap))
    assert len(admin.list_topics(name, timeout=10).topics[name].partitions) == 3
    (described,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name)]).values()
    assert described.result(timeout=10)["cleanup.policy"].value == "compact"


def test_a_refused_changelog_is_an_error_of_its_own(kafka_bootstrap: str, topic_prefix: str) -> None:
    """Three replicas on one broker: the worker reports it in one line and does not start."""
    with pytest.raises(InvalidSettings, match=f"topic {topic_prefix}: .*replica"):
        ensure_changelog(KafkaAccess(kafka_bootstrap), topic_prefix, 1, 3)
