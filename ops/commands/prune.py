"""`billing prune`: ends old payloads and contents, closed letters and old runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ops.commands.acting import entry_for
from ops.commands.terminal import (
    Column,
    exits,
    progress,
    refuse,
    run_or_exit,
    say,
    say_json,
    settings_or_exit,
    show_rows,
)
from ops.commands.times import moment_of
from recovery.pruning import run
from schemas.settings import load_config
from sinks.payloads.archive import PayloadArchive

_COMMAND = "prune"


def prune(
    older_than: Annotated[
        str | None, typer.Option(help="Age of the contents that end: 90d, 24h. Default: retention.contents_days.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Your name, for the audit log. Default: the system user.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; count what is due.")] = False,
    without_archive: Annotated[
        bool, typer.Option("--without-archive", help="End payloads for good, also where others are archived.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """End what only grows: payloads of settled events, contents of settled mails, timers and calls, closed letters.

    Example: billing prune --dry-run
             billing prune --older-than 400d

    Ledger rows, amounts, statuses and keys stay, so nothing happens twice. With BILLING_PAYLOADS_URL, payloads are put
    into files there first, from where `billing event` and `billing replay` read them. Otherwise a pruned event cannot
    be replayed from the ledger; where others are archived, that needs --without-archive. Works in batches while
    everything runs; if it is interrupted, the next run continues.
    The scheduler runs it daily (BILLING_PRUNE_EVERY_S).

    Exits 2 if an argument or setting is invalid, 3 if Postgres or the store of the files does not answer.
    """
    settings = settings_or_exit(_COMMAND)
    with exits(_COMMAND):
        config = load_config(settings.config_path)
        archive = None if without_archive else PayloadArchive(settings.payloads_url)
    age = _age(older_than) if older_than is not None else None

    async def work() -> dict[str, int]:
        with progress("rows", is_shown=not dry_run and not as_json) as bar:
            return await run(
                settings.database_url,
                config.retention,
                by=entry_for("prune", by).who,
                older_than=age,
                dry_run=dry_run,
                say=bar,
                archive=archive,
                may_end_for_good=without_archive,
            )

    done = run_or_exit(_COMMAND, work)
    if as_json:
        say_json({"dry_run": dry_run, "rows": done})
        return
    show_rows([Column("what"), Column("rows", right=True)], list(done.items()))
    say(f"{sum(done.values())} rows {'are due' if dry_run else 'pruned'}")


def _age(text: str) -> timedelta:
    now = datetime.now(UTC)
    try:
        age = now - moment_of(text, now)
    except ValueError as problem:
        refuse(_COMMAND, problem)
    if age <= timedelta(0):
        refuse(_COMMAND, "--older-than: give an age, such as 90d")
    return age
