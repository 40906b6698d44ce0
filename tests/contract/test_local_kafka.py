"""The embedded Kafka: what was acknowledged survives an orderly stop and a kill -9, on the same ports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from local.kafka import EmbeddedKafka
from local.process import ServerNotReady


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A broker of this test's own: it is going to be killed."""
    broker = EmbeddedKafka(tmp_path / "state, with a comma")
    yield broker
    broker.stop()


def _produce(bootstrap: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "log_level": 0})
    producer.produce("kept", value, partition=0)
    assert producer.flush(15) == 0


def _read(bootstrap: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "log_level": 0})
    try:
        consumer.assign([TopicPartition("kept", 0, 0)])
        return [message.value() for message in consumer.consume(count, timeout=15)]
    finally:
        consumer.close()


def _is_running(kafka: EmbeddedKafka) -> bool:
    return kafka.pid is not None


def test_data_and_ports_survive_stop_and_kill(kafka: EmbeddedKafka) -> None:
    """Each acknowledged record is there after a stop, and after a kill -9, at the same address."""
    kafka.start()
    bootstrap, first_pid = kafka.bootstrap, kafka.pid
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(15)
    _produce(bootstrap, b"before the stop")
    kafka.stop()
    assert (_is_running(kafka), kafka.wanted) == (False, False)

    kafka.start()
    assert kafka.bootstrap == bootstrap
    assert kafka.pid != first_pid
    _produce(bootstrap, b"before the kill")
    kafka.kill()
    assert (_is_running(kafka), kafka.wanted) == (False, True)

    kafka.start()
    assert _read(bootstrap, 2) == [b"before the stop", b"before the kill"]


def test_no_topic_appears_by_itself(kafka_bootstrap: str) -> None:
    """A producer to a topic that nobody created makes none: a misspelt name is an error, not a topic."""
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap, "log_level": 0})
    admin.list_topics("billing.evnts", timeout=10)
    assert "billing.evnts" not in admin.list_topics(timeout=10).topics


def test_a_port_in_use_is_a_fact_with_the_log(kafka_bootstrap: str, tmp_path: Path) -> None:
    """A broker that cannot listen says why, and leaves no process."""
    broker = EmbeddedKafka(tmp_path, port=int(kafka_bootstrap.rpartition(":")[2]))
    with pytest.raises(ServerNotReady, match="in use"):
        broker.start()
    assert broker.pid is None


def test_the_broker_is_one_for_the_whole_session(kafka_bootstrap: str) -> None:
    """The shared broker belongs to no worker: its address was written down for all of them."""
    folder = Path(os.environ["BILLING_TEST_SESSION"].partition(":")[2])
    assert (folder / "kafka.url").read_text() == kafka_bootstrap
