"""`billing dead ls|show|replay|discard`: events that could not be applied, and their repair (behaviours.md D4, D6)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from eventlog.entry import headers_of
from eventlog.lookup import RecordLookup
from ops.commands.acting import entry_for
from ops.commands.replay_report import refuse_unknown, replay_matching, say_by, say_counts, with_letters
from ops.commands.terminal import (
    Column,
    database_or_exit,
    fail,
    refuse,
    run_or_exit,
    say,
    say_cut,
    say_json,
    settings_or_exit,
    show_rows,
)
from ops.commands.times import minute_text, moment_of, second_text
from ops.runtime.printable import to_json
from recovery.rehearsal.shapes import differences
from recovery.replay.letters import read_letter
from schemas.command_line import command as suggested
from schemas.database_settings import DatabaseSettings
from schemas.record import decode_headers
from sinks.postgres.dead_letter_index import DeadLetterIndex, IndexedLetter, LetterFilter
from sinks.postgres.lists.dead import groups as groups_of
from sinks.postgres.lists.samples import newest_applied
from sinks.postgres.pool import reading

app = typer.Typer(help="List, show, replay or discard dead letters.", no_args_is_help=True)


class LetterStatus(StrEnum):
    """Statuses of a dead letter. Operators replay or discard it; the worker sets `resolved` once its event settles."""

    OPEN = "open"
    REPLAYED = "replayed"
    RESOLVED = "resolved"
    DISCARDED = "discarded"


Ids = Annotated[
    list[str] | None, typer.Option("--id", help="Event id, or position of a letter (TOPIC/0/17). Repeatable.")
]
Types = Annotated[list[str] | None, typer.Option("--type", help="Only events of this type. Repeatable.")]
Customer = Annotated[str | None, typer.Option(help="Only events of this customer (cus_…).")]
Error = Annotated[str | None, typer.Option(help="Only this error class, or messages that contain this text.")]
Frame = Annotated[str | None, typer.Option(help="Only errors raised in this frame (see --groups); - is none.")]
Stream = Annotated[str | None, typer.Option(help="Only events of this stream.")]
Since = Annotated[
    str | None, typer.Option(help="Last failure at or after: 24h (ago), 7d (ago), or 2026-03-01T12:00 (UTC).")
]
Until = Annotated[str | None, typer.Option(help="Last failure before; same format as --since.")]
Limit = Annotated[int, typer.Option(min=1, max=1_000_000, help="At most this many.")]
By = Annotated[str | None, typer.Option(help="Your name, for the record. Default: the system user.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; print how many would be affected, by error.")]


@app.command("ls")
def ls(
    ids: Ids = None,
    types: Types = None,
    customer: Customer = None,
    error: Error = None,
    frame: Frame = None,
    stream: Stream = None,
    since: Since = None,
    until: Until = None,
    status: Annotated[
        list[LetterStatus] | None, typer.Option(help="Only letters with this status. Default: open. Repeatable.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Letters with any status.")] = False,
    limit: Limit = 100,
    summary: Annotated[
        bool, typer.Option("--summary", help="Only count all matching letters by error, type and stream.")
    ] = False,
    groups: Annotated[
        bool, typer.Option("--groups", help="Only the groups of one cause, of the 10,000 latest letters of a status.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List dead letters, the latest first. By default only open ones.

    Example: billing dead ls --type invoice.paid --since 24h --json
             billing dead ls --groups
             billing dead ls --summary
    """
    command = "dead ls"
    statuses = () if every else tuple(status or (LetterStatus.OPEN,))
    settings = database_or_exit(command)
    wanted = _filter(command, settings, ids, types, customer, error, frame, stream, since, until, statuses, limit)
    if groups:
        _show_groups(settings, (statuses or (LetterStatus.OPEN,))[0], as_json=as_json)
        return
    if summary:
        _show_summary(with_letters(command, settings, lambda index: index.summary(wanted)), as_json=as_json)
        return

    async def work(index: DeadLetterIndex) -> tuple[list[IndexedLetter], int]:
        letters = await index.find(wanted, newest_first=True)
        return letters, len(letters) if len(letters) < limit else await index.count(wanted)

    letters, total = with_letters(command, settings, work)
    if as_json:
        for letter in letters:
            say_json(asdict(letter) | {"dead_topic": settings.dead_topic})
    elif letters:
        show_rows(
            (
                Column("event"),
                Column("type"),
                Column("customer"),
                Column("status"),
                Column("error"),
                Column("last failed", whole=True),
                Column("position"),
            ),
            [
                (
                    letter.event_id,
                    letter.type,
                    letter.customer_id,
                    letter.status,
                    f"{letter.error_class}: {letter.message}",
                    second_text(letter.last_failed_at),
                    f"{settings.dead_topic}/{letter.dead_partition}/{letter.dead_offset}",
                )
                for letter in letters
            ],
        )
    else:
        say("no dead letters")
    say_cut(len(letters), total, as_json=as_json)


