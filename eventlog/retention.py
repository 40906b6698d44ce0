"""Reads from the brokers how long Kafka keeps records of an erased customer; each erasure's row stores it (B6)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin._config import ConfigResource

from eventlog import client
from schemas.settings import Settings

log = structlog.get_logger(__name__)

TIMEOUT_S = 15.0


def kafka_keeps(settings: Settings) -> KafkaKeeps:
    """Returns how long the two topics keep a record; None for a topic whose configuration can't be read."""
    admin = client.admin(settings.kafka)
    names = (settings.events_topic, settings.dead_topic)
    resources = [ConfigResource("topic", name) for name in names]
    requests = admin.describe_configs(resources, request_timeout=TIMEOUT_S)
    found: dict[str, timedelta | None] = {}
    for resource, future in requests.items():
        try:
            entries = client.answer_of(future, TIMEOUT_S)
        except KafkaException as error:
            reason = client.cause_of(settings.kafka, error)
            log.warning("retention.unknown", action="retention.unknown", topic=resource.name, error=reason)
            found[resource.name] = None
            continue
        values = {name: entry.value for name, entry in entries.items()}
        found[resource.name] = longest_stay(values)
    return KafkaKeeps(events=found[settings.events_topic], dead_letters=found[settings.dead_topic])


def longest_stay(values: dict[str, str | None]) -> timedelta | None:
    """Returns the longest time a record can stay in the topic, None if unlimited. Kafka deletes whole segments."""
    retention, segment = int(values.get("retention.ms") or -1), int(values.get("segment.ms") or 0)
    if retention < 0 or "delete" not in (values.get("cleanup.policy") or ""):
        return None
    return client.kept_for(retention + segment)


def warn_if_endless(keeps: KafkaKeeps) -> str | None:
    """Logs an error if dead letters have no time limit, since erasures can't state one. Returns the message or None."""
    if keeps.dead_letters is not None:
        return None
    reason = (
        "Kafka keeps dead letters without a known limit, also those of erased customers: set their topic's retention.ms"
    )
    log.error("retention.endless", action="retention.endless", reason=reason)
    return reason


def warn_if_too_long(keeps: KafkaKeeps, erase_after_days: int) -> str | None:
    """Logs an error if the log still has a customer's events when they are erased. Returns the message or None."""
    if keeps.events is not None and keeps.events < timedelta(days=erase_after_days):
        return None
    kept = f"for {keeps.events / timedelta(days=1):g} days" if keeps.events is not None else "without a known limit"
    reason = f"Kafka keeps events {kept}, and customers are erased after {erase_after_days} days: shorten retention.ms"
    log.error("retention.too_long", action="retention.too_long", reason=reason)
    return reason


@dataclass(frozen=True, slots=True)
class KafkaKeeps:
    """The longest time a record stays in the two topics, as the brokers report it. None: unlimited or unknown."""

    events: timedelta | None = None
    dead_letters: timedelta | None = None
