"""`billing rebuild`: the log from its start into an empty database: what the tables must hold."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated
from urllib.parse import urlsplit

import asyncpg
import orjson
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eventlog.history import LogReader, Stretch
from ops.commands.terminal import EXIT_INVALID_SETTINGS, settings_and_config
from ops.commands.times import moment_of
from recovery.rebuild import runs
from recovery.rebuild.apply_log import Again
from recovery.rebuild.suppressing_store import SuppressingStore
from schemas.errors import BillingError
from schemas.settings import Config, InvalidSettings, Settings
from sinks.postgres.pool import dsn
from streams.record import Record, record_of
from streams.rules.catalog import RULES

EXIT_TROUBLE = 1


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


def rebuild(
    into: Annotated[
        str,
        typer.Option(
            envvar="BILLING_REBUILD_URL",
            metavar="DSN",
            help="An empty database. Others can read a command line: a password is better off in the variable.",
        ),
    ],
    until: Annotated[str, typer.Option(help="Leave out records from then on: 24h (ago), or a time.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Apply the whole log once more, by this version's rules, into an empty database; then ask `billing diff`.

    Example: createdb rehearsal && billing rebuild --into postgresql://billing@127.0.0.1/rehearsal

    Nothing is sent: mails, calls and exports are written as `suppressed`, timers do not fire, dead letters are not
    published again. Where retention has removed records, it says so.

    Exits 1 on trouble or if the database is not empty, 2 if a setting is unusable.
    """
    settings, config = settings_and_config()
    try:
        moment = moment_of(until, datetime.now(UTC)) if until else None
        target = target_of(into, settings)
    except (ValueError, InvalidSettings) as error:
        typer.echo(f"billing rebuild: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    console = Console(stderr=True)
    try:
        with Progress(
            TextColumn("records"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
            disable=not sys.stderr.isatty(),
        ) as bar:  # fmt: skip
            task = bar.add_task("records", total=None)
            rebuilt = asyncio.run(
                run(settings, config, target, until=moment, say=lambda n, of: bar.update(task, completed=n, total=of))
            )
    except (BillingError, runs.NotEmpty) as error:
        typer.echo(f"billing rebuild: {error}", err=True)
        raise typer.Exit(EXIT_TROUBLE) from None
    _show(rebuilt, as_json=as_json)


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
    reader = await asyncio.to_thread(LogReader, settings.kafka_bootstrap, settings.events_topic, until=until)
    store = await SuppressingStore.connect(target, pool_size=2)
    try:
        rebuilt = Rebuilt(settings.events_topic, stretches=reader.stretches)
        code = settings.code_version or version("billing-stream")
        again = Again.on(store, RULES, config, group=f"{settings.topic_prefix}.worker", code=code)
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


async def _settle(again: Again, note: runs.Note) -> None:
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


def _show(rebuilt: Rebuilt, *, as_json: bool) -> None:
    if as_json:
        found = asdict(rebuilt) | {"removed": rebuilt.removed}
        typer.echo(orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS))
        return
    rate = rebuilt.records / rebuilt.seconds if rebuilt.seconds else 0.0
    typer.echo(f"{rebuilt.records} records of {rebuilt.topic} in {rebuilt.seconds:.1f} s ({rate:.0f}/s)")
    for outcome, count in sorted(rebuilt.outcomes.items()):
        typer.echo(f"  {outcome:<10} {count}")
    if not rebuilt.removed:
        typer.echo("from the first record of every partition: retention has removed nothing")
    for partition, count in rebuilt.removed.items():
        typer.echo(f"partition {partition}: the first {count} offsets are gone (retention)")
