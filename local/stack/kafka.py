"""Runs the event log on this machine: Apache Kafka (KRaft) with one or three brokers on loopback. Data is kept."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local.stack.kafka_jars import fetch_jars
from local.stack.kafka_node import Node
from local.stack.kafka_security import SecureListeners
from local.stack.process import ChildProcess
from schemas.errors import BillingError

BROKERS = (1, 3)
"""Two brokers would be worse than one: a quorum needs both, so if either dies the log stops."""

_START_TIMEOUT = 60.0
_HEAP_MB = {1: 512, 3: 320}


class OtherBrokers(BillingError):
    """The state directory contains a log with a different number of brokers; the message names both numbers."""


def _silent(_line: str) -> None:
    """Discard the line."""


class EmbeddedKafka:
    """One node named `kafka`, or three named `kafka-1` to `kafka-3`. Each is a broker and a controller.

    With three nodes one may be down: topics have three replicas, and `acks=all` needs two of them
    (`min.insync.replicas`). `port` is the port of the first broker; by default a free one is chosen at the first start.
    With `secure` each broker also has listeners with TLS (local/stack/kafka_security.py).
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        brokers: int = 1,
        port: int | None = None,
        say: Callable[[str], None] = _silent,
        secure: SecureListeners | None = None,
        session_s: float = Node.session_s,
    ) -> None:
        """`session_s` is for a broker that is never killed and may get no CPU time for seconds (kafka_node.py)."""
        self.state_dir = state_dir.absolute()
        self._say = say
        self.nodes = _nodes(self.state_dir, brokers, port, secure, session_s)
        self.processes: list[ChildProcess] = []
        """The processes of the brokers in order; empty before the start."""

    @property
    def bootstrap(self) -> str:
        """host:port of each broker, separated by commas."""
        return ",".join(node.address for node in self.nodes)

    def start(self) -> None:
        """Start and wait until all brokers answer.

        Raises KafkaNotFetched, OtherBrokers, or ServerNotReady (with the end of the log).
        """
        for node, process in zip(self.nodes, self.spawn(), strict=True):
            process.wait_until(node.answers, timeout=_START_TIMEOUT)

    def spawn(self) -> list[ChildProcess]:
        """Start without waiting. Call `start` afterwards to wait."""
        if not self.processes:
            self.processes = self._prepare()
        for process in self.processes:
            process.spawn()
        return self.processes

    def stop(self) -> None:
        """Shut down in an orderly way. Acknowledged records are on disk with `kill` too."""
        with ThreadPoolExecutor() as together:  # one after the other, the last would wait for a quorum that is gone
            list(together.map(lambda process: process.stop(grace=15.0), self.processes))

    def kill(self) -> None:
        """Send SIGKILL to all brokers."""
        for process in self.processes:
            process.kill()

    def _prepare(self) -> list[ChildProcess]:
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
                    f"the log in {self.state_dir} has {_in_words(other)}, not {_in_words(len(self.nodes))}: "
                    f"use --brokers {other}, or another --state-dir"
                )

    def _cluster_id(self) -> str:
        """Return the cluster id, the same for all nodes and starts: a UUID as 22 characters of URL-safe base64."""
        path = self.state_dir / "kafka-cluster-id"
        if not path.exists():
            self.state_dir.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".tmp")
            draft.write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))
            draft.replace(path)
        return path.read_text()


def _nodes(
    state_dir: Path,
    brokers: int,
    port: int | None = None,
    secure: SecureListeners | None = None,
    session_s: float = Node.session_s,
) -> list[Node]:
    if brokers not in BROKERS:
        raise ValueError(f"{brokers} brokers: must be {' or '.join(map(str, BROKERS))}")
    if brokers == 1:
        return [Node(state_dir, "kafka", 1, port, secure, session_s)]
    numbers = range(1, brokers + 1)
    return [Node(state_dir, f"kafka-{id_}", id_, port if id_ == 1 else None, secure, session_s) for id_ in numbers]


def _in_words(brokers: int) -> str:
    return "one broker" if brokers == 1 else f"{brokers} brokers"
