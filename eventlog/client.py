"""Builds every Kafka client outside Faust, and turns librdkafka's errors into LogUnavailable.

No client writes to stderr by itself: what librdkafka logs goes to the logger `librdkafka`. Without an error callback
nothing collects in the queue of a client that is rarely polled. The cause of a failure (a wrong password, an unknown
certificate authority) is found afterwards, by a connection of its own.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata

from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess, Property
from schemas.record import MAX_RECORD_BYTES
from schemas.settings import InvalidSettings

T = TypeVar("T")

TIMEOUT_S = 10.0
"""Seconds after which a request to the brokers has failed."""

_PROBE_S = 3.0
_SILENT = 0
"""librdkafka's log level for clients whose failures are reported by the caller."""

_AGAIN_S = 0.1
_LASTING = (KafkaError._AUTHENTICATION, KafkaError._SSL)
_CONNECTION = (*_LASTING, KafkaError._RESOLVE, KafkaError._TRANSPORT)
"""Codes of errors that explain why no broker answers, most telling first."""
_VAGUE = (
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._WAIT_COORD,
)
"""Codes that only say that no broker answered."""


def producer(
    access: KafkaAccess,
    *,
    client_id: str,
    properties: Mapping[str, Property] | None = None,
    on_error: Callable[[KafkaError], None] | None = None,
) -> Producer:
    """Returns a producer whose records count as stored once all in-sync replicas have them.

    `properties` replace the defaults. With `on_error` the caller must poll often: errors wait in the producer until
    then. Raises InvalidSettings if librdkafka refuses a property.
    """
    defaults: dict[str, Property] = {
        "client.id": client_id,
        "acks": "all",
        "enable.idempotence": True,
        # As in Java and aiokafka. librdkafka's default would put a customer on another partition.
        "partitioner": "murmur2_random",
        "compression.type": "lz4",
        "message.max.bytes": MAX_RECORD_BYTES,
        "delivery.timeout.ms": int(TIMEOUT_S * 1000),
        "linger.ms": 5,
        "reconnect.backoff.max.ms": 500,  # the default of 10 s would delay the reconnect after a short outage
        "log.connection.close": False,
    }
    if on_error is None:
        defaults["log_level"] = _SILENT
    callbacks = {} if on_error is None else {"error_cb": on_error}
    with _refused_properties():
        return Producer(merged_properties(access, defaults, properties) | callbacks, logger=_logger())


_LONGEST_KEPT_MS = 1000 * 365 * 86_400_000
"""1,000 years. Whoever sets more, for example the greatest number, means no limit, and a datetime cannot state it."""


def kept_for(millis: int) -> timedelta | None:
    """Returns the time of a topic's setting such as retention.ms, None for no limit."""
    return timedelta(milliseconds=millis) if 0 <= millis <= _LONGEST_KEPT_MS else None


def millis_of(moment: datetime) -> int:
    """Returns Kafka's time of a moment, in milliseconds since 1970, 0 for earlier: brokers refuse negative times."""
    return max(0, int(moment.timestamp() * 1000))


def consumer(access: KafkaAccess, *, group: str, properties: Mapping[str, Property] | None = None) -> Consumer:
    """Returns a consumer that commits nothing by itself. librdkafka requires a group id, also if it is never joined.

    Raises InvalidSettings if librdkafka refuses a property.
    """
    defaults: dict[str, Property] = {"group.id": group, "enable.auto.commit": False, "log_level": _SILENT}
    with _refused_properties():
        return Consumer(merged_properties(access, defaults, properties), logger=_logger())


def arrived(consumer: Consumer, most: int, *, within_s: float) -> list[Message]:
    """Returns what has arrived, at most `most` messages: errors and ends of partitions, too. Waits only for the first.

    `Consumer.consume` alone waits the whole time whenever there are fewer.
    """
    first = consumer.poll(within_s)
    return [] if first is None else [first, *consumer.consume(most - 1, timeout=0)]


def admin(access: KafkaAccess, *, properties: Mapping[str, Property] | None = None) -> AdminClient:
    """Returns an admin client. Raises InvalidSettings if librdkafka refuses a property."""
    with _refused_properties():
        return AdminClient(merged_properties(access, {"log_level": _SILENT}, properties), logger=_logger())


def cluster_metadata(
    client: Consumer | AdminClient, access: KafkaAccess, topic: str | None = None, *, within_s: float = TIMEOUT_S
) -> ClusterMetadata:
    """Returns what the brokers report about `topic`, or about all topics. Raises LogUnavailable with the cause.

    A refused login or certificate is reported at once; other causes are retried within the time.
    """
    deadline = time.monotonic() + within_s
    while True:
        timeout_s = max(0.1, min(_PROBE_S, deadline - time.monotonic()))
        try:
            found: ClusterMetadata = (
                client.list_topics(timeout=timeout_s) if topic is None else client.list_topics(topic, timeout=timeout_s)
            )
        except KafkaException as error:
            cause = error.args[0]
        else:
            return found
        if cause.code() in _VAGUE:
            cause = _probe(access) or cause
        if cause.code() in _LASTING or time.monotonic() >= deadline:
            raise LogUnavailable(f"Kafka does not answer: {_text(access, cause)}")


