"""The shared stack: `kafka_bootstrap` and `postgres_url` per session, `database_url` and `topic_prefix` per test.

Nothing starts until a test asks for it, so unit tests stay in memory.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from confluent_kafka.admin import AdminClient
from hypothesis import HealthCheck, settings

from tests.faulty_mailbox import FaultyMailbox

# A loaded machine is slow, which is no counterexample.
settings.register_profile("loaded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")

# Set by the controller before it starts its workers, which inherit it: "OWNER_PID:DIR".
_SESSION = "BILLING_TEST_SESSION"


def pytest_configure(config: pytest.Config) -> None:
    """Name this session's directory; it is made when the first server is asked for."""
    if not hasattr(config, "workerinput"):
        os.environ[_SESSION] = f"{os.getpid()}:{tempfile.gettempdir()}/billing-tests-{uuid.uuid4().hex[:12]}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what this session started, however it ends."""
    folder = _session()[1]
    if not hasattr(config, "workerinput") and folder.exists():
        from tests import stack  # only sessions that started a server pay for these imports

        stack.stop_all(folder)
        shutil.rmtree(folder)


def _session() -> tuple[int, Path]:
    owner, _, folder = os.environ[_SESSION].partition(":")
    return int(owner), Path(folder)


def _address(name: str) -> str:
    from tests import stack

    owner, folder = _session()
    folder.mkdir(mode=0o700, exist_ok=True)
    return stack.address(name, folder, owner)


@pytest.fixture(scope="session")
def kafka_bootstrap() -> str:
    """host:port of the session's broker: auto.create is off, 127.0.0.1 only."""
    return _address("kafka")


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """The session's server, its database `billing`, as a superuser."""
    return _address("postgres")


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """An empty database of this test's own, dropped after it."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    _run(_execute(postgres_url, f"CREATE DATABASE {name}"))
    yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    _run(_execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix for topics and groups that no other test has; its topics are deleted after the test."""
    prefix = f"t{uuid.uuid4().hex[:10]}"
    yield prefix
    if "kafka_bootstrap" in request.fixturenames:
        admin = AdminClient({"bootstrap.servers": request.getfixturevalue("kafka_bootstrap"), "log_level": 0})
        if names := [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]:
            for deletion in admin.delete_topics(names, operation_timeout=10).values():
                deletion.result(timeout=15)


@pytest.fixture
async def mailbox() -> AsyncIterator[FaultyMailbox]:
    """An SMTP server in the test's event loop that can be told to fail."""
    async with FaultyMailbox() as server:
        yield server


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(statement, timeout=30)
    finally:
        await connection.close(timeout=5)


def _run(work: Coroutine[object, object, None]) -> None:
    # In a thread of its own: the test may have an event loop running in this one.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, work).result(timeout=60)
