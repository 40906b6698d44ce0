"""The system of `billing up` with additional settings, for tests of the running system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from local.stack.kafka import EmbeddedKafka
from local.stack.kafka_node import Node
from local.stack.supervisor import Child
from local.state_dir import make_private, write_private
from local.system import System
from sinks.postgres.brakes import Brakes
from tests.kits import storekit

CONFIG = """\
mode = "test"

[endpoints.default]
secrets = ["whsec_ofTheDefaultEndpoint0123456789ab"]

[endpoints.connect]
secrets = ["whsec_ofTheConnectEndpoint0123456789ab"]
connect = true

[plans.free]
name = "Free"
limits = { seats = 1, projects = 3 }

[plans.starter]
name = "Starter"
prices = ["price_starter_monthly"]
limits = { seats = 5, projects = 20 }

[plans.pro]
name = "Pro"
prices = ["price_pro_monthly", "price_pro"]
limits = { seats = 50, projects = 500 }
"""


class RiggedSystem(System):
    """The system of `billing up`. `settings` are added to the environment of its processes.

    `prepare` is called with the system when its database and topics are there, before its processes start.
    """

    def __init__(
        self,
        state_dir: Path,
        workers: int,
        say: Callable[[str], None],
        settings: Mapping[str, str],
        *,
        brokers: int = 1,
        prepare: Callable[[System], None] | None = None,
        session_s: float = Node.session_s,
    ) -> None:
        super().__init__(state_dir, workers, say, brokers=brokers)
        self.kafka = EmbeddedKafka(self.state_dir, brokers=brokers, say=say, session_s=session_s)
        self._extra = dict(settings)
        self._prepare = prepare

    def terminate(self, name: str) -> None:
        """Stop the process with SIGTERM and wait for its end. It stays down until `start_again`."""
        self._process(name).stop()

    def start_again(self, name: str) -> None:
        """Start a process that `terminate` has stopped."""
        self._process(name).spawn()

    def add_worker(self, number: int, *arguments: str) -> str:
        """Start or restart the worker `number` with these arguments of `billing worker`; return its name."""
        child = self._worker(number)
        if child.name in self._supervisor.processes:
            self.terminate(child.name)
        self._supervisor.run(replace(child, argv=[*child.argv, *arguments]))
        return child.name

    def wait_ready(self, name: str, within_s: float = 120.0) -> None:
        """Wait until /readyz of a gateway, worker, dispatcher or scheduler reports ready. Raises ServerNotReady."""
        self._supervisor.wait_ready(Child(name, [], ready=f"{self.ops_url(name)}/readyz"), timeout=within_s)

    def environment(self, name: str) -> dict[str, str]:
        """The complete environment of the process with this name."""
        return {**os.environ, **self._environment_of(name)}

    @property
    def parts(self) -> list[str]:
        """The names of all parts, running or not."""
        return list(self._supervisor.processes)

    def url_of(self, endpoint: str) -> str:
        return f"{self.gateway_url}/webhooks/stripe/{endpoint}"

    def _environment(self, secret: str) -> dict[str, str]:
        return super()._environment(secret) | self._extra

    def _run(self, command: str, *options: str) -> None:
        super()._run(command, *options)
        if command == "topics" and self._prepare is not None:
            self._prepare(self)


@contextmanager
def running_system(
    folder: Path,
    *,
    workers: int = 1,
    brokers: int = 1,
    settings: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
    prepare: Callable[[System], None] | None = None,
    session_s: float = Node.session_s,
) -> Iterator[RiggedSystem]:
    """Run a system in `folder` with the four endpoints of CONFIG. It and its children have stopped after the block.

    Where no broker is killed, its session (`session_s`) may be so long that a busy machine does not end it.
    """
    make_private(folder)
    write_private(folder / "config.toml", CONFIG)
    system = RiggedSystem(
        folder,
        workers,
        say or (lambda _: None),
        settings or {},
        brokers=brokers,
        prepare=prepare,
        session_s=session_s,
    )
    try:
        system.start()
        yield system
    finally:
        system.stop()


def brakes_of(system: System) -> Brakes:
    """The brakes in the system's database. Each call of a method opens a connection."""
    return Brakes(SecretStr(system.postgres.url))


async def fetch(system: System, query: str, *arguments: object) -> list[dict[str, Any]]:
    """The rows of one query on the system's database."""
    return await storekit.fetch(system.postgres.url, query, *arguments)
