"""The environment of the benchmarks: an embedded broker and PostgreSQL; each run has its own topics and database."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg
from pydantic import SecretStr

from eventlog.topics import ensure_topics
from local.stack.kafka import EmbeddedKafka
from local.stack.postgres import EmbeddedPostgres
from schemas.settings import Settings
from sinks.postgres.migration import migrate

SECRET = "whsec_OfTheBenchmarkAndNothingElse0123"
POSTGRES = {
    "track_commit_timestamp": "on",
    "shared_buffers": "2GB",  # the usual quarter of a small server's memory; the default is 128 MB
    # With the default there is a checkpoint every 250,000 events, after which full pages go into the WAL again.
    "max_wal_size": "8GB",
    "wal_compression": "on",
}

_CONFIG = f"""\
mode = "test"

[endpoints.default]
secrets = ["{SECRET}"]

[plans.pro]
name = "Pro"
prices = ["price_pro"]
limits = {{ seats = 5 }}

[mail]
send_test_mode = true
"""


@dataclass(frozen=True, slots=True)
class Site:
    """The topics and the database of one run."""

    settings: Settings
    folder: Path
    partitions: int = 12

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a `billing` process that works on this site."""
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("BILLING_")},
            "BILLING_KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "BILLING_DATABASE_URL": self.settings.database_url.get_secret_value(),
            "BILLING_CONFIG": str(self.settings.config_path),
            "BILLING_TOPIC_PREFIX": self.settings.topic_prefix,
            "BILLING_PARTITIONS": str(self.partitions),
            "BILLING_STATE_DIR": str(self.folder),
            **more,
        }


@dataclass(slots=True)
class BenchServers:
    """The running servers. Use it in a `with` statement; at the end it stops them and deletes all files."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="billing-bench-")))
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _kafka: EmbeddedKafka | None = None
    _postgres: EmbeddedPostgres | None = None

    def __enter__(self) -> Self:
        self._kafka, self._postgres = EmbeddedKafka(self.folder, say=_say), EmbeddedPostgres(self.folder)
        try:
            self._kafka.start()
            self._postgres.start()
            asyncio.run(self._set_up_postgres())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        (self.folder / "config.toml").write_text(_CONFIG)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in (self._kafka, self._postgres):
            if server is not None:
                server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _set_up_postgres(self) -> None:
        """Apply the settings of a production server, and turn on commit timestamps to know when events committed."""
        if self._postgres is None:
            return
        connection = await asyncpg.connect(self._postgres.superuser_url)
        try:
            for name, value in POSTGRES.items():
                await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        finally:
            await connection.close()
        self._postgres.stop()
        self._postgres.start()

    @property
    def servers(self) -> Mapping[str, int]:
        """Process ids of Kafka and Postgres, by name."""
        processes = [
            *(self._kafka.processes if self._kafka else ()),
            self._postgres.process if self._postgres else None,
        ]
        return {process.name: process.pid for process in processes if process is not None and process.pid is not None}

    @property
    def kafka_data(self) -> Path:
        """Folder in which the broker stores its partitions."""
        return self.folder / "kafka" / "data"

    async def site(self, name: str, partitions: int = 12) -> Site:
        """Create new topics and a new migrated database for one run."""
        if self._kafka is None or self._postgres is None:
            raise RuntimeError("use Place in a `with` statement")
        prefix = f"{name}{next(self._numbers)}"
        connection = await asyncpg.connect(self._postgres.url)
        try:
            await connection.execute(f'CREATE DATABASE "{prefix}"')
        finally:
            await connection.close()
        url = SecretStr(self._postgres.url.rpartition("/")[0] + f"/{prefix}")
        await migrate(url)
        settings = Settings(
            kafka_bootstrap=self._kafka.bootstrap,
            database_url=url,
            config_path=self.folder / "config.toml",
            topic_prefix=prefix,
            partitions=partitions,
        )
        ensure_topics(settings)
        folder = self.folder / "runs" / prefix
        folder.mkdir(parents=True)
        return Site(settings, folder, partitions)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
