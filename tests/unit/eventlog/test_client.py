"""All Kafka clients come from one factory, and what the factory makes of settings and errors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from pydantic import SecretStr

from eventlog import client
from eventlog.entry import Entry
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess, SaslMechanism, SecurityProtocol, parse_kafka_config
from schemas.record import RecordHeaders, Source
from schemas.settings import InvalidSettings
from tests.paths import MADE, ROOT

_KINDS = {"Producer", "Consumer", "AdminClient"}
_FACTORY = "eventlog/client.py"
_OUTSIDE = {"docs/examples/consumer.py"}
"""An example for consumers outside this project, which use neither its settings nor its code."""

CLOSED = KafkaAccess("127.0.0.1:1")

_CRASHES = {"list_consumer_group_offsets": set[str](), "describe_consumer_groups": {"eventlog/access.py"}}
"""What may end a process, with the modules that use it all the same: once, when the process starts."""


def _sources() -> Iterator[Path]:
    for folder in ROOT.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in MADE:
            yield from folder.rglob("*.py")


def _kinds_called(path: Path) -> set[str]:
    source = path.read_text()
    if not any(f"{kind}(" in source for kind in _KINDS):  # parsing every file would take seconds
        return set()
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    names = {f.id if isinstance(f, ast.Name) else f.attr for f in calls if isinstance(f, ast.Name | ast.Attribute)}
    return names & _KINDS


def test_clients_are_built_in_one_place() -> None:
    found = {str(path.relative_to(ROOT)): kinds for path in _sources() if (kinds := _kinds_called(path))}
    assert found.pop(_FACTORY) == _KINDS
    assert set(found) == _OUTSIDE


@pytest.mark.parametrize("name", _CRASHES)
def test_nothing_that_runs_for_long_calls_what_ends_a_process_when_a_broker_goes(name: str) -> None:
    """librdkafka's issues 5040 (a SIGSEGV) and 4605 (a SIGABRT). `Groups` reads the same by other requests."""
    found = {str(path.relative_to(ROOT)) for path in _sources() if f".{name}(" in path.read_text()}
    assert {path for path in found if not path.startswith("tests/")} == _CRASHES[name]


def test_a_request_without_an_answer_is_an_error_of_kafka() -> None:
    """librdkafka reports its own time limit late on a busy machine. A TimeoutError would be a traceback."""
    with pytest.raises(KafkaException, match="no answer within"):
        client.answer_of(Future[str](), -1.0)
    with pytest.raises(LogUnavailable, match="topic x: "), client.log_errors(CLOSED, "topic x"):
        client.answer_of(Future[str](), -1.0)


def test_nothing_else_waits_for_the_answer_of_a_request_to_kafka() -> None:
    waits = re.compile(r"\.result\([^)]")  # with a time limit
    found = {str(path.relative_to(ROOT)) for path in _sources() if waits.search(path.read_text())}
    assert {path for path in found if not path.startswith(("tests/", "bench/"))} == {_FACTORY}


def test_properties_cannot_replace_security_and_addresses() -> None:
    access = KafkaAccess(
        "kafka.example:9093",
        protocol=SecurityProtocol.SASL_SSL,
        mechanism=SaslMechanism.SCRAM_SHA_256,
        username="billing",
        password=SecretStr("hidden"),
        ssl_ca=Path("/ca.pem"),
        config={"client.rack": "a"},
    )
    assert access.properties() == {
        "bootstrap.servers": "kafka.example:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "billing",
        "sasl.password": "hidden",
        "ssl.ca.location": "/ca.pem",
    }
    merged = client.merged_properties(access, {"linger.ms": 5}, {"bootstrap.servers": "elsewhere:1"})
    assert merged["bootstrap.servers"] == "kafka.example:9093"
    assert merged["client.rack"] == "a"
    assert "hidden" not in repr(access)


@pytest.mark.parametrize(
    "text",
    [
        "acks=0",
        "enable.idempotence=false",
        "partitioner=random",
        "ssl.endpoint.identification.algorithm=none",
        "enable.ssl.certificate.verification=false",
        "security.protocol=PLAINTEXT",
        "sasl.password=x",
        "bootstrap.servers=a:1",
        "enable.auto.commit=true",
        "group.id=x",
        "plugin.library.paths=/tmp/x.so",
        "linger.ms",
        "=5",
        "linger.ms=",
        "linger.ms=1,linger.ms=2",
    ],
)
def test_properties_that_are_relied_on_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be set here|not of the form|is set twice"):
        parse_kafka_config(text)


