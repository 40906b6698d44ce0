"""`billing tap`: prints the records of the log as JSON lines or Parquet. Without --group it commits no offsets."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from eventlog.tail import FROM_NOW, FROM_START, Begin, LogTail
from eventlog.tap import Output, RecordFilter, Tapped, copy
from ops.commands.terminal import drop_output, exits, log_or_exit, note, refuse, start_logging, write_lines
from ops.commands.times import moment_of
from ops.runtime.printable import to_json
from schemas.record import Source
from schemas.settings import InvalidSettings


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
    """Print the records of the log, one JSON object per line.

    It starts with new records and waits for more; with --no-follow or --parquet it starts with the oldest record and
    stops at the present end. The number of records is then printed to stderr.

    Example: billing tap --type 'invoice.*' --since 24h --no-follow | jq .headers.type

    Ctrl-C stops it. Exits 2 if a setting or an option is invalid, 3 if Kafka does not answer.
    """
    should_follow = parquet is None if follow is None else follow
    begin = _begin(since, from_start=from_start, follows=should_follow)
    wanted = RecordFilter(type_ or (), customer or (), [str(name) for name in source or ()], account or ())
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    settings = log_or_exit("tap")
    start_logging(settings)
    try:
        with exits("tap"):
            output = _output(parquet)
            try:
                tail = LogTail(settings.kafka, settings.events_topic, begin=begin, group=group)
                try:
                    count = copy(
                        tail,
                        wanted,
                        output,
                        follow=should_follow,
                        limit=limit,
                        commits=group is not None,
                        stopped=stopped,
                    )
                finally:
                    tail.close()
            finally:
                output.close()
        if parquet is not None:
            note(f"{count} records written to {parquet}")
        elif not should_follow:
            note(f"{count} records")
    except BrokenPipeError:
        drop_output()  # the reader has closed the pipe


class JsonLines:
    """Writes JSON lines to stdout and flushes after each batch. A value that is not JSON is written under `text`."""

    def write(self, records: Sequence[Tapped]) -> None:
        write_lines([_line(record) for record in records])

    def close(self) -> None:
        return


def _line(record: Tapped) -> str:
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
    return to_json(line)


def _output(parquet: Path | None) -> Output:
    """Return the output. Raises InvalidSettings if the file cannot be written or pyarrow is not installed."""
    if parquet is None:
        return JsonLines()
    try:
        from ops.commands.tap_parquet import ParquetFile  # imported only with --parquet: pyarrow is optional
    except ImportError:
        raise InvalidSettings("--parquet needs pyarrow: pip install 'billing-stream[parquet]'") from None
    try:
        return ParquetFile(parquet)
    except OSError as error:
        raise InvalidSettings(f"--parquet: {parquet}: {error.strerror or error}") from None


def _begin(since: str | None, *, from_start: bool, follows: bool) -> Begin:
    """Return where to begin: what ends at the present end of the log would be empty if it began there, too."""
    if since is None:
        return FROM_NOW if follows and not from_start else FROM_START
    if from_start:
        refuse("tap", "use --from-start or --since, not both")
    try:
        return moment_of(since, datetime.now(UTC))
    except ValueError as error:
        refuse("tap", error)