def _show_groups(settings: DatabaseSettings, status: str, *, as_json: bool) -> None:
    """Print one line per cause: the error without ids and numbers, how many, since when, and a letter of it."""

    async def ask() -> list[dict[str, Any]]:
        async with reading(settings.database_url) as connection:
            return await groups_of(connection, status)

    found = run_or_exit("dead ls", ask)
    if as_json:
        for group in found:
            say_json({name: value for name, value in group.items() if name != "ages"})
        return
    if not found:
        say("no dead letters")
        return
    show_rows(
        (
            Column("letters", right=True),
            Column("customers", right=True),
            Column("error"),
            Column("first", whole=True),
            Column("last", whole=True),
            Column("sample"),
        ),
        [
            (
                group["letters"],
                group["customers"],
                f"{group['error_class']} in {group['stage']}: {group['cause']}"
                + (f" ({group['top_frame']})" if group["top_frame"] else ""),
                minute_text(group["first_failed_at"]),
                minute_text(group["last_failed_at"]),
                group["sample"],
            )
            for group in found
        ],
    )


def _show_summary(found: dict[str, dict[str, int]], *, as_json: bool) -> None:
    total = sum(found["by_type"].values())
    if as_json:
        say_json({"total": total, **found})
        return
    say(f"{total} dead letters")
    for name, counts in found.items():
        if counts:
            say(name.replace("_", " "))
            say_by(counts)


@app.command("show")
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Event id, or position of the letter (TOPIC/0/17).")],
    as_json: Json = False,
) -> None:
    """Show the dead letters of an event in full: reason, traceback, headers and value.

    It also names the fields whose structure differs from the newest applied event of the same type and API version.

    Example: billing dead show evt_1NG8Du2eZvKYlo2CUI79vXWy

    Exits 1 if the event has no dead letter.
    """
    command = "dead show"
    settings = settings_or_exit(command)
    wanted = _filter(command, settings, [letter_id], None, None, None, None, None, None, None, (), 100)

    async def look(index: DeadLetterIndex) -> list[dict[str, Any]]:
        with RecordLookup(settings.kafka, settings.dead_topic) as topic:
            return [_whole(letter, topic) for letter in await index.find(wanted, newest_first=True)]

    found = with_letters(command, settings, look)
    if not found:
        fail(command, f"there is no dead letter of {letter_id}")
    beside = run_or_exit(command, lambda: _beside(settings, found[0]))
    if as_json:
        say_json([{**one, **(beside if at == 0 else {})} for at, one in enumerate(found)])
        return
    for one in found:
        for name, value in one.items():
            if value not in (None, "", {}):
                first, *more = (to_json(value) if isinstance(value, dict) else str(value)).splitlines()
                say(f"{name}: {first}")
                for line in more:
                    say(f"    {line}")  # indented, so that a stored text cannot look like another field
        say()
    _say_beside(beside)
    say(f"After fixing the cause: {suggested('dead replay', id=letter_id)}")


