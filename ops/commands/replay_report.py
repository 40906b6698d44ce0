"""Runs a replay of dead letters and prints its report, for `billing dead replay` and `billing replay --failed`."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TypeVar

import orjson
import typer
from rich.console import Console
from rich.progress import Progress

from ops.commands.terminal import EXIT_INVALID_SETTINGS, printable
from ops.runtime.operator import operator
from recovery.replay.letters import Rate, ReplayReport, replay_letters
from schemas.errors import BillingError
from schemas.settings import InvalidSettings, Settings
from sinks.postgres.dead_letter_index import DeadLetterIndex, LetterFilter

T = TypeVar("T")

EXIT_INCOMPLETE = 1
EXIT_UNAVAILABLE = 3
_SHOWN_ERRORS = 20
_RATE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(?:/s)?")


def replay_matching(
    settings: Settings, wanted: LetterFilter, *, rate: str | None, by: str | None, dry_run: bool, as_json: bool
) -> None:
    """Replay the letters that match the filter and print the report. Exits as `billing dead replay` does."""
    pace = rate_of(rate)
    if dry_run:
        _say_counts("would be replayed", _with_letters(settings, lambda index: index.counts(wanted)), as_json)
        return

    async def work(index: DeadLetterIndex) -> ReplayReport:
        letters = await index.find(wanted)
        is_shown = sys.stderr.isatty() and not as_json
        with Progress(console=Console(stderr=True), disable=not is_shown, transient=True) as bar:
            task = bar.add_task("replaying", total=len(letters))
            return await replay_letters(
                settings, index, letters, pace, by or operator(), lambda n: bar.advance(task, n)
            )

    report = _with_letters(settings, work)
    if as_json:
        typer.echo(orjson.dumps(asdict(report)).decode())
    else:
        _say(report)
    if report.gone:
        raise typer.Exit(EXIT_INCOMPLETE)


def _say(report: ReplayReport) -> None:
    typer.echo(f"{report.replayed} replayed" if report.replayed else "nothing to replay")
    if report.settled:
        typer.echo(f"{report.settled} were already settled: their letters are closed")
    if report.resumed:
        typer.echo(
            f"an earlier replay was interrupted: the log may have {report.resumed} of these events twice; "
            "the ledger drops the second record once the first is applied",
            err=True,
        )
    for event_id in report.from_ledger:
        typer.echo(
            f"{event_id}: its letter is gone; replayed from the ledger, with the same JSON but not the same bytes",
            err=True,
        )
    for name in report.gone:
        typer.echo(
            f"{printable(name)}: neither the topic nor the ledger has it any more; try billing replay --from stripe ID",
            err=True,
        )


def _say_counts(what: str, counts: dict[str, int], as_json: bool) -> None:
    total = sum(counts.values())
    if as_json:
        typer.echo(orjson.dumps({"total": total, "by_error": counts}).decode())
        return
    typer.echo(f"{total} {what}")
    for number, (error, count) in enumerate(counts.items()):
        if number == _SHOWN_ERRORS:
            typer.echo(f"  … and {len(counts) - number} other errors")
            break
        typer.echo(f"  {count:>6}  {printable(error)}")


def rate_of(given: str | None) -> Rate:
    """Parse a rate, `20/s` or `20`. Exits 2 for anything else."""
    if given is None:
        return Rate(None)
    found = _RATE.fullmatch(given)
    if found is None or float(found[1]) <= 0:
        typer.echo(f"billing dead: --rate {given!r:.20}: expected a number per second, e.g. 20/s", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS)
    return Rate(float(found[1]))


def _with_letters(settings: Settings, work: Callable[[DeadLetterIndex], Awaitable[T]]) -> T:
    async def go() -> T:
        async with DeadLetterIndex.open(settings.database_url) as index:
            return await work(index)

    try:
        return asyncio.run(go())
    except InvalidSettings as error:
        typer.echo(f"billing dead: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    except BillingError as error:
        typer.echo(f"billing dead: {error}", err=True)
        raise typer.Exit(EXIT_UNAVAILABLE) from None
