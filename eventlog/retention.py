"""How long Kafka keeps what was erased: asked of the brokers at start, said in each erasure's row (B6)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource

from schemas.settings import Settings

log = structlog.get_logger(__name__)

TIMEOUT_S = 15.0


def kafka_keeps(settings: Settings) -> KafkaKeeps:
    """What the two topics keep a record for; not known where Kafka does not say."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0})
    names = (settings.events_topic, settings.dead_topic)
    resources = [ConfigResource("topic", name) for name in names]
    asked = admin.describe_configs(resources, request_timeout=TIMEOUT_S)
    found: dict[str, timedelta | None] = {}
    for resource, future in asked.items():
        try:
            entries = future.result(timeout=TIMEOUT_S + 5.0)
        except KafkaException as error:
            reason = error.args[0].str()
            log.warning("retention.unknown", action="retention.unknown", topic=resource.name, error=reason)
            found[resource.name] = None
            continue
        values = {name: entry.value for name, entry in entries.items()}
        found[resource.name] = longest_stay(values)
    return KafkaKeeps(events=found[settings.events_topic], dead_letters=found[settings.dead_topic])


def longest_stay(values: dict[str, str | None]) -> timedelta | None:
    """Of a record, by its topic's configuration; None: for ever. A segment goes as a whole, when its last is old."""
    retention, segment = int(values.get("retention.ms") or -1), int(values.get("segment.ms") or 0)
    if retention < 0 or "delete" not in (values.get("cleanup.policy") or ""):
        return None
    return timedelta(milliseconds=retention + segment)


def warn_if_endless(keeps: KafkaKeeps) -> str | None:
    """Says that no erasure can tell when Kafka forgets a customer's dead letters; returns what it said."""
    if keeps.dead_letters is not None:
        return None
    reason = "Kafka keeps dead letters for no known time, those of erased customers too: set their topic's retention.ms"
    log.error("retention.endless", action="retention.endless", reason=reason)
    return reason


def warn_if_too_long(keeps: KafkaKeeps, erase_after_days: int) -> str | None:
    """Says it loudly when the log still holds a customer's events at the time they are erased; returns what it said."""
    if keeps.events is not None and keeps.events < timedelta(days=erase_after_days):
        return None
    kept = f"for {keeps.events / timedelta(days=1):g} days" if keeps.events is not None else "for no known time"
    reason = f"Kafka keeps events {kept}, and customers are erased after {erase_after_days} days: shorten retention.ms"
    log.error("retention.too_long", action="retention.too_long", reason=reason)
    return reason


@dataclass(frozen=True, slots=True)
class KafkaKeeps:
    """How long at most a record stays in the two topics, as the brokers say; None: for ever, or not known."""

    events: timedelta | None = None
    dead_letters: timedelta | None = None
