"""The flow's log, embedded: a real Apache Kafka (KRaft) of one broker or three on loopback, its data kept."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local.stack.kafka_jars import fetch_jars
from local.stack.kafka_node import Node
from local.stack.process import Process

BROKERS = (1, 3)
"""Two would be worse than one: both must agree on everything, so either's death stops both."""

_START_TIMEOUT = 60.0
_HEAP_MB = {1: 512, 3: 320}


class OtherBrokers(Exception):
    """The state directory holds the log of another number of brokers; the message names both numbers."""


def _silent(_line: str) -> None:
    """Say nothing."""


class EmbeddedKafka:
    """`brokers` nodes, each a broker and a controller: `kafka` alone, or `kafka-1` to `kafka-3`.

    Of three, one may be down: topics have three replicas and want two (`min.insync.replicas`) before `acks=all` is
    answered. `port` is the first broker's, chosen free at the first start unless given.
    """

    def __init__(
        self, state_dir: Path, *, brokers: int = 1, port: int | None = None, say: Callable[[str], None] = _silent
    ) -> None:
        self.state_dir = state_dir.absolute()
        self._say = say
        self.nodes = _nodes(self.state_dir, brokers, port)
        self.processes: list[Process] = []
        """The brokers', in their order, once started."""

    @property
    def bootstrap(self) -> str:
        """host:port of each broker, with commas between."""
        return ",".join(node.address for node in self.nodes)

    def start(self) -> None:
        """Start and wait until all answer. Raises KafkaNotFetched, OtherBrokers or ServerNotReady (with the log)."""
        for node, process in zip(self.nodes, self.spawn(), strict=True):
            process.wait_until(node.answers, timeout=_START_TIMEOUT)

    def spawn(self) -> list[Process]:
        """Start without waiting; `start` afterwards only waits."""
        if not self.processes:
            self.processes = self._prepare()
        for process in self.processes:
            process.spawn()
        return self.processes

    def stop(self) -> None:
        """An orderly shutdown; what was acknowledged is on disk either way."""
        with ThreadPoolExecutor() as together:  # the last one alone would wait for a quorum that is gone
            list(together.map(lambda process: process.stop(grace=15.0), self.processes))

    def kill(self) -> None:
        """SIGKILL, to all of them."""
        for process in self.processes:
            process.kill()

    def _prepare(self) -> list[Process]:
        self._check_brokers()
        class_path = ":".join(map(str, fetch_jars(self._say)))
        cluster_id = self._cluster_id()
        for node in self.nodes:
            node.write_properties(self.nodes)
        is_alone = len(self.nodes) == 1
        with ThreadPoolExecutor() as together:
            list(together.map(lambda node: node.format(class_path, cluster_id, is_alone=is_alone), self.nodes))
        return [node.process(class_path, _HEAP_MB[len(self.nodes)]) for node in self.nodes]

    def _check_brokers(self) -> None:
        for other in BROKERS:
            found = [node.name for node in _nodes(self.state_dir, other) if node.is_formatted]
            if other != len(self.nodes) and found:
                raise OtherBrokers(
                    f"the log in {self.state_dir} is on {_in_words(other)}, not {_in_words(len(self.nodes))}: "
                    f"use --brokers {other}, or another --state-dir"
                )

    def _cluster_id(self) -> str:
        """Kafka's form of a UUID (22 characters of URL-safe base64), one for all nodes however often they are begun."""
        path = self.state_dir / "kafka-cluster-id"
        if not path.exists():
            self.state_dir.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".tmp")
            draft.write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))
            draft.replace(path)
        return path.read_text()


def _nodes(state_dir: Path, brokers: int, port: int | None = None) -> list[Node]:
    if brokers not in BROKERS:
        raise ValueError(f"{brokers} brokers: there are {' or '.join(map(str, BROKERS))}")
    if brokers == 1:
        return [Node(state_dir, "kafka", 1, port)]
    return [Node(state_dir, f"kafka-{id_}", id_, port if id_ == 1 else None) for id_ in range(1, brokers + 1)]


def _in_words(brokers: int) -> str:
    return "one broker" if brokers == 1 else f"{brokers} brokers"