async def _beside(settings: DatabaseSettings, letter: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the letter's event with the newest applied one of its type: `good_event` and `differences`."""
    try:
        dead = json.loads(letter.get("value") or "null")
    except ValueError:
        return {"good_event": None, "differences": []}
    if not isinstance(dead, dict) or not letter["type"]:
        return {"good_event": None, "differences": []}
    version = dead.get("api_version")
    async with reading(settings.database_url) as connection:
        good = await newest_applied(connection, letter["type"], version if isinstance(version, str) else None)
    if good is None:
        return {"good_event": None, "differences": []}
    found = differences(dead, good["payload"])
    return {"good_event": good["event_id"], "differences": [asdict(one) for one in found]}


def _say_beside(beside: Mapping[str, Any]) -> None:
    if beside["good_event"] is None:
        return
    if not beside["differences"]:
        say(f"It has the structure of {beside['good_event']}, the newest applied event of its type.")
        return
    say(f"Beside {beside['good_event']}, the newest applied event of its type:")
    columns = [Column("field"), Column("here"), Column("there")]
    show_rows(columns, [(one["path"], one["dead"], one["good"]) for one in beside["differences"]])


@app.command("replay")
def replay(
    ids: Ids = None,
    types: Types = None,
    customer: Customer = None,
    error: Error = None,
    frame: Frame = None,
    stream: Stream = None,
    since: Since = None,
    until: Until = None,
    again: Annotated[bool, typer.Option("--again", help="Include letters that were replayed or discarded.")] = False,
    rate: Annotated[str | None, typer.Option(help="At most this many per second, e.g. 20/s.")] = None,
    limit: Limit = 1000,
    by: By = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Append dead events to the log again with their original key, bytes and headers, in the original order.

    Example: billing dead replay --error RuleViolated --since 24h --rate 50/s

    If it is interrupted, run it again: it continues where it stopped. When an event then settles, the worker marks its
    letter `resolved`. If it dies again, the new letter refers to the old one. Exits 1 if a letter is neither on the
    topic nor in the ledger any more, or if a given id has no dead letter.
    """
    command = "dead replay"
    settings = settings_or_exit(command)
    statuses = (LetterStatus.OPEN, LetterStatus.REPLAYED, LetterStatus.DISCARDED) if again else (LetterStatus.OPEN,)
    wanted = _filter(command, settings, ids, types, customer, error, frame, stream, since, until, statuses, limit)
    replay_matching(command, settings, wanted, rate=rate, by=by, dry_run=dry_run, as_json=as_json)


@app.command("discard")
def discard(
    ids: Ids = None,
    types: Types = None,
    customer: Customer = None,
    error: Error = None,
    frame: Frame = None,
    stream: Stream = None,
    since: Since = None,
    until: Until = None,
    every: Annotated[bool, typer.Option("--all", help="All open letters, up to --limit.")] = False,
    limit: Limit = 1000,
    by: By = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Close open letters without replaying them. Their records stay on the topic until retention removes them.

    Example: billing dead discard --id evt_1NG8Du2eZvKYlo2CUI79vXWy --by jane
    """
    command = "dead discard"
    settings = database_or_exit(command)
    wanted = _filter(
        command, settings, ids, types, customer, error, frame, stream, since, until, (LetterStatus.OPEN,), limit
    )
    if (wanted == LetterFilter(statuses=wanted.statuses, limit=limit)) != every:
        refuse(command, "select letters, or use --all")
    refuse_unknown(command, settings, wanted)
    if dry_run:
        say_counts(command, settings, wanted, "would be discarded", as_json=as_json)
        return

    entry = entry_for(command, by, filter=asdict(wanted))

    async def close(index: DeadLetterIndex) -> int:
        return await index.discard(wanted, entry.who, entry)

    done = with_letters(command, settings, close)
    if as_json:
        say_json({"discarded": done})
    else:
        say(f"{done} discarded")


def _whole(letter: IndexedLetter, topic: RecordLookup) -> dict[str, Any]:
    found = asdict(letter) | {"dead_topic": topic.topic}
    message = read_letter(topic, letter)
    if message is None:
        return found | {"in_topic": False}
    headers = decode_headers(headers_of(message))
    traceback = headers.pop("dead_traceback", "")
    key, value = message.key(), message.value()
    return found | {
        "in_topic": True,
        "key": None if key is None else key.decode("utf-8", "replace"),
        "headers": headers,
        "traceback": traceback,
        "value": None if value is None else value.decode("utf-8", "replace"),
    }


def _filter(
    command: str,
    settings: DatabaseSettings,
    ids: list[str] | None,
    types: list[str] | None,
    customer: str | None,
    error: str | None,
    frame: str | None,
    stream: str | None,
    since: str | None,
    until: str | None,
    statuses: tuple[str, ...],
    limit: int,
) -> LetterFilter:
    now = datetime.now(UTC)
    place = re.compile(rf"{re.escape(settings.dead_topic)}/(\d{{1,9}})/(\d{{1,18}})")
    places = [(int(found[1]), int(found[2])) for name in ids or () if (found := place.fullmatch(name))]
    try:
        return LetterFilter(
            ids=tuple(name for name in ids or () if not place.fullmatch(name)),
            places=tuple(places),
            types=tuple(types or ()),
            customer=customer,
            error=error,
            frame=frame,
            stream=stream,
            since=moment_of(since, now) if since else None,
            until=moment_of(until, now) if until else None,
            statuses=statuses,
            limit=limit,
        )
    except ValueError as problem:
        refuse(command, problem)
