"""`billing erase`: erases the personal data of a customer, a user or a guest at their request (behaviours.md B6)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

import typer

from eventlog.append import EventAppender
from eventlog.retention import kafka_keeps
from ops.commands.acting import entry_for
from ops.commands.person import BOUNDS, WHO_HELP, Account, By, Json, Reason, show_counts
from ops.commands.terminal import exits, fail, note, refuse, run_or_exit, say, say_json, settings_or_exit
from recovery.privacy.erasing import Eraser, Erasure
from recovery.privacy.subjects import Subjects, find_subjects
from schemas.settings import Settings, load_config
from schemas.timing import utc_now
from sinks.postgres.pool import connect

_COMMAND = "erase"
_WAIT_S = 60.0


def erase(
    who: Annotated[str | None, typer.Argument(help=WHO_HELP)] = None,
    reason: Reason = None,
    account: Account = None,
    every: Annotated[bool, typer.Option("--all", help="Allow it for several customers. See --dry-run first.")] = False,
    even_if_running: Annotated[
        bool, typer.Option("--even-if-running", help="Allow it for a customer whose subscription is running.")
    ] = False,
    repeat_guests: Annotated[
        bool,
        typer.Option(
            "--repeat-guests",
            help="Erase again the guests whose erasure a restored or rebuilt database lacks.",
        ),
    ] = False,
    by: By = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; print the rows per table.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the worker.")] = _WAIT_S,
    as_json: Json = False,
) -> None:
    """Erase personal data at the request of the person. Ids, amounts, times and statuses stay for bookkeeping.

    Example: billing erase jane@example.com --dry-run
             billing erase cus_QyT2 --reason "request 1042"
             billing erase --repeat-guests              (after a restore, once the workers have read the log)

    A customer is erased by the worker, in the order of their events; a guest at once. What is queued for them is not
    sent. Later events store no personal data, until they buy again. Who, why and how many rows is in billing.audit_log.

    Exits 1 if no one is found or a subscription is running, 2 if an argument or setting is invalid, 3 if Postgres or
    Kafka does not answer, or no worker applied it in time (it is applied once a worker runs).
    """
    if (who is None) is not repeat_guests:
        refuse(_COMMAND, "give a customer id, a user id or an address, or --repeat-guests")
    if reason is None and not dry_run and not repeat_guests:
        refuse(_COMMAND, "give a --reason for the audit log, or use --dry-run")
    if repeat_guests:
        given = {"--reason": reason is not None, "--all": every, "--even-if-running": even_if_running}
        useless = [name for name, is_given in (given | {"--wait": wait != _WAIT_S}).items() if is_given]
        if useless:
            refuse(
                _COMMAND,
                f"--repeat-guests repeats each erasure with its own reason, at once: omit {', '.join(useless)}",
            )
    settings = settings_or_exit(_COMMAND)
    with exits(_COMMAND):
        config = load_config(settings.config_path)

    async def work() -> tuple[Subjects, list[Erasure]]:
        connection = await connect(settings.database_url, application="billing-erase", bounds=BOUNDS)
        try:
            eraser = Eraser(connection, config.mode.livemode, utc_now, wait_s=wait)
            if who is None:
                eraser.events_kept = None if dry_run else await _kept(settings)
                return Subjects(), await eraser.repeat(by=entry_for("erase", by).who, account=account, is_dry=dry_run)
            subjects = await find_subjects(connection, who, account=account)
            if dry_run or subjects.is_empty:
                return subjects, await eraser.count(subjects)
            _check(subjects, every=every, even_if_running=even_if_running)
            return subjects, await _erase(settings, eraser, subjects, by, reason or "", even_if_running)
        finally:
            connection.terminate()

    subjects, done = run_or_exit(_COMMAND, work)
    if subjects.is_empty and not repeat_guests:
        fail(_COMMAND, "no customer and no guest is known by that; nothing was changed")
    _show(subjects, done, is_dry=dry_run, as_json=as_json)
    refused = [one for one in done if one.refused is not None]
    if refused:
        fail(_COMMAND, "; ".join(f"{one.name}: {one.refused}" for one in refused))


def _check(subjects: Subjects, *, every: bool, even_if_running: bool) -> None:
    names = [one.name for one in subjects.customers]
    if len(names) > 1 and not every:
        fail(_COMMAND, f"{len(names)} customers match: {', '.join(names)}. See --dry-run, then use --all")
    running = [id_ for one in subjects.customers for id_ in one.running]
    if running and not even_if_running:
        fail(_COMMAND, f"{', '.join(running)} is running: cancel it first, or use --even-if-running")


async def _erase(
    settings: Settings,
    eraser: Eraser,
    subjects: Subjects,
    by: str | None,
    reason: str,
    even_if_running: bool,
) -> list[Erasure]:
    if subjects.guests:
        eraser.events_kept = await _kept(settings)
    eraser.event_log = EventAppender(settings.kafka, settings.events_topic, client_id="billing-erase")
    try:
        return await eraser.erase(
            subjects, by=entry_for("erase", by).who, reason=reason, even_if_running=even_if_running
        )
    finally:
        await asyncio.to_thread(eraser.event_log.close)


async def _kept(settings: Settings) -> timedelta | None:
    return (await asyncio.to_thread(kafka_keeps, settings)).events


def _show(subjects: Subjects, done: Sequence[Erasure], *, is_dry: bool, as_json: bool) -> None:
    if as_json:
        rows = [{"who": one.name, "event": one.event_id, "rows": one.counts, "refused": one.refused} for one in done]
        say_json({"dry_run": is_dry, "erasures": rows})
        return
    if subjects.is_empty and not done:
        say("no erasure of a guest is to be repeated")
    for one in done:
        show_counts(one.name, one.counts)
        say(f"{one.total} rows {'would be' if is_dry else 'were'} erased")
    running = [id_ for one in subjects.customers for id_ in one.running]
    if is_dry and running:
        note(f"{', '.join(running)} is running: the erasure needs --even-if-running")
