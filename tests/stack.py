"""One Kafka and one PostgreSQL for a whole test session, shared by every pytest-xdist worker.

The first test that needs a server starts a *holder* (`python -m tests.stack kafka DIR OWNER_PID`): a daemon that owns
the server, writes its address to DIR/kafka.url, and stops it on SIGTERM or when the session's controller has ended.
Only a holder imports the container libraries: the import takes a second and emits warnings.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

from local.stack.kafka import EmbeddedKafka
from local.stack.lock import file_lock
from local.stack.postgres import EmbeddedPostgres
from local.stack.process import end_leftover, write_own_pid
from tests import services

START_TIMEOUT = 300.0
"""Seconds. The first start on a machine downloads Kafka."""


def address(name: str, folder: Path, owner: int) -> str:
    """The server's address. Starts the server if no other worker has started it."""
    url_file = folder / f"{name}.url"
    with file_lock(folder / f"{name}.lock"):
        if not url_file.exists():
            command = [sys.executable, "-m", "tests.stack", name, str(folder), str(owner)]
            root = Path(__file__).parent.parent
            done = subprocess.run(
                command, cwd=root, env={**os.environ, "STATE_DIR": str(folder)}, timeout=START_TIMEOUT, check=False
            )
            if done.returncode != 0:
                raise RuntimeError(f"{name} did not start:\n{_log(folder, name).read_text()}")
    return url_file.read_text()


def stop_all(folder: Path) -> None:
    """Stop the holders of this session and their servers."""
    for pid_file in folder.glob("*.holder"):
        end_leftover(pid_file, folder)


def main(name: str, folder: Path, owner: int) -> int:
    """Fork a daemon that holds the server. Returns 0 when its address is written, 1 if the holder has failed."""
    child = os.fork()
    if child == 0:
        os.setsid()
        with _log(folder, name).open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        try:
            _hold(name, folder, owner)
        except BaseException:  # noqa: BLE001 - a forked child must not return into its parent's code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if (folder / f"{name}.url").exists():
            return 0
        if os.waitpid(child, os.WNOHANG)[0] != 0:
            return 1
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    return 1


def _hold(name: str, folder: Path, owner: int) -> None:
    stop_requested = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop_requested.set())
    write_own_pid(folder / f"{name}.holder")
    server = _SERVERS[name, _is_docker_there()]
    with server(folder) as url:
        services.note(folder, name, url)
        while psutil.pid_exists(owner) and not stop_requested.wait(0.5):
            continue
    (folder / f"{name}.url").unlink(missing_ok=True)


@contextmanager
def _embedded_kafka(folder: Path) -> Iterator[str]:
    kafka = EmbeddedKafka(
        folder / "kafka-state",
        say=lambda line: print(line, flush=True),  # noqa: T201 - the holder's log
        session_s=60.0,  # tests take the CPU for seconds, and all topics would have no leader then
    )
    try:
        kafka.start()
        yield kafka.bootstrap
    finally:
        kafka.stop()


@contextmanager
def _embedded_postgres(folder: Path) -> Iterator[str]:
    postgres = EmbeddedPostgres(folder / "postgres-state", durable=False)
    try:
        postgres.start()
        yield postgres.superuser_url
    finally:
        postgres.stop()


@contextmanager
def _container_kafka(_folder: Path) -> Iterator[str]:
    from testcontainers.community.kafka import KafkaContainer

    with KafkaContainer("confluentinc/cp-kafka:8.0.0").with_kraft() as kafka:
        yield kafka.get_bootstrap_server()


@contextmanager
def _container_postgres(_folder: Path) -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer("postgres:18", username="billing", dbname="billing", driver=None) as postgres:
        yield postgres.get_connection_url()


_SERVERS: dict[tuple[str, bool], Callable[[Path], AbstractContextManager[str]]] = {
    ("kafka", False): _embedded_kafka,
    ("kafka", True): _container_kafka,
    ("postgres", False): _embedded_postgres,
    ("postgres", True): _container_postgres,
}


def _is_docker_there() -> bool:
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=3)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except DockerException:
        return False
    finally:
        client.close()


def _log(folder: Path, name: str) -> Path:
    return folder / f"{name}.holder.log"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
