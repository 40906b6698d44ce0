"""`billing tap`: prints the records of the log as JSON lines or Parquet. Without --group it commits no offsets."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
import typer
from confluent_kafka import Message

from eventlog.entry import headers_of
from eventlog.tail import FROM_NOW, FROM_START, Begin, LogTail
from ops.commands.tap_record import Output, Tapped
from ops.commands.terminal import EXIT_INVALID_SETTINGS
from ops.commands.times import moment_of
from ops.runtime.logs import configure_logging
from ops.runtime.start import log_start_warnings
from schemas.errors import LogUnavailable
from schemas.record import Source, decode_headers
from schemas.settings import InvalidSettings, load_settings

EXIT_UNAVAILABLE = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records are shown. An empty field matches every record. Values are not decoded for this."""

    types: Sequence[str] = ()
    """Glob patterns: `invoice.*`"""
    customers: Sequence[str] = ()
    sources: Sequence[str] = ()
    accounts: Sequence[str] = ()

    def includes(self, key: str, headers: dict[str, str]) -> bool:
        type_, owner = headers.get("type", ""), key.rpartition("/")[2]
        return (
            (not self.types or any(fnmatchcase(type_, glob) for glob in self.types))
            and (not self.customers or owner in self.customers)
            and (not self.sources or headers.get("source") in self.sources)
            and (not self.accounts or headers.get("account", "") in self.accounts)
        )


def tap(
    type_: Annotated[
        list[str] | None, typer.Option("--type", metavar="GLOB", help="Only these types: 'invoice.*'. Repeatable.")
    ] = None,
    customer: Annotated[
        list[str] | None, typer.Option("--customer", metavar="ID", help="Only records of this customer. Repeatable.")
    ] = None,
    source: Annotated[
        list[Source] | None, typer.Option("--source", help="Only records with this source. Repeatable.")
    ] = None,
    account: Annotated[
        list[str] | None,
        typer.Option("--account", metavar="ID", help="Only this connected account; '' is your own. Repeatable."),
    ] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="Start with the oldest record.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Start at: 24h (ago), 7d (ago), or ISO 8601 in UTC.")
    ] = None,
    follow: Annotated[
        bool | None,
        typer.Option("--follow/--no-follow", help="Wait for new records, or stop at the present end of the log. "
                     "Default: --follow, but --no-follow with --parquet."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after this many records.")] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", metavar="FILE", help="Write a Parquet file.")] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="NAME", help="Continue at the offsets of this consumer group and commit."),
    ] = None,
) -> None:  # fmt: skip
    """Print the records of the log, one JSON object per line. By default it starts with new records.

    Example: billing tap --type 'invoice.*' --since 24h --no-follow | jq .headers.type

    Ctrl-C stops it. Exits 2 if a setting or an option is invalid, 3 if Kafka does not answer.
    """
    begin = _begin(since, from_start=from_start)
    wanted = Wanted(type_ or (), customer or (), [str(name) for name in source or ()], account or ())
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        settings = load_settings()
        configure_logging(log_format=settings.log_format, level=settings.log_level)
        log_start_warnings(settings)
        output = _output(parquet)
        try:
            tail = LogTail(settings.kafka, settings.events_topic, begin=begin, group=group)
            try:
                should_follow = parquet is None if follow is None else follow
                show(
                    tail, wanted, output, follow=should_follow, limit=limit, commits=group is not None, stopped=stopped
                )
            finally:
                tail.close()
        finally:
            output.close()
    except InvalidSettings as error:
        _fail(error, EXIT_INVALID_SETTINGS)
    except LogUnavailable as error:
        _fail(error, EXIT_UNAVAILABLE)
    except BrokenPipeError:
        # The reader has closed the pipe. Python flushes stdout once more at exit, which would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(
    tail: LogTail,
    wanted: Wanted,
    output: Output,
    *,
    follow: bool,
    limit: int | None,
    commits: bool,
    stopped: threading.Event,
) -> None:
    """Write the wanted records until the end of the log, the limit, or `stopped`. Commits only after writing."""
    left = limit
    for batch in tail.read(follow=follow, is_stopped=stopped.is_set):
        shown: list[Tapped] = []
        for at, message in enumerate(batch, 1):
            if (record := _tapped(message, wanted)) is not None:
                shown.append(record)
            if left is not None and len(shown) == left:
                tail.give_back(batch[at:])
                break
        output.write(shown)
        if commits and batch:
            tail.commit()
        if left is not None:
            left -= len(shown)
        if left == 0:
            return


def _tapped(message: Message, wanted: Wanted) -> Tapped | None:
    headers = decode_headers(headers_of(message))
    key = (message.key() or b"").decode("utf-8", "replace")
    if not wanted.includes(key, headers):
        return None
    at = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
    return Tapped(message.partition() or 0, message.offset() or 0, at, key, headers, message.value())


class Lines:
    """Writes JSON lines to stdout and flushes after each batch. A value that is not JSON is written under `text`."""

    def write(self, records: Sequence[Tapped]) -> None:
        for record in records:
            sys.stdout.buffer.write(_line(record))
        sys.stdout.buffer.flush()

    def close(self) -> None:
        return


def _line(record: Tapped) -> bytes:
    line: dict[str, Any] = {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.at,
        "key": record.key,
        "headers": record.headers,
    }
    try:
        line["event"] = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        line["text"] = (record.value or b"").decode("utf-8", "replace")
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _output(parquet: Path | None) -> Output:
    """Return the output. Raises InvalidSettings if the file cannot be written or pyarrow is not installed."""
    if parquet is None:
        return Lines()
    try:
        from ops.commands.tap_parquet import ParquetFile  # imported only with --parquet: pyarrow is optional
    except ImportError:
        raise InvalidSettings("--parquet needs pyarrow: pip install 'billing-stream[parquet]'") from None
    try:
        return ParquetFile(parquet)
    except OSError as error:
        raise InvalidSettings(f"--parquet: {parquet}: {error.strerror or error}") from None


def _begin(since: str | None, *, from_start: bool) -> Begin:
    if since is None:
        return FROM_START if from_start else FROM_NOW
    if from_start:
        _fail(ValueError("use --from-start or --since, not both"), EXIT_INVALID_SETTINGS)
    try:
        return moment_of(since, datetime.now(UTC))
    except ValueError as error:
        _fail(error, EXIT_INVALID_SETTINGS)


def _fail(error: Exception, code: int) -> NoReturn:
    typer.echo(f"billing tap: {error}", err=True)
    raise typer.Exit(code)
