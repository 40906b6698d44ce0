"""Runs a replay of dead letters and prints its report, for `billing dead replay` and `billing replay --failed`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import TypeVar

import typer

from ops.commands.acting import entry_for
from ops.commands.terminal import exits, fail, note, progress, refuse, run_or_exit, say, say_json
from ops.runtime.exit_codes import ExitCode
from recovery.rehearsal.rehearse import Rehearsal, rehearse_letters
from recovery.replay.letters import ReplayReport, replay_letters
from schemas.database_settings import DatabaseSettings
from schemas.rate import RateLimit
from schemas.settings import Settings, load_config
from sinks.postgres.audited import recorded
from sinks.postgres.dead_letter_index import DeadLetterIndex, LetterFilter
from streams.rules.catalog import RULES

T = TypeVar("T")

MOST_LETTERS = 1_000_000
_SHOWN_ERRORS = 20
_AGAIN = {"dead": "dead again"}
_RATE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(?:/s)?")


def replay_matching(
    command: str,
    settings: Settings,
    wanted: LetterFilter,
    *,
    rate: str | None,
    by: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Replay the letters that match the filter and print the report. Exits as `billing dead replay` does."""
    pace = rate_of(command, rate)
    refuse_unknown(command, settings, wanted)
    if dry_run:
        _say_dry_run(command, settings, wanted, as_json=as_json)
        return

    entry = entry_for(command, by, filter=asdict(wanted) | {"rate": rate})

    async def work(index: DeadLetterIndex) -> ReplayReport:
        letters = await index.find(wanted)
        done = 0
        with progress("replaying", is_shown=not as_json) as bar:

            def advance(more: int) -> None:
                nonlocal done
                done += more
                bar(done, len(letters))

            if not letters:
                return ReplayReport()
            async with recorded(settings.database_url, entry) as noted:
                report = await replay_letters(settings, index, letters, pace, entry.who, advance)
                noted.count = report.replayed
            return report

    report = with_letters(command, settings, work)
    if as_json:
        say_json(asdict(report))
    else:
        _say(report)
    if report.gone:
        raise typer.Exit(ExitCode.NO)


def refuse_unknown(command: str, settings: DatabaseSettings, wanted: LetterFilter) -> None:
    """Exit 1 if an id that the operator gave has no dead letter at all: it is probably mistyped."""
    if not (wanted.ids or wanted.places):
        return
    every = LetterFilter(ids=wanted.ids, places=wanted.places, limit=MOST_LETTERS)
    found = with_letters(command, settings, lambda index: index.find(every))
    known = {letter.event_id for letter in found} | {letter.dead_place for letter in found}
    unknown = [name for name in wanted.ids if name not in known]
    unknown += [f"{settings.dead_topic}/{at}/{offset}" for at, offset in wanted.places if (at, offset) not in known]
    if unknown:
        fail(command, f"there is no dead letter of {', '.join(unknown)}")


def _say(report: ReplayReport) -> None:
    say(f"{report.replayed} replayed" if report.replayed else "nothing to replay")
    if report.settled:
        say(f"{report.settled} were already settled: their letters are closed")
    if report.resumed:
        note(
            f"an earlier replay was interrupted: the log may have {report.resumed} of these events twice; "
            "the ledger drops the second record once the first is applied"
        )
    for event_id in report.from_ledger:
        note(f"{event_id}: its letter is gone; replayed from the ledger, with the same JSON but not the same bytes")
    for name in report.gone:
        note(f"{name}: neither the topic nor the ledger has it any more; try billing replay --from stripe ID")


def _say_dry_run(command: str, settings: Settings, wanted: LetterFilter, *, as_json: bool) -> None:
    """Print how many letters match, and what the rules of this version would do with their events."""
    with exits(command):
        config = load_config(settings.config_path)

    async def work(index: DeadLetterIndex) -> tuple[dict[str, int], int, Rehearsal]:
        letters = await index.find(wanted)
        rehearsal = await rehearse_letters(settings, config, RULES, index, letters)
        return await index.counts(wanted), await index.count(wanted), rehearsal

    counts, matching, rehearsal = with_letters(command, settings, work)
    total = sum(counts.values())
    if as_json:
        say_json({"total": total, "matching": matching, "by_error": counts, "rehearsal": asdict(rehearsal)})
        return
    say(f"{total} would be replayed" if total == matching else f"{total} of {matching} would be replayed")
    say_by(counts)
    say_rehearsal(rehearsal)


def say_rehearsal(rehearsal: Rehearsal) -> None:
    """Print what a rehearsed replay would do."""
    if rehearsal.outcomes:
        say("With the rules of this version and the rows as they are now:")
        say("  " + ", ".join(f"{count} {_AGAIN.get(name, name)}" for name, count in rehearsal.outcomes.items()))
    if rehearsal.reasons:
        say_by(rehearsal.reasons)
    if rehearsal.tables:
        say("  rows changed: " + ", ".join(f"{count} in {name}" for name, count in rehearsal.tables.items()))
    if rehearsal.mails:
        count = sum(rehearsal.mails.values())
        say(f"  mails: {count} to {rehearsal.people} people, if they are still true when they leave")
        say_by(rehearsal.mails)
    for count, what in ((rehearsal.calls, "calls to Stripe"), (rehearsal.exports, "exports")):
        if count:
            say(f"  {what}: {count}")
    if rehearsal.settled:
        say(f"  {rehearsal.settled} are settled already: only their letters would be closed")
    if rehearsal.gone:
        say(f"  {len(rehearsal.gone)} are neither on the topic nor in the ledger any more")
    if rehearsal.left_out:
        say(f"  {rehearsal.left_out} more were not rehearsed")


def say_counts(command: str, settings: DatabaseSettings, wanted: LetterFilter, what: str, *, as_json: bool) -> None:
    """Print how many letters match, by error, and how many more there are above the limit."""

    async def work(index: DeadLetterIndex) -> tuple[dict[str, int], int]:
        return await index.counts(wanted), await index.count(wanted)

    counts, matching = with_letters(command, settings, work)
    total = sum(counts.values())
    if as_json:
        say_json({"total": total, "matching": matching, "by_error": counts})
        return
    say(f"{total} {what}" if total == matching else f"{total} of {matching} {what}")
    say_by(counts)


def say_by(counts: Mapping[str, int]) -> None:
    """Print the most frequent values with their counts."""
    for number, (name, count) in enumerate(counts.items()):
        if number == _SHOWN_ERRORS:
            say(f"  … and {len(counts) - number} others")
            break
        say(f"  {count:>6}  {name}")


def rate_of(command: str, given: str | None) -> RateLimit:
    """Parse a rate, `20/s` or `20`. Exits 2 for anything else."""
    if given is None:
        return RateLimit(None)
    found = _RATE.fullmatch(given)
    if found is None or float(found[1]) <= 0:
        refuse(command, f"--rate {given!r:.20}: expected a number per second, e.g. 20/s")
    return RateLimit(float(found[1]))


def with_letters(command: str, settings: DatabaseSettings, work: Callable[[DeadLetterIndex], Awaitable[T]]) -> T:
    async def go() -> T:
        async with DeadLetterIndex.open(settings.database_url) as index:
            return await work(index)

    return run_or_exit(command, go)
