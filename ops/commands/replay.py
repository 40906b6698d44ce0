"""`billing replay`: appends any stored event to the log again (behaviours.md D6). It looks in this order:

its dead letter ─▶ the payload in the ledger ─▶ the log itself ─▶ Stripe, which keeps events for 30 days
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

import orjson
import typer

from ops.commands.dead import EXIT_INCOMPLETE, EXIT_UNAVAILABLE
from ops.commands.replay_report import rate_of, replay_matching
from ops.commands.terminal import EXIT_INVALID_SETTINGS, printable
from ops.commands.times import moment_of
from ops.runtime.operator import operator
from recovery.replay.events import EventReplay, From, Replayed, failed_filter
from schemas.errors import BillingError
from schemas.settings import InvalidSettings, Settings, load_settings
from sinks.postgres.dead_letter_index import DeadLetterIndex


def replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]…", help="Event ids (evt_…).")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Waiting or dead events received at or after: 24h (ago), 7d (ago), 2026-03-01T12:00 (UTC)."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Waiting or dead events received before; same format as --since.")
    ] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Waiting or dead events of this type. Repeatable.")
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Events that first failed within the last 24 hours, at most 100.")
    ] = False,
    source: Annotated[From, typer.Option("--from", help="Look for the event only there.")] = From.AUTO,
    account: Annotated[str, typer.Option(help="Connected account of the event, for the search at Stripe.")] = "",
    rate: Annotated[str | None, typer.Option(help="At most this many per second, e.g. 20/s.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="With --since, --until or --type: at most this many.")
    ] = 1000,
    by: Annotated[str | None, typer.Option(help="Your name, for the record. Default: the system user.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; print what would be replayed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Append stored events to the log again, with their original key and source=replay.

    Example: billing replay evt_1NG8Du2eZvKYlo2CUI79vXWy
             billing replay --failed
             billing replay --since 7d --type invoice.paid --dry-run

    Settled events are skipped, because the ledger would drop them. Exits 1 if an event cannot be found, 2 if an option
    or a setting is invalid, 3 if Postgres or Kafka does not answer.
    """
    settings = _settings()
    chosen = bool(since or until or types)
    if [bool(ids), chosen, failed].count(True) != 1:
        _refuse("give either event ids, or --since/--until/--type, or --failed")
    if failed:
        wanted = failed_filter(datetime.now(UTC))
        replay_matching(settings, wanted, rate=rate, by=by, dry_run=dry_run, as_json=as_json)
        return
    pace = rate_of(rate)
    try:
        now = datetime.now(UTC)
        window = (moment_of(since, now) if since else None, moment_of(until, now) if until else None)
    except ValueError as problem:
        _refuse(str(problem))

    async def go() -> Replayed:
        async with DeadLetterIndex.open(settings.database_url) as letters:
            names = list(dict.fromkeys(ids or ()))
            if not names:
                events = await letters.unsettled_events(
                    since=window[0], until=window[1], types=types or (), limit=limit
                )
                names = [event.event_id for event in events]
            return await EventReplay(settings, letters, source, account, by or operator()).run(names, pace, dry_run)

    try:
        report = asyncio.run(go())
    except InvalidSettings as error:
        _refuse(str(error))
    except BillingError as error:
        typer.echo(f"billing replay: {error}", err=True)
        raise typer.Exit(EXIT_UNAVAILABLE) from None
    _say(report, dry_run, as_json)
    if report.missing:
        raise typer.Exit(EXIT_INCOMPLETE)


def _say(report: Replayed, dry_run: bool, as_json: bool) -> None:
    if as_json:
        result: dict[str, Any] = asdict(report) | {"dry_run": dry_run}
        typer.echo(orjson.dumps(result).decode())
        return
    for name, where in report.replayed.items():
        typer.echo(f"{printable(name)}: {'would be ' if dry_run else ''}replayed from its {where}")
    for name, outcome in report.settled.items():
        typer.echo(f"{printable(name)}: skipped, the ledger has it as {outcome}")
    for name, reason in report.missing.items():
        typer.echo(f"{printable(name)}: {printable(reason)}", err=True)
    if not (report.replayed or report.settled or report.missing):
        typer.echo("nothing to replay")


def _settings() -> Settings:
    try:
        return load_settings()
    except InvalidSettings as error:
        _refuse(str(error))


def _refuse(reason: str) -> NoReturn:
    typer.echo(f"billing replay: {reason}", err=True)
    raise typer.Exit(EXIT_INVALID_SETTINGS) from None