def partition_count(access: KafkaAccess, topic: str) -> int:
    """Returns the number of partitions. Raises LogUnavailable, and InvalidSettings if the topic does not exist."""
    found = cluster_metadata(admin(access), access, topic, within_s=15.0).topics[topic]
    if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise LogUnavailable(f"{topic}: {_text(access, found.error)}")
    if not found.partitions:
        raise InvalidSettings(f"there is no topic {topic}: run `billing topics` first")
    return len(found.partitions)


_NO_LEADER = (KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REPLICA_NOT_AVAILABLE)
"""Codes of a partition whose leader has just changed, or is new: the brokers list a topic before they serve it."""


def watermarks(consumer: Consumer, place: TopicPartition, *, within_s: float = TIMEOUT_S) -> tuple[int, int]:
    """Returns the first offset and the end of a partition; asks again while it has no leader. Raises KafkaException."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=max(0.1, deadline - time.monotonic()))
        except KafkaException as error:
            if error.args[0].code() not in _NO_LEADER or time.monotonic() >= deadline:
                raise
        time.sleep(_AGAIN_S)


_REFUSED_TOPIC = (
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_CONFIG,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_EXCEPTION,
)


def is_refused_topic(error: KafkaException) -> bool:
    """Whether the brokers refuse to create a topic with these settings, so that a retry can't succeed."""
    return error.args[0].code() in _REFUSED_TOPIC


def answer_of(future: Future[T], within_s: float = TIMEOUT_S) -> T:
    """Waits for the answer to an admin client's request, which has this limit itself. Raises KafkaException.

    Also if librdkafka reports nothing in time, which it does on a busy machine. Blocks.
    """
    try:
        return future.result(within_s + 1)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no answer within {within_s:g} s")) from None


@contextmanager
def log_errors(access: KafkaAccess, what: str) -> Iterator[None]:
    """Raises a KafkaException or BufferError of the block as LogUnavailable: `what`, then the cause."""
    try:
        yield
    except (KafkaException, BufferError) as error:
        raise LogUnavailable(f"{what}: {cause_of(access, error)}") from None


def cause_of(access: KafkaAccess, error: object) -> str:
    """Returns one line for a KafkaError, KafkaException, or BufferError. Asks the brokers if the error is vague.

    Blocks for up to 3 s. The line may contain addresses, and no secret.
    """
    cause = error.args[0] if isinstance(error, KafkaException) and error.args else error
    if not isinstance(cause, KafkaError):
        return str(cause)
    if cause.code() in _VAGUE:
        cause = _probe(access) or cause
    return _text(access, cause)


def _probe(access: KafkaAccess) -> KafkaError | None:
    """Connects once more and returns the error that best explains why no broker answers; None if one answers."""
    seen: list[KafkaError] = []
    properties = merged_properties(access, {"log_level": _SILENT, "socket.connection.setup.timeout.ms": 2000}, None)
    with _refused_properties():
        client = AdminClient(properties, logger=_logger(), error_cb=seen.append)
    deadline = time.monotonic() + _PROBE_S
    while time.monotonic() < deadline and not any(error.code() in _CONNECTION for error in seen):
        try:
            client.list_topics(timeout=0.5)
        except KafkaException as error:
            last = error.args[0]
            client.poll(0)
        else:
            return None
    ranked = sorted(
        (error for error in seen if error.code() in _CONNECTION), key=lambda error: _CONNECTION.index(error.code())
    )
    return ranked[0] if ranked else last


def _text(access: KafkaAccess, error: KafkaError) -> str:
    code = error.code()
    text = " ".join(error.str().split()).removesuffix(":") or error.name()
    if code == KafkaError._AUTHENTICATION:
        return f"the broker refuses the login (BILLING_KAFKA_SASL_*): {text}"
    if code == KafkaError._SSL:
        return f"the TLS connection fails (BILLING_KAFKA_SSL_*): {text}"
    if code in _MISSING_ACLS:
        return f"an ACL is missing (docs/operations.md lists them): {text}"
    if code in _VAGUE and (open_address := _open_address(access)) is not None and "refused" not in text:
        # librdkafka reports no cause if a broker closes a connection because it expects another protocol.
        return (
            f"{open_address} accepts the connection and does not answer: check "
            f"BILLING_KAFKA_SECURITY_PROTOCOL={access.protocol} ({text})"
        )
    return text


def _open_address(access: KafkaAccess) -> str | None:
    """Returns the first broker address that accepts connections now, None without one."""
    for address in access.bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
                return address.strip()
        except (OSError, ValueError):
            continue
    return None


_MISSING_ACLS = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
)


def merged_properties(
    access: KafkaAccess, defaults: Mapping[str, Property], properties: Mapping[str, Property] | None
) -> dict[str, Property]:
    """librdkafka's properties of a client: the operator's own replace ours, never the address and the security."""
    return {**defaults, **(properties or {}), **access.config, **access.properties()}


@contextmanager
def _refused_properties() -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        cause = error.args[0]
        text = cause.str() if isinstance(cause, KafkaError) else str(cause)
        raise InvalidSettings(f"BILLING_KAFKA_*: {' '.join(text.split())}") from None


def _logger() -> logging.Logger:
    return logging.getLogger("librdkafka")
