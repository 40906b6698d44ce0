"""Creates the topics of this system, and compares existing ones with what it needs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from eventlog import client
from eventlog.topic_settings import DAY_MS, Needs, describe, differences
from schemas.errors import BillingError, LogUnavailable
from schemas.record import MAX_DEAD_LETTER_BYTES, MAX_RECORD_BYTES
from schemas.settings import InvalidSettings, Settings

TIMEOUT_S = 10.0


EVENTS_KEPT_DAYS = 28
"""Two days less than the 30 days to the erasure of a customer: one for the segment, one to spare (behaviours.md B6)."""


SEGMENT_DAYS = 1
"""Kafka deletes only whole segments, so a record may stay this much longer than the retention time."""


DEAD_KEPT_DAYS = 90


CHANGES_KEPT_DAYS = 28


LEAST_KEPT_DAYS = 7
"""Fewer days do not outlast a long weekend's outage, or the search for the cause of dead letters."""


class TopicsUnusable(BillingError):
    """A topic has the wrong partition count or can't be created with these settings. The message is one line."""


@dataclass(frozen=True, slots=True)
class WantedTopic:
    """The settings that one topic should have."""

    name: str
    kept_days: int
    max_bytes: int

    def new_topic(self, partitions: int, replication_factor: int) -> NewTopic:
        return NewTopic(
            self.name,
            num_partitions=partitions,
            replication_factor=replication_factor,
            config={
                "cleanup.policy": "delete",
                "retention.ms": str(self.kept_days * DAY_MS),
                "segment.ms": str(SEGMENT_DAYS * DAY_MS),
                "max.message.bytes": str(self.max_bytes),
                # With three replicas `acks=all` then needs at least two, so one broker may be down.
                "min.insync.replicas": str(max(1, replication_factor - 1)),
            },
        )

    def needs(self, replication_factor: int, erase_after_days: int) -> Needs:
        """What an existing topic must have. Events must be gone before their customer is erased, dead letters not."""
        return Needs(
            cleanup="delete",
            max_bytes=self.max_bytes,
            least_days=LEAST_KEPT_DAYS,
            most_days=max(self.kept_days, erase_after_days - 2 * SEGMENT_DAYS),
            replicas=replication_factor,
        )


def wanted_topics(settings: Settings, *, with_changes: bool = False) -> tuple[WantedTopic, ...]:
    """Returns the events topic, the dead-letter topic and, if asked, the topic of changes of these settings."""
    changes = WantedTopic(settings.changes_topic, CHANGES_KEPT_DAYS, MAX_RECORD_BYTES)
    return (
        WantedTopic(settings.events_topic, EVENTS_KEPT_DAYS, MAX_RECORD_BYTES),
        WantedTopic(settings.dead_topic, DEAD_KEPT_DAYS, MAX_DEAD_LETTER_BYTES),
        *((changes,) if with_changes else ()),
    )


def changelog_of(group: str) -> str:
    """Returns the topic in which Faust keeps the worker's table of settled ids."""
    return f"{group}-seen-changelog"


def ensure_topics(settings: Settings, *, with_changes: bool = False, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """Creates missing topics. Returns `created` or `present` by topic name. Raises TopicsUnusable, LogUnavailable."""
    admin = client.admin(settings.kafka)
    wanted = wanted_topics(settings, with_changes=with_changes)
    outcome = {topic.name: "present" for topic in wanted}
    present = _partition_counts(admin, settings, timeout_s)
    missing = [topic for topic in wanted if topic.name not in present]
    if missing:
        new = [topic.new_topic(settings.partitions, settings.replication_factor) for topic in missing]
        for name, future in admin.create_topics(new, operation_timeout=timeout_s, request_timeout=timeout_s).items():
            try:
                client.answer_of(future, timeout_s)
                outcome[name] = "created"
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # created by another process: checked below
                    kind = TopicsUnusable if client.is_refused_topic(error) else LogUnavailable
                    raise kind(f"topic {name}: {client.cause_of(settings.kafka, error)}") from None
        created = {name: settings.partitions for name, state in outcome.items() if state == "created"}
        # The broker's answer may be from before the creation, by this process or by another.
        deadline = time.monotonic() + timeout_s
        present |= created
        while not present.keys() >= outcome.keys():
            if time.monotonic() > deadline:
                raise LogUnavailable(
                    f"topics {', '.join(outcome.keys() - present.keys())}: the brokers do not show them"
                )
            time.sleep(0.1)
            present = _partition_counts(admin, settings, timeout_s) | created
    wrong = [
        f"{topic.name} has {present[topic.name]} partitions"
        for topic in wanted
        if present[topic.name] != settings.partitions
    ]
    if wrong:
        raise TopicsUnusable(
            f"{'; '.join(wrong)}; BILLING_PARTITIONS is {settings.partitions}: to change the count, run "
            f"{_repartition(settings.partitions)} (docs/scaling.md)"
        )
    return outcome


@dataclass(frozen=True, slots=True)
class TopicComparison:
    """The existing topics, compared with what is needed."""

    differences: list[str]
    """One line for each setting that is not as needed."""
    unread: list[str]
    """Topics whose settings this user may not read (DescribeConfigs): they may differ."""


def compare_settings(
    settings: Settings, *, erase_after_days: int = EVENTS_KEPT_DAYS + 2, changelogs: tuple[str, ...] = ()
) -> TopicComparison:
    """Compares the settings of the existing topics. Blocks. Raises LogUnavailable."""
    wanted = {
        topic.name: topic.needs(settings.replication_factor, erase_after_days)
        for topic in wanted_topics(settings, with_changes=True)
    }
    wanted |= {name: Needs(cleanup="compact", replicas=settings.replication_factor) for name in changelogs}
    found = describe(settings.kafka, wanted)
    lines = [line for name, needs in wanted.items() if name in found for line in differences(found[name], needs)]
    return TopicComparison(lines, [name for name in wanted if name in found and found[name].config is None])


def check_partitions(settings: Settings, changelogs: tuple[str, ...]) -> int:
    """Returns the partition count that events, dead letters and changelogs share; a changelog may be missing yet.

    Raises InvalidSettings if the counts differ or there is no events topic, and LogUnavailable.
    """
    partitions = client.partition_count(settings.kafka, settings.events_topic)
    listed = partition_counts(settings)
    others = {
        name: listed[name] for name in (settings.dead_topic, settings.changes_topic, *changelogs) if name in listed
    }
    if different := [f"{name} {count}" for name, count in others.items() if count != partitions]:
        raise InvalidSettings(
            f"{settings.events_topic} has {partitions} partitions, but {', '.join(different)}: they must be equal, "
            "or events of one customer are applied out of order. Stop the gateways and run "
            f"{_repartition(max(partitions, *others.values()))} (docs/scaling.md)"
        )
    return partitions


def _repartition(partitions: int) -> str:
    return f"billing topics --repartition {partitions}"


def partition_counts(settings: Settings) -> dict[str, int]:
    """Returns the partition count of each topic of the cluster. Blocks. Raises LogUnavailable."""
    return _partition_counts(client.admin(settings.kafka), settings, TIMEOUT_S)


def _partition_counts(admin: AdminClient, settings: Settings, timeout_s: float) -> dict[str, int]:
    listed = client.cluster_metadata(admin, settings.kafka, within_s=timeout_s).topics
    return {name: len(topic.partitions) for name, topic in listed.items() if topic.error is None}
