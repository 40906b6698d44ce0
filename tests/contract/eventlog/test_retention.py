"""B6: what Kafka keeps is asked of the brokers, and said when it outlives the erasure."""

from __future__ import annotations

from datetime import timedelta

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from eventlog.retention import KafkaKeeps, kafka_keeps, longest_stay, warn_if_endless, warn_if_too_long
from schemas.settings import Rules
from tests.kits.gatewaykit import create_topics

DAY_MS = 86_400_000


def test_our_own_topics_forget_an_event_before_its_customer_is_erased(kafka_bootstrap: str, topic_prefix: str) -> None:
    keeps = kafka_keeps(create_topics(kafka_bootstrap, topic_prefix, partitions=1))
    assert keeps == KafkaKeeps(events=timedelta(days=29), dead_letters=timedelta(days=91))
    assert warn_if_too_long(keeps, Rules().erase_after_days) is None
    assert warn_if_endless(keeps) is None


def test_a_topic_that_keeps_too_long_is_said(kafka_bootstrap: str, topic_prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    longer = NewTopic(f"{topic_prefix}.events", 12, 1, config={"retention.ms": str(40 * DAY_MS), "segment.ms": "1000"})
    for creation in admin.create_topics([longer]).values():
        creation.result(timeout=15)
    keeps = kafka_keeps(create_topics(kafka_bootstrap, topic_prefix))
    said = warn_if_too_long(keeps, 30)
    assert said is not None
    assert "for 40" in said


@pytest.mark.parametrize(
    ("values", "stay"),
    [
        ({"retention.ms": "1000", "segment.ms": "500", "cleanup.policy": "delete"}, timedelta(seconds=1.5)),
        ({"retention.ms": "-1", "segment.ms": "500", "cleanup.policy": "delete"}, None),
        ({"retention.ms": "1000", "segment.ms": "500", "cleanup.policy": "compact"}, None),
        ({"retention.ms": "1000", "cleanup.policy": "compact,delete"}, timedelta(seconds=1)),
        ({}, None),
    ],
)
def test_a_record_stays_as_long_as_its_segment(values: dict[str, str | None], stay: timedelta | None) -> None:
    assert longest_stay(values) == stay


def test_dead_letters_without_an_end_are_said() -> None:
    """Without an end `dead_letters_until` is empty, as it is for a customer who has none."""
    assert warn_if_endless(KafkaKeeps(events=timedelta(days=29))) is not None


@pytest.mark.parametrize("keeps", [KafkaKeeps(), KafkaKeeps(events=timedelta(days=30))])
def test_what_is_not_known_or_as_long_as_the_delay_is_too_long(keeps: KafkaKeeps) -> None:
    assert warn_if_too_long(keeps, 30) is not None
