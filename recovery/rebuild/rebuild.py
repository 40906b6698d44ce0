"""Rebuilds the state: prepares an empty database, applies the log to it, and settles the waiting events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version

import asyncpg
from pydantic import SecretStr

from eventlog.history import HistoryReader, Stretch
from recovery.rebuild import runs
from recovery.rebuild.apply_log import LogReapplier
from recovery.rebuild.suppressing_store import SuppressingStore
from schemas.database_url import DatabaseUrl, InvalidDatabaseUrl
from schemas.record import Record, record_of
from schemas.settings import Config, InvalidSettings, Settings
from streams.rules.catalog import RULES


@dataclass(slots=True)
class Rebuilt:
    """The result of a rebuild. `removed`: number of offsets that retention had removed, by partition."""

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
    """Apply the log up to `until` (default: its current end) to the database `target`.

    Calls `say(done, total)` after each batch of records. An interrupted rebuild leaves an incomplete database, which
    must be dropped. Raises NotEmpty, StoreUnavailable, LogUnavailable, InvalidSettings.
    """
    started = datetime.now(UTC)
    await runs.prepare(target)
    reader = await asyncio.to_thread(HistoryReader, settings.kafka, settings.events_topic, until=until)
    store = await SuppressingStore.connect(target, pool_size=2)
    try:
        rebuilt = Rebuilt(settings.events_topic, stretches=reader.stretches)
        code = settings.code_version or version("billing-stream")
        reapplier = LogReapplier.on(store, RULES, config, group=f"{settings.topic_prefix}.worker", code=code)
        offsets = {str(partition): (s.first, s.end) for partition, s in reader.stretches.items()}
        async with runs.noted(target, settings.events_topic, started, offsets) as note:
            while records := await asyncio.to_thread(reader.read, settings.batch_size):
                await reapplier.take(records)
                rebuilt.records += len(records)
                say(rebuilt.records, reader.total)
            await _settle(reapplier, note)
            # A worker that gets this database continues at the end of the rebuild (docs/decisions.md 5).
            reached = {partition: stretch.end for partition, stretch in reader.stretches.items() if stretch.end}
            async with store.transaction([]) as transaction:
                await transaction.advance(f"{settings.topic_prefix}.worker", settings.events_topic, reached)
            rebuilt.outcomes = dict(reapplier.outcomes)
            rebuilt.seconds = (datetime.now(UTC) - started).total_seconds()
            await note.end({"records": rebuilt.records, "outcomes": rebuilt.outcomes})
        return rebuilt
    finally:
        await asyncio.to_thread(reader.close)
        await store.close()


async def _settle(reapplier: LogReapplier, note: runs.CurrentRebuild) -> None:
    """Process the waiting events until no more of them can be settled. In production, timers trigger this."""
    is_last_look = False
    while waiting := [_record(row) for row in await note.waiting()]:
        settled = await reapplier.settle(waiting, is_last_look=is_last_look)
        if not settled and is_last_look:
            return
        is_last_look = not settled


def _record(row: asyncpg.Record) -> Record:
    """Return the waiting event as a record, at the offset at which it was last processed."""
    headers = (("event_id", row["event_id"].encode()), ("type", row["type"].encode()),
               ("source", row["source"].encode()), ("endpoint", (row["endpoint"] or "").encode()))  # fmt: skip
    return record_of(
        row["topic"], row["partition"], row["offset"], None, row["payload"].encode(), headers, row["at"].timestamp()
    )


def target_of(into: str, settings: Settings) -> SecretStr:
    """Return the address of the target database. Raises InvalidSettings if it is that of the live database."""
    live = DatabaseUrl.of(settings.database_url)
    target = live.for_other(SecretStr(into))
    try:
        places = _places(target)
    except InvalidDatabaseUrl as error:
        raise InvalidSettings(f"--into: {error}") from None
    if places & (_places(live) | _places(live.without_pooler())):
        raise InvalidSettings("--into is the same database as BILLING_DATABASE_URL")
    return target


def _places(url: DatabaseUrl) -> set[tuple[str, str]]:
    """Return host:port and database of each server in the address. Raises InvalidDatabaseUrl."""
    return {(place, url.address().database) for place in url.address().places}
