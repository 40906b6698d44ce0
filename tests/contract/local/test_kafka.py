"""The embedded Kafka: acknowledged records survive an orderly stop and a kill -9, on the same ports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.cimpl import NewTopic

from eventlog import client
from local.stack.kafka import EmbeddedKafka, OtherBrokers
from local.stack.process import ServerNotReady
from schemas.kafka_access import KafkaAccess
from tests import services


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A broker for this test alone, because the test kills it."""
    broker = EmbeddedKafka(tmp_path / "state, with a comma")
    yield broker
    broker.stop()


def _produce(bootstrap: str, value: bytes) -> None:
    producer = client.producer(KafkaAccess(bootstrap), client_id="test")
    producer.produce("kept", value, partition=0)
    assert producer.flush(30) == 0


def _read(bootstrap: str, count: int) -> list[bytes | None]:
    consumer = client.consumer(KafkaAccess(bootstrap), group="reader")
    try:
        consumer.assign([TopicPartition("kept", 0, 0)])
        return [message.value() for message in consumer.consume(count, timeout=30)]
    finally:
        consumer.close()


def _is_running(kafka: EmbeddedKafka) -> bool:
    return any(process.pid is not None for process in kafka.processes)


def _is_wanted(kafka: EmbeddedKafka) -> bool:
    return all(process.wanted for process in kafka.processes)


def test_data_and_ports_survive_stop_and_kill(kafka: EmbeddedKafka) -> None:
    """Each acknowledged record is there after a stop and after a kill -9, at the same address."""
    kafka.start()
    bootstrap, first_pid = kafka.bootstrap, kafka.processes[0].pid
    admin = client.admin(KafkaAccess(bootstrap))
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(30)
    _produce(bootstrap, b"before the stop")
    kafka.stop()
    assert (_is_running(kafka), _is_wanted(kafka)) == (False, False)

    kafka.start()
    assert kafka.bootstrap == bootstrap
    assert kafka.processes[0].pid != first_pid
    _produce(bootstrap, b"before the kill")
    kafka.kill()
    assert (_is_running(kafka), _is_wanted(kafka)) == (False, True)

    kafka.start()
    assert _read(bootstrap, 2) == [b"before the stop", b"before the kill"]


def test_three_brokers_serve_while_one_is_dead(tmp_path: Path) -> None:
    """One of three brokers is killed: acknowledged records can be read, and new ones are accepted."""
    kafka = EmbeddedKafka(tmp_path, brokers=3)
    try:
        kafka.start()
        admin = client.admin(KafkaAccess(kafka.bootstrap))
        admin.create_topics([NewTopic("kept", 1, 3)])["kept"].result(30)
        _produce(kafka.bootstrap, b"before the kill")
        leader = admin.list_topics("kept", timeout=30).topics["kept"].partitions[0].leader
        kafka.processes[leader - 1].kill()
        _produce(kafka.bootstrap, b"after the kill")
        assert _read(kafka.bootstrap, 2) == [b"before the kill", b"after the kill"]
        assert [process.pid is None for process in kafka.processes] == [id_ == leader for id_ in (1, 2, 3)]
    finally:
        kafka.kill()  # its data is no longer needed
        kafka.stop()


@pytest.mark.parametrize(("held", "asked"), [("kafka", 3), ("kafka-2", 1)])
def test_the_log_of_another_number_of_brokers_is_not_touched(tmp_path: Path, held: str, asked: int) -> None:
    """A state directory keeps its number of brokers: another number would start an empty log next to the full one."""
    (tmp_path / held).mkdir()
    (tmp_path / held / "formatted").touch()
    with pytest.raises(OtherBrokers, match=f"use --brokers {4 - asked}, or another --state-dir"):
        EmbeddedKafka(tmp_path, brokers=asked).start()


def test_no_topic_appears_by_itself(kafka_bootstrap: str) -> None:
    """A producer does not create a topic: a misspelt name is an error."""
    admin = client.admin(KafkaAccess(kafka_bootstrap))
    admin.list_topics("billing.evnts", timeout=30)
    assert "billing.evnts" not in admin.list_topics(timeout=30).topics


def test_a_port_in_use_is_an_error_with_the_log(kafka_bootstrap: str, tmp_path: Path) -> None:
    """A broker that cannot listen reports the reason and leaves no process."""
    broker = EmbeddedKafka(tmp_path, port=int(kafka_bootstrap.rpartition(":")[2]))
    with pytest.raises(ServerNotReady, match="in use"):
        broker.start()
    assert not _is_running(broker)


def test_the_broker_is_one_for_the_whole_session(kafka_bootstrap: str) -> None:
    """The shared broker belongs to no pytest worker: its address is in a file for all of them.

    The session's controller notes there the broker of `make services`, if it answers.
    """
    session = Path(os.environ["BILLING_TEST_SESSION"].partition(":")[2])
    assert services.noted(session, "kafka") == kafka_bootstrap
