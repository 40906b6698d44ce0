"""B6: Kafka's retention is read from the brokers, and reported if it is longer than the delay of an erasure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka.cimpl import NewTopic

from eventlog import client
from eventlog.expiry import old_unread, retention_of
from eventlog.groups import Groups
from eventlog.retention import KafkaKeeps, kafka_keeps, longest_stay, warn_if_endless, warn_if_too_long
from schemas.kafka_access import KafkaAccess
from schemas.settings import Rules
from tests.kits.gatewaykit import create_topics

DAY_MS = 86_400_000


def test_our_own_topics_drop_an_event_before_its_customer_is_erased(kafka_bootstrap: str, topic_prefix: str) -> None:
    keeps = kafka_keeps(create_topics(kafka_bootstrap, topic_prefix, partitions=1))
    assert keeps == KafkaKeeps(events=timedelta(days=29), dead_letters=timedelta(days=91))
    assert warn_if_too_long(keeps, Rules().erase_after_days) is None
    assert warn_if_endless(keeps) is None


def test_a_topic_with_too_long_retention_is_reported(kafka_bootstrap: str, topic_prefix: str) -> None:
    admin = client.admin(KafkaAccess(kafka_bootstrap))
    longer = NewTopic(f"{topic_prefix}.events", 12, 1, config={"retention.ms": str(40 * DAY_MS), "segment.ms": "1000"})
    for creation in admin.create_topics([longer]).values():
        creation.result(timeout=30)
    keeps = kafka_keeps(create_topics(kafka_bootstrap, topic_prefix))
    warning = warn_if_too_long(keeps, 30)
    assert warning is not None
    assert "for 40" in warning


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


def test_dead_letters_without_a_retention_limit_are_reported() -> None:
    """Without a limit `dead_letters_until` is empty, as for a customer without dead letters."""
    assert warn_if_endless(KafkaKeeps(events=timedelta(days=29))) is not None


@pytest.mark.parametrize("keeps", [KafkaKeeps(), KafkaKeeps(events=timedelta(days=30))])
def test_unknown_retention_or_as_long_as_the_delay_is_too_long(keeps: KafkaKeeps) -> None:
    assert warn_if_too_long(keeps, 30) is not None


def test_T13_unread_records_past_half_of_the_retention_are_counted(kafka_bootstrap: str, topic_prefix: str) -> None:
    settings = create_topics(kafka_bootstrap, topic_prefix, partitions=2)
    now = datetime.now(UTC)
    producer = client.producer(settings.kafka, client_id="test")
    for days, partition in ((20, 0), (16, 0), (10, 0), (20, 1)):
        at = int((now - timedelta(days=days)).timestamp() * 1000)
        producer.produce(settings.events_topic, value=b"{}", partition=partition, timestamp=at)
    assert producer.flush(30) == 0
    assert retention_of(settings) == timedelta(days=28)

    assert old_unread(settings, now) == 3
    Groups(settings.kafka).commit(f"{topic_prefix}.worker", settings.events_topic, {0: 1, 1: 1})
    assert old_unread(settings, now) == 1
    Groups(settings.kafka).commit(f"{topic_prefix}.worker", settings.events_topic, {0: 2})
    assert old_unread(settings, now) == 0


def test_T13_only_groups_that_exist_have_unread_records(kafka_bootstrap: str, topic_prefix: str) -> None:
    """A system of one group per stream has no group of all streams."""
    settings = create_topics(kafka_bootstrap, topic_prefix, partitions=1)
    now = datetime.now(UTC)
    producer = client.producer(settings.kafka, client_id="test")
    at = int((now - timedelta(days=20)).timestamp() * 1000)
    producer.produce(settings.events_topic, value=b"{}", partition=0, timestamp=at)
    assert producer.flush(30) == 0
    Groups(settings.kafka).commit(f"{topic_prefix}.worker.invoices", settings.events_topic, {0: 1})
    assert old_unread(settings, now) == 0
