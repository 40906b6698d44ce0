"""`billing replay`: appends any stored event to the log again (behaviours.md D6). It looks in this order:

its dead letter ─▶ the payload in the ledger ─▶ the log itself ─▶ Stripe, which keeps events for 30 days
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from ops.commands.acting import entry_for
from ops.commands.replay_report import rate_of, replay_matching, say_rehearsal
from ops.commands.terminal import exits, refuse, run_or_exit, say, say_json, settings_or_exit
from ops.commands.times import moment_of
from ops.runtime.exit_codes import ExitCode
from ops.runtime.printable import error_line
from recovery.rehearsal.rehearse import Rehearsal, rehearse_entries
from recovery.replay.events import EventReplay, From, Replayed, failed_filter
from schemas.settings import load_config
from sinks.postgres.audited import recorded
from sinks.postgres.dead_letter_index import DeadLetterIndex
from streams.rules.catalog import RULES


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; print what would happen.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Append stored events to the log again, with their original key and source=replay.

    Example: billing replay evt_1NG8Du2eZvKYlo2CUI79vXWy
             billing replay --failed
             billing replay --since 7d --type invoice.paid --dry-run

    Settled events are skipped, because the ledger would drop them. Exits 1 if an event cannot be found, 2 if an option
    or a setting is invalid, 3 if Postgres or Kafka does not answer.
    """
    command = "replay"
    settings = settings_or_exit(command)
    chosen = bool(since or until or types)
    if [bool(ids), chosen, failed].count(True) != 1:
        refuse(command, "give either event ids, or --since/--until/--type, or --failed")
    if failed:
        wanted = failed_filter(datetime.now(UTC))
        replay_matching(command, settings, wanted, rate=rate, by=by, dry_run=dry_run, as_json=as_json)
        return
    pace = rate_of(command, rate)
    try:
        now = datetime.now(UTC)
        window = (moment_of(since, now) if since else None, moment_of(until, now) if until else None)
    except ValueError as problem:
        refuse(command, problem)

    rehearsal = None
    chosen_by = {"ids": ids, "since": since, "until": until, "types": types, "from": source, "account": account}
    entry = entry_for(command, by, target=ids[0] if ids and len(ids) == 1 else "", filter=chosen_by)

    async def go() -> Replayed:
        async with DeadLetterIndex.open(settings.database_url) as letters:
            names = list(dict.fromkeys(ids or ()))
            if not names:
                events = await letters.unsettled_events(
                    since=window[0], until=window[1], types=types or (), limit=limit
                )
                names = [event.event_id for event in events]
            work = EventReplay(settings, letters, source, account, entry.who)
            if dry_run or not names:
                return await work.run(names, pace, dry_run)
            async with recorded(settings.database_url, entry) as noted:
                report = await work.run(names, pace, dry_run)
                noted.count = len(report.replayed)
            return report

    report = run_or_exit(command, go)
    if dry_run:
        with exits(command):
            config = load_config(settings.config_path)
        rehearsal = run_or_exit(command, lambda: rehearse_entries(settings, config, RULES, report.entries))
    _say(report, rehearsal, as_json)
    if report.missing:
        raise typer.Exit(ExitCode.NO)


def _say(report: Replayed, rehearsal: Rehearsal | None, as_json: bool) -> None:
    dry_run = rehearsal is not None
    if as_json:
        shown = {"replayed": report.replayed, "settled": report.settled, "missing": report.missing, "dry_run": dry_run}
        say_json(shown | ({"rehearsal": asdict(rehearsal)} if rehearsal is not None else {}))
        return
    for name, where in report.replayed.items():
        say(f"{name}: {'would be ' if dry_run else ''}replayed from its {where}")
    for name, outcome in report.settled.items():
        say(f"{name}: skipped, the ledger has it as {outcome}")
    for name, reason in report.missing.items():
        error_line("replay", f"{name}: {reason}")
    if not (report.replayed or report.settled or report.missing):
        say("nothing to replay")
    if rehearsal is not None:
        say_rehearsal(rehearsal)