def test_other_properties_reach_librdkafka() -> None:
    assert parse_kafka_config(" client.rack=a , socket.keepalive.enable=true,") == {
        "client.rack": "a",
        "socket.keepalive.enable": "true",
    }
    with pytest.raises(InvalidSettings, match=r"BILLING_KAFKA_\*.*no\.such\.property"):
        client.admin(KafkaAccess("127.0.0.1:1", config={"no.such.property": "1"}))


def test_vague_errors_get_their_cause() -> None:
    with (
        pytest.raises(LogUnavailable, match=r"^the topic: 127\.0\.0\.1:1/.*Connection refused"),
        client.log_errors(CLOSED, "the topic"),
    ):
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))
    with pytest.raises(LogUnavailable, match=r"^the topic: queue full$"), client.log_errors(CLOSED, "the topic"):
        raise BufferError("queue full")


def test_missing_acls_are_named() -> None:
    for code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
        assert "an ACL is missing" in client.cause_of(CLOSED, KafkaError(code))


@pytest.mark.parametrize(
    ("bootstrap", "expected"),
    [
        ("127.0.0.1:9092", False),
        ("localhost:9092,[::1]:9092", False),
        ("127.0.0.1:9092,kafka:9092", True),
        ("10.0.0.1:9092", True),
        ("127.0.0.1.evil.example:9092", True),
    ],
)
def test_plaintext_beyond_loopback_is_recognized(bootstrap: str, expected: bool) -> None:
    assert KafkaAccess(bootstrap).is_plain_beyond_loopback is expected
    assert not KafkaAccess(bootstrap, protocol=SecurityProtocol.SSL).is_plain_beyond_loopback


def test_headers_have_utc_with_microseconds() -> None:
    moment = datetime(2026, 3, 1, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    headers = dict(RecordHeaders("evt_1", "x", Source.TIMER, "", True, "", "", moment).encode())
    assert headers["received_at"] == b"2026-03-01T12:00:00.000000+00:00"


def test_an_entry_has_the_event_s_key_and_exact_body() -> None:
    event = {"id": "evt_1", "type": "invoice.paid", "data": {"object": {"object": "invoice", "customer": "cus_1"}}}
    body = b'{"id": "evt_1"}'
    entry = Entry.of(
        event,
        body,
        source=Source.REPLAY,
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
        livemode=True,
        account="acct_1",
        api_version=None,
    )
    assert (entry.key, entry.value) == (b"cus_1", body)
    assert entry.headers == (
        ("event_id", b"evt_1"),
        ("type", b"invoice.paid"),
        ("source", b"replay"),
        ("account", b"acct_1"),
        ("livemode", b"true"),
        ("api_version", b""),
        ("endpoint", b""),
        ("received_at", b"2026-01-01T00:00:00.000000+00:00"),
    )


class _WithoutLeader:
    """A consumer of a partition that has no leader for some requests. No broker is made to be in that state."""

    def __init__(self, requests: int, code: int = KafkaError.NOT_LEADER_FOR_PARTITION) -> None:
        self.requests = requests
        self.code = code

    def get_watermark_offsets(self, _: TopicPartition, timeout: float) -> tuple[int, int]:
        assert timeout > 0
        if self.requests:
            self.requests -= 1
            raise KafkaException(KafkaError(self.code))
        return 3, 7


def test_a_new_partition_is_asked_again_until_it_has_a_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventlog.client._AGAIN_S", 0.0)
    place = TopicPartition("t", 0)
    assert client.watermarks(cast("Consumer", _WithoutLeader(2)), place) == (3, 7)
    with pytest.raises(KafkaException):
        client.watermarks(cast("Consumer", _WithoutLeader(1)), place, within_s=0.0)
    unknown = _WithoutLeader(1, KafkaError.UNKNOWN_TOPIC_OR_PART)
    with pytest.raises(KafkaException):
        client.watermarks(cast("Consumer", unknown), place)
