"""Applies the log to an empty database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from urllib.parse import urlsplit

import asyncpg
from pydantic import SecretStr

from eventlog.history import HistoryReader, Stretch
from recovery.rebuild import runs
from recovery.rebuild.apply_log import LogReapplier
from recovery.rebuild.suppressing_store import SuppressingStore
from schemas.record import Record, record_of
from schemas.settings import Config, InvalidSettings, Settings
from sinks.postgres.pool import dsn
from streams.rules.catalog import RULES


@dataclass(slots=True)
class Rebuilt:
    """What was read and what came of it. `removed`: offsets that retention had removed, by partition."""

    topic: str
    records: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    stretches: dict[int, Stretch] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def removed(self) -> dict[int, int]:
        return {partition: stretch.first for partition, stretch in self.stretches.items() if stretch.first}


async def run(
    settings: Settings,
    config: Config,
    target: SecretStr,
    *,
    until: datetime | None = None,
    say: Callable[[int, int], None] = lambda _done, _of: None,
) -> Rebuilt:
    """Raises NotEmpty, StoreUnavailable, LogUnavailable, InvalidSettings. Broken off, it leaves a database to drop."""
    started = datetime.now(UTC)
    await runs.prepare(target)
    reader = await asyncio.to_thread(HistoryReader, settings.kafka_bootstrap, settings.events_topic, until=until)
    store = await SuppressingStore.connect(target, pool_size=2)
    try:
        rebuilt = Rebuilt(settings.events_topic, stretches=reader.stretches)
        code = settings.code_version or version("billing-stream")
        again = LogReapplier.on(store, RULES, config, group=f"{settings.topic_prefix}.worker", code=code)
        offsets = {str(partition): (s.first, s.end) for partition, s in reader.stretches.items()}
        async with runs.noted(target, settings.events_topic, started, offsets) as note:
            while records := await asyncio.to_thread(reader.read, settings.batch_size):
                await again.take(records)
                rebuilt.records += len(records)
                say(rebuilt.records, reader.total)
            await _settle(again, note)
            rebuilt.outcomes = dict(again.outcomes)
            rebuilt.seconds = (datetime.now(UTC) - started).total_seconds()
            await note.end({"records": rebuilt.records, "outcomes": rebuilt.outcomes})
        return rebuilt
    finally:
        await asyncio.to_thread(reader.close)
        await store.close()


async def _settle(again: LogReapplier, note: runs.Note) -> None:
    """What still waits is looked at until nothing more comes of it: in life, timers see to that."""
    is_last_look = False
    while waiting := [_record(row) for row in await note.waiting()]:
        settled = await again.settle(waiting, is_last_look=is_last_look)
        if not settled and is_last_look:
            return
        is_last_look = not settled


def _record(row: asyncpg.Record) -> Record:
    """The waiting event, at the place where it was last looked at."""
    headers = (("event_id", row["event_id"].encode()), ("type", row["type"].encode()),
               ("source", row["source"].encode()), ("endpoint", (row["endpoint"] or "").encode()))  # fmt: skip
    return record_of(
        row["topic"], row["partition"], row["offset"], None, row["payload"].encode(), headers, row["at"].timestamp()
    )


def target_of(into: str, settings: Settings) -> SecretStr:
    """The address, unless it is the live database's. Raises InvalidSettings."""
    target = SecretStr(into)
    try:
        place = _place(target)
    except InvalidSettings:
        raise InvalidSettings("--into: expected postgresql://user@host:port/database") from None
    if place == _place(settings.database_url):
        raise InvalidSettings("--into is BILLING_DATABASE_URL itself")
    return target


def _place(url: SecretStr) -> tuple[str | None, int, str]:
    """Server and database. Raises InvalidSettings."""
    parts = urlsplit(dsn(url))
    return parts.hostname, parts.port or 5432, parts.path
