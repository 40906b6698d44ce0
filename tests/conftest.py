"""Shared fixtures: `kafka_bootstrap` and `postgres_url` per session; a database and `topic_prefix` per test.

A server starts when the first test requests it, so unit tests run in memory.
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
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from eventlog import client
from schemas.kafka_access import KafkaAccess
from tests import services
from tests.faulty_mailbox import FaultyMailbox
from tests.order import place_of

if TYPE_CHECKING:
    from tests.databases import MigratedDatabases

# Slow execution on a loaded machine must not fail a test. The examples are the same in every run, so that a run says
# something about the change; BILLING_RANDOM_EXAMPLES=1 (make soak) draws others.
settings.register_profile(
    "tests",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="BILLING_RANDOM_EXAMPLES" not in os.environ,
)
settings.load_profile("tests")

# Brokers of tests live for seconds: without the second compiler one starts in two thirds of the CPU time.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

# Value: "OWNER_PID:DIR". The controller sets it before it starts its workers, which inherit it.
_SESSION = "BILLING_TEST_SESSION"


def pytest_configure(config: pytest.Config) -> None:
    """Choose this session's directory, and note there which servers of `make services` run.

    The controller decides once for all workers: they would disagree if a kept server answered one of them late.
    """
    if hasattr(config, "workerinput"):
        return
    os.environ[_SESSION] = f"{os.getpid()}:{tempfile.gettempdir()}/billing-tests-{uuid.uuid4().hex[:12]}"
    for name in services.NAMES:
        if (url := services.running(name)) is not None:
            folder = _session()[1]
            folder.mkdir(mode=0o700, exist_ok=True)
            services.note(folder, name, url)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    items.sort(key=lambda item: place_of(item.path))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers of this session, however the session ends."""
    folder = _session()[1]
    if not hasattr(config, "workerinput") and folder.exists():
        if any(folder.glob("*.holder")):
            from tests import stack  # imported only in sessions that started a server

            stack.stop_all(folder)
        shutil.rmtree(folder)


def _session() -> tuple[int, Path]:
    owner, _, folder = os.environ[_SESSION].partition(":")
    return int(owner), Path(folder)


def _address(name: str) -> str:
    owner, folder = _session()
    if (url := services.noted(folder, name)) is not None:
        return url
    from tests import stack  # only sessions that start a server pay for these imports

    folder.mkdir(mode=0o700, exist_ok=True)
    return stack.address(name, folder, owner)


@pytest.fixture(scope="session")
def kafka_bootstrap() -> str:
    """host:port of the session's broker. It listens on 127.0.0.1 only and does not create topics automatically."""
    return _address("kafka")


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """URL of the database `billing` on the session's server, for a superuser."""
    return _address("postgres")


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """URL of an empty database for this test. It is dropped after the test."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    _run(_execute(postgres_url, f"CREATE DATABASE {name}"))
    yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    _run(_execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def migrated_databases(postgres_url: str) -> Iterator[MigratedDatabases]:
    """The databases of this process that have all tables."""
    from tests.databases import MigratedDatabases  # only sessions with a database pay for these imports

    databases = MigratedDatabases(postgres_url)
    yield databases
    databases.close()


@pytest.fixture
def migrated_url(migrated_databases: MigratedDatabases) -> Iterator[str]:
    """URL of a database for this test, with all tables, all empty."""
    url = migrated_databases.lend()
    yield url
    migrated_databases.take_back(url)


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A unique prefix for topics and groups. Its topics are deleted after the test."""
    prefix = f"t{uuid.uuid4().hex[:10]}"
    yield prefix
    if "kafka_bootstrap" in request.fixturenames:
        admin = client.admin(KafkaAccess(request.getfixturevalue("kafka_bootstrap")))
        if names := [name for name in admin.list_topics(timeout=30).topics if name.startswith(prefix)]:
            for deletion in admin.delete_topics(names, operation_timeout=10).values():
                deletion.result(timeout=30)


@pytest.fixture
async def mailbox() -> AsyncIterator[FaultyMailbox]:
    """An SMTP server in the test's event loop that can be set to fail."""
    async with FaultyMailbox() as server:
        yield server


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=30)
    try:
        await connection.execute(statement, timeout=30)
    finally:
        await connection.close(timeout=30)


def _run(work: Coroutine[object, object, None]) -> None:
    # A separate thread is needed: this one may already run the test's event loop.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, work).result(timeout=60)
